"""What a log on the disk holds, of all its partitions."""

from collections.abc import Callable
from pathlib import Path

from ledger.format.receipt import Receipt
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE
from ledger.recovery import recover

OnKept = Callable[[int, int, Receipt], None]
"""`on_kept(partition, index, receipt)`, in the order of each partition's log."""


def read_receipts(data_dir: Path, on_kept: OnKept) -> None:
    """Call with every receipt. Reads the log as a start does, so nothing else may have it open."""
    root = data_dir / LEDGER_FOLDER
    origin = (root / ORIGIN_FILE).read_text(encoding="utf-8").strip()
    for folder in sorted(one for one in root.iterdir() if one.is_dir() and one.name.isdecimal()):
        partition = int(folder.name)

        def on_receipt(index: int, receipt: Receipt, partition: int = partition) -> None:
            on_kept(partition, index, receipt)

        recover(folder, f"{origin}/{partition}", on_receipt=on_receipt)
