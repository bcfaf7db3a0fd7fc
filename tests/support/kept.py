"""What a log on the disk holds, of all its partitions."""

from collections.abc import Callable
from pathlib import Path

from ledger.format.receipt import Receipt
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE
from ledger.recovery import recover


def read_receipts(data_dir: Path, on_receipt: Callable[[Receipt], None]) -> int:
    """Call with every receipt that is about a sender's signal, in the order of each partition's log; returns the number
    of all receipts. Reads the log as a start does, so nothing else may have it open.
    """
    root = data_dir / LEDGER_FOLDER
    origin = (root / ORIGIN_FILE).read_text(encoding="utf-8").strip()
    count = 0

    def look(_: int, receipt: Receipt) -> None:
        nonlocal count
        count += 1
        if receipt.source:
            on_receipt(receipt)

    for folder in sorted(one for one in root.iterdir() if one.is_dir() and one.name.isdecimal()):
        recover(folder, f"{origin}/{folder.name}", on_receipt=look)
    return count
