"""Brings a partition back: the tree, the chains, and whatever the caller keeps of receipts and states.

The log is the only source of truth. A snapshot, if there is one that can be used, stands for the segments before it:
of those only names and lengths are looked at, and that the log goes on from the very last of them. Damage inside them
is found by `fsck.verify_log`, or by whoever reads the receipts there.

Changes one thing: a torn tail (an unfinished batch at the end of the unsealed segment) is copied to a `.broken` file
and cut off, and the segment sealed. Anything else that is wrong raises SegmentCorruptError and changes nothing.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Final

from ledger import durable
from ledger.disk import Disk
from ledger.durable import POSIX
from ledger.errors import NotCanonicalError, SegmentCorruptError, SegmentFormatError, SnapshotInvalidError
from ledger.format import canonical, chain, damage, segment
from ledger.format import snapshot as snapshot_format
from ledger.format.merkle import CompactRange
from ledger.format.receipt import Receipt
from ledger.format.segment import Batch, Corrupt, Kind, Scan, Torn
from ledger.format.snapshot import SegmentEntry, Snapshot
from ledger.format.tiles import TileTree, range_hashes
from ledger.index import BatchPlace, Chain, SealedSegment, SegmentIndex, SegmentKey
from ledger.layout import SegmentName, list_segments
from ledger.snapshots import AppFold, list_snapshots, match_segments, read_snapshot

OnReceipt = Callable[[int, Receipt], None]
"""`on_receipt(index, receipt)`, in log order."""
OnState = Callable[[str, bytes], None]
"""`on_state(key, value)`, in log order: the latest of a key wins."""
OnSegment = Callable[[SealedSegment, SegmentIndex], None]
"""`on_segment(segment, index)`, when all of a segment is read."""

_RECEIPT: Final = int(Kind.RECEIPT)
_STATE: Final = int(Kind.STATE)
_BROKEN_SUFFIX: Final = ".broken"
_HASHES_KEPT_MAX: Final = 1 << 16


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
    """All segments that are here, for recovery seals the last one if it has to."""
    edge: TileTree = field(default_factory=TileTree)
    hashes: list[bytes] = field(default_factory=list)
    """The tree's right edge as of some receipt, and the leaf hashes from there on, in pieces."""
    torn: TornTail | None = None
    snapshot_size: int = 0
    """How many receipts were not read, because a snapshot stands for them."""
    notes: list[str] = field(default_factory=list)
    """What an operator should hear."""

    @property
    def size(self) -> int:
        return self.tree.size

    def add_hashes(self, hashes: list[bytes]) -> None:
        """The leaf hashes of the next receipts."""
        self.tree.extend(hashes)
        self.hashes.append(b"".join(hashes))
        if self.size - self.edge.size > _HASHES_KEPT_MAX:
            self.fold_hashes()

    def fold_hashes(self) -> None:
        """Move the edge up to the last receipt."""
        self.edge.extend(b"".join(self.hashes))
        self.edge.forget_below(self.edge.size)
        self.hashes.clear()


def recover(
    folder: Path,
    log: str,
    *,
    on_receipt: OnReceipt | None = None,
    on_state: OnState | None = None,
    on_segment: OnSegment | None = None,
    app: AppFold | None = None,
    disk: Disk = POSIX,
) -> Recovered:
    """Read a partition's folder, which the caller has locked. `log` is its origin.

    With `app` it begins at the newest snapshot that can be used: `app` is what it was then and gets the receipts after
    it, `on_state` gets the latest states of then and those after it. Else everything comes from the first receipt on.
    Raises SegmentCorruptError (restore the file it names), OSError.
    """
    for name in disk.names(folder):
        if name.endswith(durable.TMP_SUFFIX):
            disk.unlink(folder / name)  # a segment that never got its name
    # A rename whose fsync failed can be seen here all the same. What is written from now on must not outlive it.
    disk.sync_names(folder)
    names = list_segments(folder, disk)
    for segment_name in names[:-1]:
        if not segment_name.sealed:
            message = "it is unsealed, but another segment follows"
            raise SegmentCorruptError(folder / str(segment_name), 0, segment_name.first_index, message)
    recovered, rest = _begin(folder, log, names, app, on_state, disk)
    on_receipt = app.on_receipt if app is not None else on_receipt
    for loaded in _read_ahead(disk, folder, rest):
        index = _Replay(recovered, loaded, log, on_receipt, on_state, disk).run()
        if on_segment is not None:
            on_segment(recovered.sealed[-1], index)
    return recovered


