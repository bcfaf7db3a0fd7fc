"""Brings a partition back from its segments: the tree, the chains, the index, and whatever the caller keeps of
receipts and states. The log is the only source of truth.

Changes one thing: a torn tail (an unfinished batch at the end of the unsealed segment) is copied to a `.broken` file
and cut off, and the segment sealed. Anything else that is wrong raises SegmentCorruptError and changes nothing.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger import durable
from ledger.disk import Disk
from ledger.durable import POSIX
from ledger.errors import NotCanonicalError, SegmentCorruptError, SegmentFormatError
from ledger.format import canonical, chain, damage, segment
from ledger.format.merkle import CompactRange
from ledger.format.receipt import Receipt
from ledger.format.segment import Batch, Corrupt, Kind, Scan, Torn
from ledger.index import BatchPlace, Chain, SealedSegment, SegmentIndex, SegmentKey
from ledger.layout import SegmentName, list_segments

OnReceipt = Callable[[int, Receipt], None]
"""`on_receipt(index, receipt)`, in log order."""
OnState = Callable[[str, bytes], None]
"""`on_state(key, value)`, in log order: the latest of a key wins."""
OnSegment = Callable[[SealedSegment, SegmentIndex], None]
"""`on_segment(segment, index)`, when all of a segment is read."""

_RECEIPT: Final = int(Kind.RECEIPT)
_STATE: Final = int(Kind.STATE)
_BROKEN_SUFFIX: Final = ".broken"


@dataclass(frozen=True, slots=True)
class TornTail:
    """What recovery cut off: `size` bytes from `offset` of `path`, kept in `copy`. No caller was told of them, unless
    the disk has spoiled the last batch: that cannot be told apart (docs/formats/segment.md).
    """

    path: Path
    offset: int
    size: int
    copy: Path
    reason: str


@dataclass(slots=True)
class Recovered:
    """A partition as its segments have it. `epoch` is the last one in the log (0 for an empty log)."""

    chains: dict[str, Chain] = field(default_factory=dict)
    """By the tenant's pseudonym."""
    tree: CompactRange = field(default_factory=CompactRange)
    epoch: int = 0
    previous_sha256: bytes = segment.NO_SEGMENT_SHA256
    sealed: list[SealedSegment] = field(default_factory=list)
    """All segments, for recovery seals the last one if it has to."""
    torn: TornTail | None = None

    @property
    def size(self) -> int:
        return self.tree.size


def recover(
    folder: Path,
    log: str,
    *,
    on_receipt: OnReceipt | None = None,
    on_state: OnState | None = None,
    on_segment: OnSegment | None = None,
    disk: Disk = POSIX,
) -> Recovered:
    """Read a partition's folder, which the caller has locked. `log` is its origin.

    Raises SegmentCorruptError (restore the file it names), OSError.
    """
    for name in disk.list(folder):
        if name.endswith(durable.TMP_SUFFIX):
            disk.unlink(folder / name)  # a segment that never got its name
    recovered = Recovered()
    names = list_segments(folder, disk)
    for segment_name in names[:-1]:
        if not segment_name.sealed:
            message = "it is unsealed, but another segment follows"
            raise SegmentCorruptError(folder / str(segment_name), 0, segment_name.first_index, message)
    for loaded in _read_ahead(disk, folder, names):
        index = _Replay(recovered, loaded, log, on_receipt, on_state, disk).run()
        if on_segment is not None:
            on_segment(recovered.sealed[-1], index)
    return recovered


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A segment's bytes, what a scan says of them, and the SHA-256 of those that are valid."""

    path: Path
    name: SegmentName
    data: bytes
    scan: Scan | SegmentFormatError
    sha256: bytes


def _load(disk: Disk, path: Path, name: SegmentName) -> _Loaded:
    data = disk.read(path)
    try:
        scan = segment.scan(data, sealed=name.sealed)
    except SegmentFormatError as error:
        return _Loaded(path, name, data, error, b"")
    return _Loaded(path, name, data, scan, hashlib.sha256(memoryview(data)[: scan.end]).digest())


