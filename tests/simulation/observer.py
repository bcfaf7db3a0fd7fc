"""Knows everything that happens and holds it against what the ledger promises.

It shares no code with what it watches: segments, heads, checkpoints and tiles are taken apart here once more, from
their descriptions, and trees are hashed by the recursion of RFC 6962, section 2.1.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from simulation.sim_store import Landed

_HEADER: Final = struct.Struct("<7sB8sIQ32sI")
_BATCH: Final = struct.Struct("<4sIQIIII")
_FRAME: Final = struct.Struct("<IB")
_TRAILER_BYTES: Final = 36
TILE_WIDTH: Final = 256
_BASE_US: Final = 1_700_000_000_000_000
_TILE = re.compile(r"tile/(entries|\d+)/((?:x\d{3}/)*\d{3})(?:\.p/(\d+))?")


class ViolationError(Exception):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment's bytes say."""

    first_index: int
    epoch: int
    previous: bytes
    leaves: tuple[bytes, ...]
    states: tuple[tuple[str, bytes], ...]


@lru_cache(maxsize=4096)
def read_segment(data: bytes) -> Segment:
    """Take a segment apart, by docs/formats/segment.md. CRCs are not looked at: roots say more."""
    try:
        return _read_segment(data)
    except (struct.error, UnicodeDecodeError) as error:
        raise ViolationError(f"a segment cannot be read: {error}") from error


def _read_segment(data: bytes) -> Segment:
    magic, version, _, epoch, first_index, previous, _ = _HEADER.unpack_from(data)
    if (magic, version) != (b"GVLSEG1", 1):
        raise ViolationError(f"not a segment: {data[:8]!r}")
    leaves: list[bytes] = []
    states: list[tuple[str, bytes]] = []
    at = _HEADER.size
    while at < len(data):
        batch, _, index, count, length, _, _ = _BATCH.unpack_from(data, at)
        if batch != b"GVB1" or index != first_index + len(leaves):
            raise ViolationError(f"a batch from {index} where {first_index + len(leaves)} was expected")
        frame, end = at + _BATCH.size, at + _BATCH.size + length
        before = len(leaves)
        while frame < end:
            size, kind = _FRAME.unpack_from(data, frame)
            frame += _FRAME.size
            if kind == 1:
                leaves.append(data[frame : frame + size])
            elif kind == 3:
                value = frame + 2 + int.from_bytes(data[frame : frame + 2], "little")
                states.append((data[frame + 2 : value].decode(), data[value : frame + size]))
            frame += size
        if len(leaves) - before != count:
            raise ViolationError(f"a batch of {count} receipts has {len(leaves) - before}")
        at = end + _TRAILER_BYTES
    return Segment(first_index, epoch, previous, tuple(leaves), tuple(states))


class Tree:
    """Leaf hashes, and the roots over the first so many of them, by plain recursion."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self._whole: dict[tuple[int, int], bytes] = {}

    def add(self, leaf: bytes) -> None:
        self.hashes.append(hashlib.sha256(b"\0" + leaf).digest())

    def root(self, size: int) -> bytes:
        return self._hash(0, size) if size else hashlib.sha256(b"").digest()

    def _hash(self, begin: int, end: int) -> bytes:
        if end - begin == 1:
            return self.hashes[begin]
        if (known := self._whole.get((begin, end))) is not None:
            return known
        k = 1
        while 2 * k < end - begin:
            k *= 2
        found = hashlib.sha256(b"\1" + self._hash(begin, begin + k) + self._hash(begin + k, end)).digest()
        if (end - begin) & (end - begin - 1) == 0:
            self._whole[begin, end] = found
        return found

    def subtree(self, level: int, number: int) -> bytes:
        """The hash of one perfect subtree: node `number` of those that span `2**level` leaves."""
        return self._hash(number << level, (number + 1) << level)


class OnDisk(NamedTuple):
    """What a folder's segments hold, from this receipt on."""

    first_index: int
    leaves: list[bytes]