def fold(folder: Path, log: str, app: AppFold, disk: Disk = POSIX) -> Snapshot | None:
    """The snapshot that the sealed segments come to, or None if the newest one stands for all of them already.

    Changes nothing and needs no lock: what is sealed stays as it is. Raises SegmentCorruptError, OSError.
    """
    names = list(takewhile(lambda name: name.sealed, list_segments(folder, disk)))
    states: dict[str, bytes] = {}
    recovered, rest = _begin(folder, log, names, app, states.__setitem__, disk)
    if not rest:
        return None
    for loaded in _read_ahead(disk, folder, rest):
        _Replay(recovered, loaded, log, app.on_receipt, states.__setitem__, disk).run()
    recovered.fold_hashes()
    return Snapshot(
        log=log,
        size=recovered.size,
        epoch=recovered.epoch,
        root=recovered.tree.root(),
        segments=[SegmentEntry(*one.key, one.count, one.bytes, one.sha256) for one in recovered.sealed],
        edge=recovered.edge.state(),
        chains=snapshot_format.encode_chains((one.pseudonym, one.count, one.head) for one in recovered.chains.values()),
        states=states,
        app=app.encode(),
    )


def _begin(
    folder: Path, log: str, names: list[SegmentName], app: AppFold | None, on_state: OnState | None, disk: Disk
) -> tuple[Recovered, list[SegmentName]]:
    """What is known without reading a segment, and the segments that have to be read."""
    notes: list[str] = []
    if app is None:
        return Recovered(), names
    for name in list_snapshots(folder, disk):
        try:
            made = read_snapshot(folder, name, log, disk)
            sealed = match_segments(folder, made, names, disk)
            recovered = _resume(made, sealed)
            app.decode(made.app)
        except (SnapshotInvalidError, ValueError) as error:
            notes.append(f"the snapshot {folder / str(name)} was passed over: {error}")
            continue
        if on_state is not None:
            for key, value in made.states.items():
                on_state(key, value)
        recovered.notes += notes
        return recovered, [name for name in names if (name.first_index, name.epoch) > sealed[-1].key]
    return Recovered(notes=notes), names


def _resume(made: Snapshot, sealed: list[SealedSegment]) -> Recovered:
    """Where the log stood when a snapshot was made. Raises SnapshotInvalidError, ValueError."""
    edge = TileTree.from_state(made.edge)
    if edge.size != made.size or edge.root() != made.root:
        raise SnapshotInvalidError("its tree does not give its root")
    subtrees, start = [], 0
    for level in reversed(range(made.size.bit_length())):
        if made.size >> level & 1:
            subtrees.append((start, start + (1 << level)))
            start += 1 << level
    return Recovered(
        chains={
            name: Chain(name, head, count) for name, count, head in snapshot_format.decode_chains(made.chains)
        },
        tree=CompactRange(made.size, range_hashes(subtrees, made.size, edge.tile)),
        epoch=made.epoch,
        previous_sha256=made.segments[-1].sha256,
        sealed=sealed,
        edge=edge,
        snapshot_size=made.size,
    )  # fmt: skip


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
            recovered.torn = _keep_tail(self._disk, self._path, data, scan.verdict)
        count = recovered.size - name.first_index
        sealed = SealedSegment(self._path.parent, self._index.key, self._loaded.sha256, count, scan.end)
        if not name.sealed:
            # Written anew, for what was read may be in the page cache alone: its writer was killed before the fsync,
            # or the fsync failed, and then no later one writes it. What follows must not outlive it.
            self._disk.replace(self._path, data[: scan.end])
            # Seal what the last run left open: from now on nothing in it may look torn.
            self._disk.rename(self._path, sealed.path)
        recovered.sealed.append(sealed)
        return self._index

    def _check_header(self, header: segment.SegmentHeader) -> None:
        recovered = self._recovered
        if header.log_hash != segment.log_hash(self._log):
            raise self._corrupt(0, f"it belongs to another log than {self._log}")
        if (header.first_index, header.epoch) != (self._loaded.name.first_index, self._loaded.name.epoch):
            raise self._corrupt(0, "its header and its name differ")
        if header.first_index != recovered.size:
            begins = f"it begins at receipt {header.first_index}"
            raise self._corrupt(0, f"{begins}: a segment is missing before it, or a snapshot that stands for it")
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
        recovered.add_hashes(hashes)
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


def _keep_tail(disk: Disk, path: Path, data: bytes, torn: Torn) -> TornTail:
    """Keep a copy of the tail that is cut off next."""
    tail = data[torn.offset :]
    copy = path.with_name(f"{path.name}.{torn.offset}{_BROKEN_SUFFIX}")
    disk.replace(copy, tail)
    return TornTail(path, torn.offset, len(tail), copy, torn.reason)
