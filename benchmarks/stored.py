"""Reads what a log holds, for benchmarks that give the same bytes to a peer."""

from collections.abc import Iterator
from pathlib import Path

from ledger.format import segment
from ledger.format.segment import Kind
from ledger.identity import partition_folder


def stored_receipts(data_dir: Path) -> Iterator[tuple[bytes, bytes]]:
    """Each receipt's leaf and the payload frame behind it, of the sealed segments in order."""
    for path in sorted(partition_folder(data_dir, 0).glob("*.seg")):
        data = path.read_bytes()
        for batch in segment.scan(data, sealed=True).batches:
            leaf, payload = b"", b""
            for kind, start, end in segment.frames(data, batch):
                if kind == Kind.RECEIPT:
                    if leaf:
                        yield leaf, payload
                    leaf, payload = data[start:end], b""
                elif kind == Kind.PAYLOAD:
                    payload = data[start:end]
            if leaf:
                yield leaf, payload
