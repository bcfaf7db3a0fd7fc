"""What a data folder's logs are called, who signs them and how far they go: nothing of it verified."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.errors import HeadInvalidError, IdentityError, KeyInvalidError, NotALedgerError, SegmentCorruptError
from ledger.format import segment
from ledger.format.merkle import EMPTY_ROOT
from ledger.format.note import Signer, Verifier
from ledger.format.segment import Corrupt
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE, STORE_FOLDER
from ledger.index import SegmentKey
from ledger.layout import list_segments
from ledger.protocol.head import decode_head
from ledger.reader import read_segment
from ledger.signing import SIGNING_KEY_FILE

_HEAD: Final = "ctl/head"


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """`size` receipts on this disk have the root `root`. `vkey` is None where the log has not signed yet. `tiles` is
    the folder that holds `checkpoint` and `tile/`.
    """

    partition: int
    origin: str
    vkey: str | None
    size: int
    root: bytes
    tiles: Path


def describe(data_dir: Path, store: Path | None = None) -> list[PartitionInfo]:
    """Every partition's. `store`: the folder that the log is published in; None: the one in the data folder.

    Raises NotALedgerError, IdentityError, SegmentCorruptError, OSError.
    """
    folder = data_dir / LEDGER_FOLDER
    if not (folder / ORIGIN_FILE).exists():
        raise NotALedgerError(f"{data_dir} holds no ledger: name a data folder")
    name = (folder / ORIGIN_FILE).read_text(encoding="utf-8").strip()
    found = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())
    return [_describe(folder, name, partition, store or data_dir / STORE_FOLDER) for partition in found]


def _describe(folder: Path, name: str, partition: int, store: Path) -> PartitionInfo:
    origin, tiles = f"{name}/{partition}", store / str(partition)
    size, root = _end_of(folder / str(partition))
    return PartitionInfo(partition, origin, _vkey(folder, origin, tiles), size, root, tiles)


def _vkey(folder: Path, origin: str, tiles: Path) -> str | None:
    """By the signing key if it is here, else as the head in the store has it."""
    path = folder / SIGNING_KEY_FILE
    try:
        return Verifier(origin, Signer.parse(path.read_text().strip()).public_key).vkey
    except FileNotFoundError:
        pass
    except (UnicodeDecodeError, KeyInvalidError) as error:
        raise IdentityError(f"{path} does not hold a signing key") from error
    try:
        return decode_head((tiles / _HEAD).read_bytes()).vkey
    except (FileNotFoundError, HeadInvalidError):
        return None


def _end_of(folder: Path) -> tuple[int, bytes]:
    """Size and root after the last whole batch."""
    for name in reversed(list_segments(folder)):
        path, data = read_segment(folder, SegmentKey(name.first_index, name.epoch))
        scan = segment.scan(data, sealed=name.sealed and path.name == str(name))
        if isinstance(scan.verdict, Corrupt):
            raise SegmentCorruptError(path, scan.verdict.offset, name.first_index, scan.verdict.reason)
        if scan.batches:
            last = scan.batches[-1]
            return last.first_index + last.count, last.root
    return 0, EMPTY_ROOT