def _read_ahead(disk: Disk, folder: Path, names: list[SegmentName]) -> Iterator[_Loaded]:
    """The segments in order, the next one read and hashed in a thread while the caller is busy with one."""
    loading: deque[Future[_Loaded]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ledger-recover") as thread:
        for name in names:
            loading.append(thread.submit(_load, disk, folder / str(name), name))
            if len(loading) > 1:
                yield loading.popleft().result()
        for last in loading:
            yield last.result()


class _Replay:
    """One segment, read into what is recovered so far."""

    def __init__(
        self,
        recovered: Recovered,
        loaded: _Loaded,
        log: str,
        on_receipt: OnReceipt | None,
        on_state: OnState | None,
        disk: Disk,
    ) -> None:
        self._recovered = recovered
        self._loaded = loaded
        self._path = loaded.path
        self._log = log
        self._on_receipt = on_receipt
        self._on_state = on_state
        self._disk = disk
        self._index = SegmentIndex(SegmentKey(loaded.name.first_index, loaded.name.epoch))

    def run(self) -> SegmentIndex:
        recovered, name, data, scan = self._recovered, self._loaded.name, self._loaded.data, self._loaded.scan
        if isinstance(scan, SegmentFormatError):
            raise self._corrupt(scan.offset, scan.message) from scan
        if isinstance(scan.verdict, Corrupt):
            index = scan.batches[-1].first_index + scan.batches[-1].count if scan.batches else recovered.size
            raise self._corrupt(scan.verdict.offset, scan.verdict.reason, index)
        self._check_header(scan.header)
        recovered.epoch = scan.header.epoch
        for batch in scan.batches:
            try:
                self._apply(data, batch)
            except SegmentFormatError as error:
                raise self._corrupt(error.offset, error.message) from error
            except NotCanonicalError as error:
                raise self._corrupt(batch.offset, str(error)) from error
        recovered.previous_sha256 = self._loaded.sha256
        if isinstance(scan.verdict, Torn):
            self._refuse_damage(data, scan.verdict)
            recovered.torn = _cut_off(self._disk, self._path, data, scan.verdict)
        path = self._path.with_name(str(name._replace(sealed=True)))
        if not name.sealed:
            # Seal what the last run left open: from now on nothing in it may look torn.
            self._disk.rename(self._path, path)
        first, count = name.first_index, recovered.size - name.first_index
        recovered.sealed.append(SealedSegment(self._index.key, path, self._loaded.sha256, first, count, scan.end))
        return self._index

    def _check_header(self, header: segment.SegmentHeader) -> None:
        recovered = self._recovered
        if header.log_hash != segment.log_hash(self._log):
            raise self._corrupt(0, f"it belongs to another log than {self._log}")
        if (header.first_index, header.epoch) != (self._loaded.name.first_index, self._loaded.name.epoch):
            raise self._corrupt(0, "its header and its name differ")
        if header.first_index != recovered.size:
            raise self._corrupt(0, f"it begins at receipt {header.first_index}: a segment is missing")
        if header.epoch < recovered.epoch:
            raise self._corrupt(0, f"its epoch {header.epoch} comes after {recovered.epoch}")
        if header.previous_sha256 != recovered.previous_sha256:
            raise self._corrupt(0, "the segment before it is not the one that it names")

    def _apply(self, data: bytes, batch: Batch) -> None:
        recovered, on_receipt, on_state = self._recovered, self._on_receipt, self._on_state
        chains = recovered.chains
        decode, epoch, sha256 = canonical.decode, batch.epoch, hashlib.sha256
        hashes: list[bytes] = []
        offsets: list[int] = []
        tenants: list[Chain] = []
        index = batch.first_index
        for kind, start, end in segment.frames(data, batch):
            if kind == _RECEIPT:
                leaf = data[start:end]
                receipt = decode(leaf)
                digest = sha256(b"\0" + leaf).digest()  # leaf_hash(), written out: a call costs a tenth of a receipt
                tenant = chains.get(receipt.tenant)
                if tenant is None:
                    tenant = chains[receipt.tenant] = Chain(receipt.tenant, chain.genesis(self._log, receipt.tenant))
                if receipt.prev != tenant.head.hex() or receipt.tseq != tenant.count:
                    raise self._corrupt(start, "a tenant's chain is broken", index)
                if receipt.epoch != epoch or receipt.log != self._log:
                    raise self._corrupt(start, "a receipt of another log or epoch", index)
                tenant.head = digest
                tenant.count += 1
                tenants.append(tenant)
                offsets.append(start - segment.FRAME_HEAD_BYTES - batch.body)
                hashes.append(digest)
                if on_receipt is not None:
                    on_receipt(index, receipt)
                index += 1
            elif kind == _STATE and on_state is not None:
                on_state(*segment.decode_state(data[start:end]))
        if len(hashes) != batch.count:
            raise self._corrupt(batch.offset, f"a batch of {batch.count} receipts has {len(hashes)}")
        recovered.tree.extend(hashes)
        if recovered.tree.root() != batch.root:
            raise self._corrupt(batch.offset, "a batch's receipts do not give its root", batch.first_index)
        if batch.count:
            place = BatchPlace(self._index.key, batch.body, batch.body_end - batch.body, batch.seed)
            self._index.add(batch.first_index, place, offsets, tenants)

    def _refuse_damage(self, data: bytes, torn: Torn) -> None:
        """A last batch that one changed byte explains was whole, and its receipts were acknowledged: no crash leaves
        that, and cutting it off would lose them.
        """
        for change, mended, scan in damage.explain(data, sealed=False):
            batch = next(one for one in scan.batches if one.offset == torn.offset)
            if damage.is_sound(mended, batch, self._recovered.tree):
                was = f"one byte was changed: it is 0x{data[change.offset]:02x} and was 0x{change.original:02x}"
                raise self._corrupt(change.offset, was)

    def _corrupt(self, offset: int, message: str, index: int | None = None) -> SegmentCorruptError:
        return SegmentCorruptError(self._path, offset, self._recovered.size if index is None else index, message)


def _cut_off(disk: Disk, path: Path, data: bytes, torn: Torn) -> TornTail:
    """Keep a copy of the tail, then cut: in this order, so that a crash in between loses nothing."""
    tail = data[torn.offset :]
    copy = path.with_name(f"{path.name}.{torn.offset}{_BROKEN_SUFFIX}")
    disk.replace(copy, tail)
    disk.truncate(path, torn.offset)
    return TornTail(path, torn.offset, len(tail), copy, torn.reason)
