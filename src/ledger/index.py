"""Where everything is: receipts by index, and each tenant's chain. In memory, rebuilt from the log at every start.

Costs 12 bytes a receipt, 28 a batch and some 400 a tenant. Sidecar files beside the segments can take its place, since
callers see `place_of` and `chains` only.
"""

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ledger.errors import ReceiptNotFoundError


class Chain:
    """One tenant's receipts: how many, the leaf hash of the last (or genesis), and their indices in order."""

    __slots__ = ("head", "indices", "pseudonym")

    def __init__(self, pseudonym: str, head: bytes) -> None:
        self.pseudonym = pseudonym
        self.head = head
        self.indices = array("Q")


class BatchPlace(NamedTuple):
    """Where a batch's body stands: in which segment (a number of this index), from which byte, how long; and the CRC
    that its own continues.
    """

    segment: int
    body: int
    length: int
    seed: int


@dataclass(frozen=True, slots=True)
class ReceiptPlace:
    """A receipt: its batch, and where in the batch's body its frame begins."""

    index: int
    batch: BatchPlace
    offset: int


class SegmentKey(NamedTuple):
    """What a segment's name says, whether it is sealed or not."""

    first_index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment that no byte changes in any more. `count` is how many receipts it has, `bytes` how long it is."""

    key: SegmentKey
    path: Path
    sha256: bytes
    first_index: int
    count: int
    bytes: int

    @property
    def end(self) -> int:
        """The index after its last receipt."""
        return self.first_index + self.count


class LogIndex:
    """Positions of receipts and chains of tenants."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.segments: list[SegmentKey] = []
        self.offsets = array("I")
        """Of each receipt's frame in its batch's body; appended to as receipts come, before their batch is placed."""
        self._batch_first = array("Q")
        self._batch_segment = array("I")
        self._batch_body = array("I")
        self._batch_length = array("I")
        self._batch_seed = array("I")

    def add_batch(self, first_index: int, place: BatchPlace) -> None:
        """A batch with receipts is on the disk."""
        self._batch_first.append(first_index)
        self._batch_segment.append(place.segment)
        self._batch_body.append(place.body)
        self._batch_length.append(place.length)
        self._batch_seed.append(place.seed)

    def place_of(self, index: int, size: int) -> ReceiptPlace:
        """Where receipt `index` of the first `size` stands. Raises ReceiptNotFoundError."""
        if not 0 <= index < size:
            raise ReceiptNotFoundError(f"no receipt {index}: the log has {size}")
        at = bisect_right(self._batch_first, index) - 1
        batch = BatchPlace(self._batch_segment[at], self._batch_body[at], self._batch_length[at], self._batch_seed[at])
        return ReceiptPlace(index, batch, self.offsets[index])
