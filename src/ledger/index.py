"""Where receipts stand, for one segment at a time, and what is known of each tenant's chain.

Only segments that are not in the archive yet (`ledger.archive`) have theirs in memory: 16 bytes a receipt, 28 a batch.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, overload

from ledger.layout import SegmentName

SHA256_BYTES: Final = 32
TAG_BYTES: Final = 8


def tag_of(pseudonym: str) -> bytes:
    """What stands for a tenant in the archive: half of its pseudonym, so that two of a billion tenants have the same
    in one log of forty.
    """
    return bytes.fromhex(pseudonym[: 2 * TAG_BYTES])


class Chain:
    """One tenant's receipts: how many there are, and the leaf hash of the last (or genesis)."""

    __slots__ = ("count", "head", "pseudonym", "tag")

    def __init__(self, pseudonym: str, head: bytes, count: int = 0) -> None:
        self.pseudonym = pseudonym
        self.head = head
        self.count = count
        self.tag = tag_of(pseudonym)


class SegmentKey(NamedTuple):
    """What a segment's name says, whether it is sealed or not."""

    first_index: int
    epoch: int


class BatchPlace(NamedTuple):
    """Where a batch's body stands: in which segment, from which byte, how long; and the CRC that its own continues."""

    key: SegmentKey
    body: int
    length: int
    seed: int


@dataclass(frozen=True, slots=True)
class ReceiptPlace:
    """A receipt: its batch, and where in the batch's body its frame begins."""

    index: int
    batch: BatchPlace
    offset: int


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment that no byte changes in any more. `count` is how many receipts it has, `bytes` how long it is."""

    folder: Path
    key: SegmentKey
    sha256: bytes
    count: int
    bytes: int

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / str(SegmentName(*self.key, sealed=True))

    @property
    def first_index(self) -> int:
        """The index of its first receipt, if it has one."""
        return self.key.first_index

    @property
    def end(self) -> int:
        """The index after its last receipt."""
        return self.key.first_index + self.count


class SealedSegments(Sequence[SealedSegment]):
    """The sealed segments of a log, in order. In columns, 60 bytes each: a log gets one with each commit, and has them
    for as long as it is kept. It grows at its end, also while other threads read it; a slice is a list.
    """

    def __init__(self, folder: Path, segments: Iterable[SealedSegment] = ()) -> None:
        """`folder` is where all of them are."""
        self._folder = folder
        self._first_index = array("Q")
        self._epoch = array("Q")
        self._count = array("I")
        self._sha256 = bytearray()
        self._bytes = array("Q")
        for one in segments:
            self.append(one)

    def append(self, one: SealedSegment) -> None:
        """The next one of the log."""
        self._first_index.append(one.key.first_index)
        self._epoch.append(one.key.epoch)
        self._count.append(one.count)
        self._sha256 += one.sha256
        self._bytes.append(one.bytes)  # last, for it is what tells readers how many there are

    def without_first(self, count: int) -> "SealedSegments":
        """The same without so many at the beginning; neither is changed by what is appended to the other."""
        rest = SealedSegments(self._folder)
        rest._first_index = self._first_index[count:]
        rest._epoch = self._epoch[count:]
        rest._count = self._count[count:]
        rest._sha256 = self._sha256[SHA256_BYTES * count :]
        rest._bytes = self._bytes[count:]
        return rest

    @property
    def first_indices(self) -> Sequence[int]:
        """Where each begins, ascending: the column itself, which grows."""
        return self._first_index

    def keys(self) -> Iterator[SegmentKey]:
        """Of each, in order."""
        return map(SegmentKey, self._first_index, self._epoch)

    def __len__(self) -> int:
        return len(self._bytes)

    @overload
    def __getitem__(self, at: int) -> SealedSegment: ...

    @overload
    def __getitem__(self, at: slice) -> list[SealedSegment]: ...

    def __getitem__(self, at: int | slice) -> SealedSegment | list[SealedSegment]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        position = range(len(self))[at]
        return SealedSegment(
            self._folder,
            SegmentKey(self._first_index[position], self._epoch[position]),
            bytes(self._sha256[SHA256_BYTES * position : SHA256_BYTES * (position + 1)]),
            self._count[position],
            self._bytes[position],
        )


class Batches:
    """Where the batches of a segment and the receipts in them stand; grows by whole batches."""

    def __init__(self, key: SegmentKey) -> None:
        self.key = key
        self.first = array("Q")
        """By batch: the index of its first receipt, …"""
        self.body = array("I")
        self.length = array("I")
        self.seed = array("I")
        """… and the rest of its place."""
        self.offsets = array("I")
        """By receipt: of its frame in its batch's body."""

    @property
    def end(self) -> int:
        """The index after the last receipt."""
        return self.key.first_index + len(self.offsets)

    def add(self, first_index: int, place: BatchPlace, offsets: Iterable[int]) -> None:
        """The next batch, with the offsets of its receipts: at least one."""
        self.body.append(place.body)
        self.length.append(place.length)
        self.seed.append(place.seed)
        self.offsets.extend(offsets)
        self.first.append(first_index)

    def place_of(self, index: int) -> ReceiptPlace:
        """Where one of its receipts stands."""
        at = bisect_right(self.first, index) - 1
        batch = BatchPlace(self.key, self.body[at], self.length[at], self.seed[at])
        return ReceiptPlace(index, batch, self.offsets[index - self.key.first_index])


class SegmentIndex:
    """One segment's receipts: where they stand and whose they are."""

    __slots__ = ("batches", "tenants")

    def __init__(self, key: SegmentKey) -> None:
        self.batches = Batches(key)
        self.tenants: list[Chain] = []
        """By receipt. The chain itself, because that costs nothing while a receipt is made."""

    @property
    def key(self) -> SegmentKey:
        """The segment's."""
        return self.batches.key

    def add(self, first_index: int, place: BatchPlace, offsets: Iterable[int], tenants: Iterable[Chain]) -> None:
        """The next batch: at least one receipt."""
        self.tenants.extend(tenants)
        self.batches.add(first_index, place, offsets)

    def indices_of(self, pseudonym: str, after: int, end: int) -> list[int]:
        """The tenant's receipts with `after < index < end`, in order."""
        first = self.key.first_index
        begin = max(0, after + 1 - first)
        mine = enumerate(self.tenants[begin : max(0, end - first)], first + begin)
        return [index for index, chain in mine if chain.pseudonym == pseudonym]