class Said(NamedTuple):
    """What the object `retention` says: bundles and segments from here on are kept, of snapshots those from this size
    on.
    """

    entries_from: int
    segments_from: int
    snapshots_from: int


_NOTHING_DROPPED: Final = Said(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Keeping:
    """What must be kept: receipts that are not so old, in true time, and the newest so many."""

    age_s: float
    receipts_min: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Somebody was told that a receipt is there."""

    at_s: float
    process: str
    machine: int
    index: int
    event_id: str


@dataclass
class Observer:
    """`verify(signature, data)` raises InvalidSignature. `log` writes the trace; `now_s` is the true time. Nothing but
    what `keeping` lets go may be dropped; without it nothing may. Raises ViolationError from wherever a promise is
    broken.
    """

    origin: str
    public_key: bytes
    verify: Callable[[bytes, bytes], None]
    log: Callable[[str], None]
    now_s: Callable[[], float]
    keeping: Keeping | None = None
    leaves: list[bytes] = field(default_factory=list)
    """What is committed, in truth."""
    event_ids: list[str] = field(default_factory=list)
    tree: Tree = field(default_factory=Tree)
    committed: list[Ack] = field(default_factory=list)
    local: list[Ack] = field(default_factory=list)
    heads: list[tuple[float, int, str]] = field(default_factory=list)
    """When which machine's which process wrote one."""
    notes: set[str] = field(default_factory=set)
    public_size: int = 0
    """What the public checkpoint covers."""
    said: Said = _NOTHING_DROPPED
    _ending: dict[int, list[bytes]] = field(default_factory=dict)
    """SHA-256 of committed segments by where they end: some hold states and no receipt."""
    _states: list[tuple[int, tuple[tuple[str, bytes], ...]]] = field(default_factory=list)
    """By the index of its first receipt: what is in a committed segment."""
    _objects: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    """Segments in the store, by SHA-256 and key."""
    _digests: dict[str, bytes] = field(default_factory=dict)
    _snapshots: dict[str, bytes] = field(default_factory=dict)
    """In the store, by key."""
    _named: set[bytes] = field(default_factory=set)
    """Segments that are committed."""
    _last_segment: bytes = bytes(32)
    _chains: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    _epoch: int = 0
    _epoch_owner: str = ""
    _local_by_machine: dict[int, dict[int, Ack]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Of the last head; 0 before the first."""
        return self._epoch

    # What was written to the store

    def landed(self, landed: Landed) -> None:
        key = landed.key
        if key == "ctl/head":
            self._head_landed(landed)
        elif key.startswith("seg/"):
            self._digests[key] = digest = hashlib.sha256(landed.data).digest()
            self._objects.setdefault(digest, {})[key] = landed.data
        elif key == "checkpoint":
            size = self._check_note(landed.data.decode())
            self.log(f"checkpoint of {size} receipts, by {landed.process}")
            if size < self.public_size:
                raise ViolationError(f"the public size went from {self.public_size} to {size}")
            self.public_size = size
        elif key.startswith("heads/"):
            self._check_heads(int(key.removeprefix("heads/")), landed.data)
        elif key == "retention":
            self._retention_landed(landed)
        elif key.startswith("snap/"):
            if not key.endswith(hashlib.sha256(landed.data).hexdigest()):
                raise ViolationError(f"{key} holds something else")
            self._snapshots[key] = landed.data
        elif (tile := _TILE.fullmatch(key)) is not None:
            self._check_tile(key, tile, landed.data)

    def gone(self, process: str, key: str) -> None:
        """An object was removed."""
        self.log(f"{key} is removed, by {process}")
        said = self.said
        if (digest := self._digests.pop(key, None)) is not None:
            copies = self._objects[digest]
            is_said = read_segment(copies.pop(key)).first_index < said.segments_from
            if digest in self._named and not copies and not is_said:
                raise ViolationError(f"{process} removed {key}, which is committed, and there is no other copy")
        elif self._snapshots.pop(key, None) is not None:
            if int(key[5:25]) >= said.snapshots_from:
                raise ViolationError(f"{process} removed {key}, which stands for what was dropped")
        elif ".p/" not in key:
            tile = _TILE.fullmatch(key)
            if tile is None or tile[1] != "entries" or (_tile_number(tile) + 1) * TILE_WIDTH > said.entries_from:
                raise ViolationError(f"{process} removed {key}")

    def _head_landed(self, landed: Landed) -> None:
        head = orjson.loads(landed.data)
        size, epoch, process = head["size"], head["epoch"], landed.process
        self.log(f"head {landed.generation}: epoch {epoch}, {size} receipts, lease {head['lease_us']} µs, by {process}")
        if epoch < self._epoch or (epoch == self._epoch and process != self._epoch_owner):
            raise ViolationError(
                f"{process} wrote a head of epoch {epoch}, but {self._epoch_owner} had {self._epoch} by then"
            )
        self._epoch, self._epoch_owner = epoch, process
        self.heads.append((self.now_s(), machine_of(process), process))
        if size < len(self.leaves):
            raise ViolationError(f"the head went from {len(self.leaves)} receipts to {size}")
        if head["segment"] is not None:
            self._commit(bytes.fromhex(head["segment"]["sha256"]), size)
        if size != len(self.leaves) or head["root"] != self.tree.root(size).hex():
            raise ViolationError(f"the head of {size} receipts has another root than its segments")
        if self._check_note(head["checkpoint"]) != size:
            raise ViolationError("the head's checkpoint is of another size")

    def _commit(self, digest: bytes, size: int) -> None:
        """The head names a segment: take in all from there back to the one that was named last."""
        segments: list[tuple[bytes, Segment]] = []
        wanted = digest
        while wanted != self._last_segment:
            if not self._objects.get(wanted):
                raise ViolationError(f"the head leads to a segment that the store does not have: {wanted.hex()[:16]}")
            self._named.add(wanted)
            segments.append((wanted, read_segment(next(iter(self._objects[wanted].values())))))
            wanted = segments[-1][1].previous
        for sha256, segment in reversed(segments):
            if segment.first_index != len(self.leaves):
                raise ViolationError(f"a segment from {segment.first_index} after {len(self.leaves)} receipts")
            for leaf in segment.leaves:
                self._add_leaf(leaf)
            self._states.append((segment.first_index, segment.states))
            self._ending.setdefault(len(self.leaves), []).append(sha256)
        self._last_segment = digest

    def _add_leaf(self, leaf: bytes) -> None:
        receipt = orjson.loads(leaf)
        tenant, index = receipt["tenant"], len(self.leaves)
        count, last = self._chains.get(tenant, (0, b""))
        if receipt["tseq"] != count or (count and receipt["prev"] != last.hex()):
            raise ViolationError(f"receipt {index} does not continue its tenant's chain")
        self.leaves.append(leaf)
        self.event_ids.append(receipt["event_id"])
        self.tree.add(leaf)
        self._chains[tenant] = (count + 1, self.tree.hashes[-1])

    def _retention_landed(self, landed: Landed) -> None:
        """Something is about to be dropped: may it be, is it said in public, and does something stand for it?"""
        document = orjson.loads(landed.data)
        entries_from, segments_from = document["entries_from"], document["segments_from"]
        named, process = document["snapshots"], landed.process
        self.log(f"{process} drops receipts below {entries_from} and segments below {segments_from}")
        said = Said(entries_from, segments_from, named[0]["size"])
        if any(now < before for now, before in zip(said, self.said, strict=True)):
            raise ViolationError(f"{process} says that less is dropped than before: {said} after {self.said}")
        keeping, end = self.keeping, max(entries_from, segments_from)
        if keeping is None or end > max(0, len(self.leaves) - keeping.receipts_min):
            raise ViolationError(f"{process} drops receipts below {end} of {len(self.leaves)}")
        if end and orjson.loads(self.leaves[end - 1])["ts_us"] > _BASE_US + (self.now_s() - keeping.age_s) * 1e6:
            raise ViolationError(f"{process} drops receipts below {end}, which are too new")
        if any(one["receipt"] >= self.public_size for one in named):
            raise ViolationError(f"{process} drops what no public receipt says")
        statements = [
            receipt["evidence"]
            for receipt in map(orjson.loads, self.leaves[: self.public_size])
            if receipt["rule"] == "ledger.retention"
        ]
        newest = {"entries_from": entries_from, "segments_from": segments_from, "snapshot": named[-1]["sha256"]}
        if newest not in statements:
            raise ViolationError(f"{process} drops what no public receipt says")
        for one in named:
            self._check_named_snapshot(process, one)
            if one["first_index"] < segments_from:
                raise ViolationError(f"{process} drops the last segment of a snapshot of {one['size']} receipts")
        self.said = said

    def _check_named_snapshot(self, process: str, one: dict[str, Any]) -> None:
        size, sha256 = one["size"], one["sha256"]
        data = self._snapshots.get(f"snap/{size:020d}-{one['epoch']:010d}-{sha256}", b"")
        expected = (self.tree.root(size), json.dumps(self.event_ids[:size]).encode())
        stands = all(part in data for part in expected) and any(last in data for last in self._ending.get(size, ()))
        receipt = orjson.loads(self.leaves[one["receipt"]])
        if receipt["evidence"]["snapshot"] != sha256 or not stands:
            raise ViolationError(f"{process} names a snapshot of {size} receipts that does not stand for them")

    def _check_note(self, note: str) -> int:
        """Its size, if it is a checkpoint of what is committed by now."""
        origin, size_text, root, *_ = note.split("\n")
        size = int(size_text)
        if note not in self.notes:
            self.notes.add(note)
            if origin != self.origin:
                raise ViolationError(f"a checkpoint of {origin}")
            if size > len(self.leaves):
                raise ViolationError(f"a checkpoint of {size} receipts is out, and {len(self.leaves)} are committed")
            if base64.b64decode(root) != self.tree.root(size):
                raise ViolationError(f"two roots for {size} receipts")
        return size

    def _check_heads(self, index: int, data: bytes) -> None:
        """The list that heads receipt `index` speaks of: where each chain ended when the log had so many receipts."""
        if index >= len(self.leaves):
            raise ViolationError(f"heads of receipt {index} are out before it is committed")
        evidence = orjson.loads(self.leaves[index])["evidence"]
        ends: dict[str, tuple[int, bytes]] = {}
        for at in range(evidence["size"]):
            receipt = orjson.loads(self.leaves[at])
            ends[receipt["tenant"]] = (receipt["tseq"] + 1, self.tree.hashes[at])
        entries = [tenant.encode() + count.to_bytes(8, "big") + last for tenant, (count, last) in sorted(ends.items())]
        tree = Tree()
        for entry in entries:
            tree.add(entry)
        said = (evidence["count"], evidence["root"], data)
        if said != (len(entries), tree.root(len(entries)).hex(), b"".join(entries)):
            raise ViolationError(f"heads receipt {index} does not say where the chains ended")

    def _check_tile(self, key: str, match: re.Match[str], data: bytes) -> None:
        kind, _, width_text = match.groups()
        number, width = _tile_number(match), int(width_text or TILE_WIDTH)
        level = 0 if kind == "entries" else int(kind)
        first = number * TILE_WIDTH
        if ((first + width) << (8 * level)) > len(self.leaves):
            raise ViolationError(f"{key} is out before what it holds is committed")
        if kind == "entries":
            leaves = self.leaves[first : first + width]
            expected = b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)
        else:
            expected = b"".join(self.tree.subtree(8 * level, first + at) for at in range(width))
        if data != expected:
            raise ViolationError(f"{key} does not hold what is committed")

    # What callers were told

    def told_local(self, process: str, index: int, event_id: str, *, alone: bool) -> None:
        """A caller has a local answer. `alone`: no other machine can write this log."""
        ack = Ack(self.now_s(), process, machine_of(process), index, event_id)
        self.log(f"local: {index} {event_id}, by {process}")
        if not alone and self._epoch_owner != process:
            raise ViolationError(f"{process} answered for receipt {index} after {self._epoch_owner} had taken over")
        self.local.append(ack)
        mine = self._local_by_machine.setdefault(ack.machine, {})
        if index in mine and mine[index].event_id != event_id and alone:
            raise ViolationError(f"receipt {index} was {mine[index].event_id} and is {event_id}")
        mine[index] = ack

    def told_committed(self, process: str, index: int, event_id: str) -> None:
        self.log(f"committed: {index} {event_id}, by {process}")
        self.committed.append(Ack(self.now_s(), process, machine_of(process), index, event_id))
        if index >= len(self.leaves) or self.event_ids[index] != event_id:
            raise ViolationError(f"{process} said that receipt {index} ({event_id}) is committed, and it is not")

    def told_checkpoint(self, process: str, note: str, size: int) -> None:
        """A caller was given a checkpoint, which has to cover so many receipts."""
        if note not in self.notes:
            raise ViolationError(f"{process} gave out a checkpoint that was never in the store: {note[:60]!r}")
        if int(note.split("\n")[1]) < size:
            raise ViolationError(f"{process} gave out a checkpoint that does not cover {size} receipts")

    def told_leaf(self, process: str, index: int, event_id: str, leaf: bytes, *, committed: bool) -> None:
        """A caller has read a receipt."""
        if orjson.loads(leaf)["event_id"] != event_id:
            raise ViolationError(f"{process} gave another receipt for {index}")
        if committed and (index >= len(self.leaves) or self.leaves[index] != leaf):
            raise ViolationError(f"{process} gave receipt {index} as committed, and it is not")

    def told_old_leaf(self, process: str, index: int, leaf: bytes) -> None:
        """A caller has read one that was there before, perhaps committed."""
        if index < len(self.leaves) and self.leaves[index] != leaf:
            raise ViolationError(f"{process} gave another receipt for {index}")

    def told_dropped(self, process: str, index: int) -> None:
        """A caller asked for a receipt, and was told that it was dropped."""
        self.log(f"dropped: {index}, by {process}")
        if index >= self.said.entries_from:
            raise ViolationError(f"{process} said that receipt {index} was dropped, and it was not")

    # What is on a disk

    def read_log(self, files: dict[str, bytes]) -> OnDisk:
        """A folder's segments, all of them whole, from the first on or from where everything before may be dropped."""
        paths = sorted(path for path in files if path.endswith((".seg", ".open")))
        segments = [read_segment(files[path]) for path in paths]
        first_index = segments[0].first_index if segments else 0
        leaves: list[bytes] = []
        before = [] if first_index else [bytes(32)]
        if self.said.segments_from:
            before += self._ending.get(first_index, ())
        if first_index > self.said.segments_from:
            raise ViolationError(f"a disk has nothing before receipt {first_index}")
        for path, segment in zip(paths, segments, strict=True):
            if segment.first_index != first_index + len(leaves) or segment.previous not in before:
                raise ViolationError(f"{path} does not continue the one before it")
            leaves += segment.leaves
            before = [hashlib.sha256(files[path]).digest()]
        return OnDisk(first_index, leaves)

    def disk_wiped(self, machine: int) -> None:
        """What only this machine had is lost, and nobody promised otherwise."""
        self._local_by_machine.pop(machine, None)

    def check_recovered(self, files: dict[str, bytes], event_ids: list[str], states: dict[str, bytes]) -> None:
        """A process has read its log, from a snapshot on perhaps: this is what an application made of it."""
        first_index, leaves = self.read_log(files)
        if event_ids != self.event_ids[:first_index] + [orjson.loads(leaf)["event_id"] for leaf in leaves]:
            raise ViolationError("an application was not told of the receipts that are on the disk")
        dropped = {key: value for first, said in self._states if first < first_index for key, value in said}
        if states != dropped | read_states(files):
            raise ViolationError("an application did not get the states that are on the disk")

    def check_serving(self, process: str, files: dict[str, bytes], *, with_store: bool) -> None:
        """A process begins to serve: its log must have all that is committed, unless it has lost the log already."""
        if with_store and self._epoch_owner == process and not self._has_all(files):
            raise ViolationError(f"{process} serves a log that is not the committed one")

    def check_disk(self, machine: int, files: dict[str, bytes], *, with_store: bool) -> None:
        """After recovery: what the machine answered for is there still, unless another one took over since."""
        first_index, leaves = self.read_log(files)
        leaves = self.leaves[:first_index] + leaves
        for index, ack in self._local_by_machine.get(machine, {}).items():
            if index < len(leaves) and f'"event_id":"{ack.event_id}"'.encode() in leaves[index]:
                continue
            if with_store and any(at_s >= ack.at_s and other != machine for at_s, other, _ in self.heads):
                continue
            raise ViolationError(f"receipt {index} ({ack.event_id}) was on machine {machine}, and is gone")

    def check_end(self, files: dict[str, bytes] | None, signature_of: str | None) -> None:
        """At the end, when all is written: the committed log once more, from the ground up."""
        tree = Tree()
        for leaf in self.leaves:
            tree.add(leaf)
        if tree.root(len(self.leaves)) != self.tree.root(len(self.leaves)):
            raise ViolationError("the tree over all leaves has another root")
        for ack in self.committed:
            if self.event_ids[ack.index] != ack.event_id:
                raise ViolationError(f"receipt {ack.index} was told committed, and is gone")
        if signature_of is not None:
            self._verify_note(signature_of)
        if files is not None and not self._has_all(files):
            raise ViolationError("the last owner's disk holds another log than the store")

    def _verify_note(self, note: str) -> None:
        """Verify a signed note's signature (C2SP signed-note)."""
        text, _, signatures = note.partition("\n\n")
        text += "\n"
        for line in signatures.splitlines():
            _, name, encoded = line.split(" ")
            decoded = base64.b64decode(encoded)
            key_id = hashlib.sha256(name.encode() + b"\n\x01" + self.public_key).digest()[:4]
            if decoded[:4] == key_id:
                try:
                    self.verify(decoded[4:], text.encode())
                except InvalidSignature as error:
                    raise ViolationError("a checkpoint's signature is wrong") from error
                return
        raise ViolationError("nobody signed a checkpoint")

    def check_restored(self, files: dict[str, bytes], event_ids: list[str], committed: int) -> None:
        """A disk that was empty was restored from the store: a start there holds all that was committed as that began,
        and nothing that is not committed. A put that was under way when its process ended may land in between.
        """
        first_index, leaves = self.read_log(files)
        size = first_index + len(leaves)
        if size < committed or event_ids != self.event_ids[:size] or leaves != self.leaves[first_index:size]:
            raise ViolationError("what was restored is not what is committed")

    def _has_all(self, files: dict[str, bytes]) -> bool:
        """All that is committed and not dropped."""
        first_index, leaves = self.read_log(files)
        return leaves[: len(self.leaves) - first_index] == self.leaves[first_index:]


def machine_of(process: str) -> int:
    """`2.5` is the fifth process of machine 2."""
    return int(process.partition(".")[0])


def _tile_number(match: re.Match[str]) -> int:
    return int(match[2].replace("x", "").replace("/", ""))


def read_states(files: dict[str, bytes]) -> dict[str, bytes]:
    """The last of each state in a folder's segments."""
    paths = sorted(path for path in files if path.endswith((".seg", ".open")))
    return {key: value for path in paths for key, value in read_segment(files[path]).states}
