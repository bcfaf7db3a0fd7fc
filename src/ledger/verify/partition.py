"""One partition's log, verified from its first receipt on: what its segments show, joined in order.

Where retention has dropped segments, the log is taken up from the leaves (or only their hashes) that it has published,
and the report says from where on what was verified.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ledger.durable import POSIX
from ledger.errors import ProofInvalidError, RetentionInvalidError, SnapshotInvalidError
from ledger.format import chain, damage, segment
from ledger.format.heads import HeadList
from ledger.format.merkle import HASH_BYTES, CompactRange
from ledger.format.retention import RETENTION_KEY, Retention, RetentionStatement
from ledger.format.segment import Corrupt, Intact, SegmentHeader, Torn
from ledger.format.snapshot import Snapshot, decode_chains
from ledger.format.snapshot import decode as decode_snapshot
from ledger.format.tiles import TILE_BYTES, TILE_WIDTH, TileId, TileTree, tiles_between
from ledger.index import SegmentKey
from ledger.layout import list_segments
from ledger.snapshots import list_snapshots
from ledger.verify import facts, parallel
from ledger.verify.facts import FINDINGS_MAX, Facts, Finding, SoundBatch, StatedHeads
from ledger.verify.pieces import (
    BundlesTask,
    SeenSegment,
    SegmentTask,
    hash_bundles,
    look_at_bundles,
    look_at_segment,
    look_into,
)
from ledger.verify.published import Published, bundle_widths
from ledger.verify.report import LogError, Progress

_LISTINGS_MAX: Final = 10
_BUNDLES_AT_ONCE: Final = 32


class PartitionCheck:
    """Call `run` once; then the fields say what was found."""

    def __init__(
        self,
        partition: int,
        folder: Path,
        origin: str | None,
        published: Published,
        published_size: int,
        sizes: Iterable[int],
    ) -> None:
        """`published_size`: that of the published checkpoint. `sizes`: those whose roots shall be in `roots`."""
        self.partition = partition
        self.log = origin
        self.tree = CompactRange()
        self.roots: dict[int, bytes] = {}
        self.chains: dict[str, tuple[int, str]] = {}
        """By pseudonym: how many receipts, and the leaf hash (hex) of the last."""
        self.errors: list[LogError] = []
        self.notes: list[str] = []
        self._path = folder
        self.whole = True
        """Was everything judged that is there?"""
        self._folder = folder
        self._snapshots = self._read_snapshots()
        self._wanted = sorted({*sizes, published_size, *self._snapshots})
        self._states: dict[str, bytes] = {}
        self._published = published
        self._stated: dict[int, RetentionStatement] = {}
        """What the log's own receipts say to be dropped, by index."""
        self._published_size = published_size
        self._tiles = TileTree()
        self._tiles_checked = 0
        self._chains_from = 0
        """From which receipt on the chains are known."""
        self._epoch = 0
        self._previous_sha256: bytes | None = segment.NO_SEGMENT_SHA256
        self._segments_from = 0
        """The first receipt that is in a segment."""
        self._begins_late = False
        """Whether the first segments were dropped, and so the states in them."""
        self._said = self._read_said()

    def run(self, progress: Progress | None, processes: int) -> None:
        """Stops at what makes everything behind it unknowable, or after too many errors."""
        self._extend(b"")
        keys = self._list_keys()
        self._segments_from = keys[0].first_index if keys else 0
        if keys and keys[0].first_index and not self._begin_at(keys[0].first_index, processes):
            self.whole = False
            return
        tasks = (SegmentTask(self._folder, key, self.log) for key in keys)
        for number, seen in enumerate(parallel.in_order(look_at_segment, tasks, min(processes, 1 + len(keys) // 4)), 1):
            self._path = seen.path
            if not seen.sealed and number < len(keys):
                self.error("missing", 0, "it is unsealed, but another segment follows: a sealed one was replaced")
            if not self._join(keys[number - 1], seen):
                self.notes.append(f"{self._path}: receipts from {self.tree.size} on were not judged")
                self.whole = False
                return
            self._check_tiles()
            self._check_snapshot()
            if progress is not None:
                progress(self.partition, self.tree.size, len(keys) - number)
        self._check_bundles(processes)
        self._check_said()
        for size, (path, _) in self._snapshots.items():
            if size not in self.roots:
                message = f"a snapshot stands for {size} receipts, and the log has {self.tree.size}"
                self.error("truncated", 0, message, path=path)

    def error(self, kind: str, offset: int, message: str, index: int | None = None, path: Path | None = None) -> None:
        """Something is wrong at `offset` of the file."""
        at = self.tree.size if index is None else index
        file = str(path or self._path)
        place = f"{file} at byte {offset}, receipt {at}: {message}"
        self.errors.append(LogError(self.partition, at, kind, place, file, offset))

    def _list_keys(self) -> list[SegmentKey]:
        """The segments, listed until two listings agree: a live one may be renamed while the folder is read."""
        listed: list[SegmentKey] | None = None
        for _ in range(_LISTINGS_MAX):
            keys = sorted({SegmentKey(name.first_index, name.epoch) for name in list_segments(self._folder)})
            if keys == listed:
                break
            listed = keys
        return listed or []

    # Where segments were dropped

    def _begin_at(self, first_index: int, processes: int) -> bool:
        """Take the log up to where its first segment begins from what is published. Can what follows be judged?"""
        said = self._said
        if said.segments_from < first_index:
            dropped = f"receipts below {said.segments_from} only" if said.segments_from else "nothing"
            message = f"the first segment begins at receipt {first_index}, and the log says to have dropped {dropped}"
            self.error("missing", 0, f"{message}: segments are missing")
            return False
        kept = min(said.entries_from, first_index) // TILE_WIDTH
        if not self._take_hashes(kept) or not self._take_leaves(kept, first_index, processes):
            return False
        self._previous_sha256, self._begins_late = None, True  # of a segment that is no more
        begin = kept * TILE_WIDTH
        if begin:
            self.notes.append(
                f"partition {self.partition}: receipts 0..{begin - 1} were dropped by retention; their hashes are in "
                "the tree, their content and the chains before this point were not judged"
            )
        self.notes.append(
            f"partition {self.partition}: receipts {begin}..{first_index - 1}: payloads dropped by retention; the "
            "receipts themselves were verified from the entry bundles"
        )
        return True

    def _take_hashes(self, tiles: int) -> bool:
        """The tree over the leaves of so many whole tiles."""
        for number in range(tiles):
            tile = TileId(0, number, TILE_WIDTH)
            try:
                hashes = self._published.tile(tile)
            except ProofInvalidError as error:
                self.error("tile", 0, str(error), path=self._published.path(tile))
                return False
            if hashes is None:
                self.error(
                    "missing", 0, "the tile is missing: tiles are never dropped", path=self._published.path(tile)
                )
                return False
            self._extend(hashes)
        self._chains_from = tiles * TILE_WIDTH
        return True

    def _take_leaves(self, first_bundle: int, size: int, processes: int) -> bool:
        """Tree and chains over the leaves that the entry bundles hold, up to `size`."""
        widths = list(bundle_widths(size))[first_bundle:]
        for found in parallel.in_order(look_at_bundles, self._bundle_tasks(widths), processes):
            if isinstance(found, str):
                self.error("entries", 0, f"{found}: the receipts in it are neither here nor in a segment")
                return False
            if not self._join_facts(found):
                return False
        return True

    def _bundle_tasks(self, widths: list[tuple[int, int]]) -> Iterable[BundlesTask]:
        """Bundles in a row each."""
        task: list[tuple[int, int]] = []
        for one in widths:
            if task and (len(task) == _BUNDLES_AT_ONCE or one[0] != task[-1][0] + 1):
                yield BundlesTask(self._published, task, self.log)
                task = []
            task.append(one)
        if task:
            yield BundlesTask(self._published, task, self.log)

    # Segments

    def _join(self, key: SegmentKey, seen: SeenSegment) -> bool:
        """Can what follows be judged?"""
        if seen.header is not None:
            return self._check_header(key, seen.header, seen.facts.log) and self._join_batches(seen)
        assert isinstance(seen.verdict, Corrupt)  # noqa: S101 - no header is valid, so there is a reason
        mended = self._mend(seen, *seen.verdict)
        return mended is not None and self._join(key, look_into(seen.path, mended, self.log))

    def _join_batches(self, seen: SeenSegment, done: int = 0) -> bool:
        """The batches that it shows, which come behind `done` others, then what the scan stopped at."""
        if not self._join_facts(seen.facts):
            return False
        match seen.verdict:
            case Intact():
                self._previous_sha256 = seen.sha256
                return True
            case Torn(offset, reason):
                mended = self._mend(seen, offset, reason, quiet=True)
                if mended is None:
                    self.notes.append(
                        f"{self._path}: the last {len(seen.data) - offset} bytes, from {offset} on, are an unfinished "
                        f"batch ({reason}): one that is being written, or that a crash interrupted. The next start "
                        "cuts it"
                    )
                    return True
            case Corrupt(offset, reason):
                mended = self._mend(seen, offset, reason)
                if mended is None:
                    return False
        done += len(seen.facts.batches)
        return self._join_batches(look_into(seen.path, mended, self.log, skip=done), done)

    def _join_facts(self, found: Facts) -> bool:
        """Tree and chains go on with what a piece shows. False if they cannot, or after too many errors."""
        self.log = log = self.log or found.log
        findings = [*found.findings, *filter(None, map(self._judge_heads, found.heads))]
        for tenant, link in found.links.items():
            known = self.chains.get(tenant)
            if known is None and self._chains_from and link.tseq:
                known = (link.tseq, link.prev)  # its chain began in what was dropped
            # Without an origin there is no receipt, so no link either.
            count, head = known or (0, chain.genesis(log or "", tenant).hex())
            if (link.tseq, link.prev) != (count, head):
                message = facts.chain_break(tenant, link.tseq, count)
                findings.append(Finding(link.index, link.offset, "tenant_chain", message))
            self.chains[tenant] = (link.next_tseq, link.head)
        self._states.update(found.states)
        self._stated.update((one.index, one.statement) for one in found.drops)
        stopped = found.broken
        for batch in found.batches:
            if not self._grow(batch):
                message = "a batch's receipts do not give its root"
                findings = [one for one in findings if one.index < batch.first_index + batch.count]
                findings.append(Finding(batch.first_index, batch.offset, "root", message))
                stopped = True
                break
        for finding in sorted(findings)[: FINDINGS_MAX - len(self.errors)]:
            self.error(finding.kind, finding.offset, finding.message, finding.index)
        return not stopped and len(self.errors) < FINDINGS_MAX

    def _judge_heads(self, stated: StatedHeads) -> Finding | None:
        """Does a heads receipt say how the chains end before it? Asked before they go on with the piece that has it."""
        if self._chains_from or stated.statement.size != stated.index:
            return None  # as of some other size: the log does not know it any more
        ends = self.chains | stated.ends
        heads = HeadList.of((tenant, count, bytes.fromhex(head)) for tenant, (count, head) in ends.items())
        if (stated.statement.count, stated.statement.root) == (len(heads), heads.root()):
            return None
        message = "the heads receipt does not say how the tenants' chains end before it"
        return Finding(stated.index, stated.offset, "heads", message)

    def _grow(self, batch: SoundBatch) -> bool:
        """The tree with a batch's leaves, if that gives the batch's root."""
        self._extend(batch.hashes)
        if batch.root and self.tree.root() != batch.root:
            self.roots = {size: root for size, root in self.roots.items() if size <= batch.first_index}
            return False
        return True

    def _extend(self, hashes: bytes) -> None:
        """The tree with these leaves, its roots at the wanted sizes taken on the way."""
        after = self.tree.size + len(hashes) // HASH_BYTES
        if self._published_size:
            self._tiles.extend(hashes)
        while self._wanted and self._wanted[0] <= after:
            size = self._wanted.pop(0)
            cut = (size - self.tree.size) * HASH_BYTES
            self.tree.extend(chain.split(hashes[:cut], HASH_BYTES))
            self.roots[size] = self.tree.root()
            hashes = hashes[cut:]
        self.tree.extend(chain.split(hashes, HASH_BYTES))

    def _mend(self, seen: SeenSegment, offset: int, reason: str, *, quiet: bool = False) -> bytes | None:
        """Report damage, by the byte if one byte explains it; the bytes as they were, if so.

        `quiet`: say nothing of what no single byte explains.
        """
        data = seen.data
        repairs = [one for one in damage.explain(data, sealed=seen.sealed) if self._is_sound(one, offset)]
        if len(repairs) != 1:
            if not quiet:
                self.error("damaged", offset, reason)
            return None
        change, mended, scan = repairs[0]
        batch = next((one for one in scan.batches if one.offset <= change.offset < one.end), None)
        index, part = damage.part_of(mended, batch, change.offset) if batch else (self.tree.size, "the segment header")
        was = f"{part} was changed: it is 0x{data[change.offset]:02x} and was 0x{change.original:02x}"
        self.error("damaged", change.offset, was, index)
        return mended

    def _is_sound(self, repair: damage.Repair, offset: int) -> bool:
        """Does the batch that the repair brings back give the root that it names?"""
        batch = next((one for one in repair.scan.batches if one.offset == offset), None)
        return batch is None or damage.is_sound(repair.data, batch, self.tree)

    def _check_header(self, key: SegmentKey, header: SegmentHeader, log: str | None) -> bool:
        if header.first_index != self.tree.size:
            missing = f"it begins at receipt {header.first_index}, not {self.tree.size}: a segment is missing before it"
            self.error("missing", 0, missing)
            return False
        if SegmentKey(header.first_index, header.epoch) != key:
            self.error("header", 0, "its name and its header differ")
        if header.epoch < self._epoch:
            self.error("sequence", 0, f"epoch {header.epoch} comes after {self._epoch}")
        if self._previous_sha256 not in {None, header.previous_sha256}:
            self.error("sequence", 0, "the segment before it is not the one whose SHA-256 it names")
        named = self.log or log
        if named is not None and header.log_hash != segment.log_hash(named):
            self.error("foreign", 0, f"it belongs to another log than {named}")
            return False
        self._epoch = header.epoch
        return True

    # Snapshots

    def _read_snapshots(self) -> dict[int, tuple[Path, Snapshot]]:
        """By size. One that cannot be read is an error: a start would pass over it, but it was changed."""
        found: dict[int, tuple[Path, Snapshot]] = {}
        for name in list_snapshots(self._folder, POSIX):
            path = self._folder / str(name)
            try:
                made = decode_snapshot(path.read_bytes())
            except SnapshotInvalidError as error:
                self.error("snapshot", 0, f"the snapshot cannot be used: {error}", name.size, path)
            except FileNotFoundError:
                pass  # a newer one has taken its place
            else:
                found[name.size] = (path, made)
        return found

    def _check_snapshot(self) -> None:
        """Does the snapshot of just this size, if there is one, say what the log has come to?"""
        path, made = self._snapshots.get(self.tree.size, (None, None))
        if path is None or made is None:
            return
        if (made.log, made.size, made.root) != (self.log, self.tree.size, self.tree.root()):
            self.error("snapshot", 0, "the snapshot is of another log, or has another root", path=path)
        if self._begins_late:
            return  # it has what was dropped
        try:
            chains = {tenant: (count, head.hex()) for tenant, count, head in decode_chains(made.chains)}
        except SnapshotInvalidError as error:
            self.error("snapshot", 0, str(error), path=path)
            return
        if chains != self.chains:
            self.error("snapshot", 0, "the snapshot has other ends of the tenants' chains than the log", path=path)
        if {key: hashlib.sha256(value).digest() for key, value in made.states.items()} != self._states:
            self.error("snapshot", 0, "the snapshot has other states than the log", path=path)

    # What is published

    def _read_said(self) -> Retention:
        try:
            return self._published.retention()
        except RetentionInvalidError as error:
            self.error("retention", 0, str(error), 0, self._published.folder / RETENTION_KEY)
            return Retention()

    def _check_said(self) -> None:
        """Is what the log says to have dropped said under its root too? Whoever can write the store could say it."""
        said, stated = self._said, self._stated.values()
        path = self._published.folder / RETENTION_KEY
        for word, bound, limits in (
            ("segments", said.segments_from, [one.segments_from for one in stated]),
            ("entry bundles", said.entries_from, [one.entries_from for one in stated]),
        ):
            if bound > max(limits, default=0):
                message = f"it says that {word} below receipt {bound} were dropped, and no receipt of the log says so"
                self.error("retention", 0, message, path=path)
        for one in said.snapshots:
            statement = self._stated.get(one.receipt)
            if statement is None or statement.snapshot != one.sha256:
                message = f"receipt {one.receipt} does not name the snapshot {one.key()}"
                self.error("retention", 0, message, one.receipt, path)

    def _check_tiles(self) -> None:
        """Hold the published tiles against the tree so far, each as soon as it is full; at the end the partial ones."""
        size = min(self.tree.size, self._published_size)
        due = [tile for tile in tiles_between(self._tiles_checked, size) if tile.width == TILE_WIDTH]
        if self._tiles_checked < size == self._published_size:
            due += [tile for tile in tiles_between(0, size) if tile.width < TILE_WIDTH]
        for tile in due:
            path = self._published.path(tile)
            index = tile.number << 8 * (tile.level + 1)
            try:
                published = self._published.tile(tile)
            except ProofInvalidError as error:
                self.error("tile", 0, str(error), index, path)
                continue
            if published is None:
                self.error("tile", 0, "the tile is missing", index, path)
            elif published != self._tiles.tile(tile):
                self.error("tile", 0, "the published tile is not that of the log's receipts", index, path)
        self._tiles_checked = size
        self._tiles.forget_below(size)

    def _check_bundles(self, processes: int) -> None:
        """Hold the entry bundles against the tiles of their hashes, which were checked before."""
        size = min(self.tree.size, self._published_size)
        kept = list(bundle_widths(size))[self._said.entries_from // TILE_WIDTH :]
        # What is in segments was verified from them, and need not be published in another form as well.
        due = [one for one in kept if one[0] * TILE_WIDTH < self._segments_from or self._published.has_entries(*one)]
        if len(due) < len(kept):
            self.notes.append(
                f"partition {self.partition}: {len(kept) - len(due)} of {len(kept)} entry bundles are not published; "
                "the receipts in them were verified from the segments"
            )
        for found in parallel.in_order(hash_bundles, self._bundle_tasks(due), processes):
            if isinstance(found, str):
                self.error("entries", 0, found, path=self._published.folder)
                continue
            first, hashes = found
            for at in range(0, len(hashes), TILE_BYTES):
                held = hashes[at : at + TILE_BYTES]
                tile = TileId(0, first + at // TILE_BYTES, len(held) // HASH_BYTES)
                if not self._is_tile(tile, held):
                    message = f"entry bundle {tile.number} does not hold the leaves that its tile has the hashes of"
                    self.error("entries", 0, message, tile.number * TILE_WIDTH, self._published.folder)

    def _is_tile(self, tile: TileId, hashes: bytes) -> bool:
        """A tile that is bad was named before, and says nothing of others."""
        try:
            return self._published.tile(tile) in {None, hashes}
        except ProofInvalidError:
            return True
