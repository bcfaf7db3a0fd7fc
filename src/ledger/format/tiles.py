"""The tree as tiles: files of 256 hashes that never change, from which anybody computes every proof. Pure.

Format: C2SP tlog-tiles (https://c2sp.org/tlog-tiles). A tile of level 0 holds leaf hashes, one of level L + 1 the roots
of whole tiles of level L. The rightmost tiles are partial and carry their width in their name. Entry bundles hold the
leaves that the tiles of level 0 hold the hashes of.
"""

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self

from ledger.errors import TileInvalidError
from ledger.format.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    consistency_ranges,
    inclusion_ranges,
    node_hash,
    pair_hashes,
)

TILE_BITS: Final = 8
TILE_WIDTH: Final = 1 << TILE_BITS
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
LEVELS_MAX: Final = 64
ENTRIES: Final = -1
"""The level that a `TileId` of an entry bundle has."""
ENTRY_BYTES_MAX: Final = 0xFFFF

# Tiles hashed at once: more do not fit a processor's cache and take twice as long.
_PORTION_BYTES: Final = 32 * TILE_BYTES
_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")
_LENGTH: Final = struct.Struct(">H")
_STATE: Final = struct.Struct(">QB")  # size, number of levels
_FIRST: Final = struct.Struct(">Q")  # of each level, the first tile that is kept


class TileId(NamedTuple):
    """Which tile: the `number`-th (from 0) of `level`, with `width` hashes, 256 if it is full."""

    level: int
    number: int
    width: int


ReadTile = Callable[[TileId], bytes]
"""Gives the hashes of a tile, concatenated: of a partial one just as many as `width` says."""

Ranges = Iterable[tuple[int, int]]
"""Ranges [start, end) of leaves, as `merkle.inclusion_ranges` and `merkle.consistency_ranges` give them."""


def tile_path(tile: TileId) -> str:
    """Where a tile or entry bundle is served, below the log's prefix."""
    thousands, last = divmod(tile.number, 1000)
    number = f"{last:03}"
    while thousands:
        thousands, digits = divmod(thousands, 1000)
        number = f"x{digits:03}/{number}"
    level = "entries" if tile.level == ENTRIES else tile.level
    return f"tile/{level}/{number}" + (f".p/{tile.width}" if tile.width != TILE_WIDTH else "")


def parse_tile_path(path: str) -> TileId:
    """The tile that has just this path. Raises ValueError."""
    match = _PATH.fullmatch(path)
    if not match:
        raise ValueError(f"{path[:100]!r} is not the path of a tile")
    level, number, width = match.groups()
    tile = TileId(
        ENTRIES if level == "entries" else int(level),
        int(number.replace("x", "").replace("/", "")),
        TILE_WIDTH if width is None else int(width),
    )
    # Written again it is the same: so no zeros lead, and a full tile names no width.
    if tile_path(tile) != path or not 0 < tile.width <= TILE_WIDTH or tile.level >= LEVELS_MAX:
        raise ValueError(f"{path[:100]!r} is not the path of a tile")
    return tile


def tiles_between(old_size: int, new_size: int) -> Iterator[TileId]:
    """What publishing the step has to write, level by level: the tiles that it fills and those it leaves partial."""
    old, new, level = old_size, new_size, 0
    while new > old:
        yield from _tiles_of(level, old, new)
        old, new, level = old >> TILE_BITS, new >> TILE_BITS, level + 1


def bundles_between(old_size: int, new_size: int) -> Iterator[TileId]:
    """The entry bundles that the step fills or leaves partial."""
    if new_size > old_size:
        yield from _tiles_of(ENTRIES, old_size, new_size)


def edge_tiles(size: int) -> Iterator[TileId]:
    """The partial tiles of a tree, at most one a level: with their hashes it can be extended."""
    for level in range(_levels_of(size)):
        number, width = divmod(size >> TILE_BITS * level, TILE_WIDTH)
        if width:
            yield TileId(level, number, width)


def tile_roots(hashes: bytes) -> bytes:
    """The roots of full tiles that follow each other: what the level above holds of them."""
    if len(hashes) % TILE_BYTES:
        raise ValueError(f"{len(hashes)} bytes are not full tiles")
    roots = []
    for start in range(0, len(hashes), _PORTION_BYTES):
        nodes = hashes[start : start + _PORTION_BYTES]
        for _ in range(TILE_BITS):
            nodes = pair_hashes(nodes)
        roots.append(nodes)
    return b"".join(roots)


class TileTree:
    """The right edge of a growing tree: its partial tiles, and the full ones that were not yet forgotten.

    Takes 32 bytes for each leaf since the last `forget_below`, and at most 8 kB a level besides.
    """

    __slots__ = ("_first", "_levels", "size")

    def __init__(self) -> None:
        self.size = 0
        self._levels: list[bytearray] = []  # of each level, the hashes from tile `_first[level]` on
        self._first: list[int] = []

    def extend(self, hashes: bytes) -> None:
        """Append leaf hashes, concatenated. Each inner node is hashed once, when its tile is full."""
        if len(hashes) % HASH_BYTES:
            raise ValueError(f"{len(hashes)} bytes are not whole hashes")
        self.size += len(hashes) // HASH_BYTES
        level = 0
        while hashes:
            if level == len(self._levels):
                self._levels.append(bytearray())
                self._first.append(0)
            kept = self._levels[level]
            before = len(kept)
            kept += hashes
            hashes = tile_roots(bytes(kept[before - before % TILE_BYTES : len(kept) - len(kept) % TILE_BYTES]))
            level += 1

    def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile, or the first `width` of them. Raises LookupError if it is forgotten or yet to come."""
        level, number, width = tile
        if 0 <= level < len(self._levels):
            start = (number - self._first[level]) * TILE_BYTES
            hashes = self._levels[level][start : start + width * HASH_BYTES] if start >= 0 else b""
            if len(hashes) == width * HASH_BYTES:
                return bytes(hashes)
        raise LookupError(f"{tile_path(tile)} is not among the tiles of a tree of {self.size} that are kept")

    def root(self) -> bytes:
        return root_of(self.size, self.tile)

    def forget_below(self, size: int) -> None:
        """Forget the full tiles of the tree of `size`, published by now. `tiles_between(size, …)` are kept."""
        if not 0 <= size <= self.size:
            raise ValueError(f"a tree of {self.size} has no earlier size {size}")
        for level, kept in enumerate(self._levels):
            first = max(self._first[level], size >> TILE_BITS * (level + 1))
            del kept[: (first - self._first[level]) * TILE_BYTES]
            self._first[level] = first

    def state(self) -> bytes:
        """All of it: size (u64), number of levels (u8), and of each level the first tile (u64) and the hashes."""
        parts: list[bytes | bytearray] = [_STATE.pack(self.size, len(self._levels))]
        for first, kept in zip(self._first, self._levels, strict=True):
            parts += (_FIRST.pack(first), kept)
        return b"".join(parts)

    @classmethod
    def from_edge(cls, size: int, read: ReadTile) -> Self:
        """The tree of `size`, given its `edge_tiles`. Wrong hashes show only in `root()`. Raises TileInvalidError."""
        tree = cls()
        tree.size = size
        edge = {tile.level: _checked(tile, read(tile)) for tile in edge_tiles(size)}
        for level in range(_levels_of(size)):
            tree._first.append(size >> TILE_BITS * (level + 1))
            tree._levels.append(bytearray(edge.get(level, b"")))
        return tree

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """The tree that `state()` wrote down. Raises ValueError for bytes that it cannot have written.

        Damaged hashes show only in `root()`: compare it with one that is known.
        """
        tree = cls()
        try:
            tree.size, levels = _STATE.unpack_from(state)
            at, count = _STATE.size, tree.size
            for _ in range(levels):
                (first,) = _FIRST.unpack_from(state, at)
                at += _FIRST.size
                end = at + (count - first * TILE_WIDTH) * HASH_BYTES
                if not at <= end <= len(state):
                    raise ValueError("hashes are missing from the state of a tile tree")
                tree._first.append(first)
                tree._levels.append(bytearray(state[at:end]))
                at, count = end, count >> TILE_BITS
        except struct.error as error:
            raise ValueError("the state of a tile tree is cut short") from error
        if at != len(state) or count or levels != _levels_of(tree.size):
            raise ValueError("not the state of a tile tree")
        return tree


def root_of(size: int, read: ReadTile) -> bytes:
    """The root of the tree of `size`. Reads its partial tiles, or the last ones. Raises TileInvalidError."""
    return range_hashes([(0, size)], size, read)[0] if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: ReadTile) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size`.

    Raises IndexError if there is no such leaf, TileInvalidError for a tile of another length.
    """
    return range_hashes(inclusion_ranges(index, size), size, read)


def consistency_proof(old_size: int, size: int, read: ReadTile) -> list[bytes]:
    """The proof that the tree of `size` continues that of `old_size`. Raises as `inclusion_proof`."""
    return range_hashes(consistency_ranges(old_size, size), size, read)


def needed_tiles(ranges: Ranges, size: int) -> set[TileId]:
    """The tiles that `range_hashes` will read, so that they can be fetched first, all at once.

    Their widths are those in the tree of `size`: a server may have deleted a partial tile once it has the full one,
    of which then the first `width` hashes are meant.
    """
    return {tile for start, end in ranges for tile, _, _ in _subtrees(start, end, size)}


def range_hashes(ranges: Ranges, size: int, read: ReadTile) -> list[bytes]:
    """The root over each range of leaves of the tree of `size`. Each tile is read once. Raises TileInvalidError."""
    tiles: dict[TileId, bytes] = {}
    roots = []
    for start, end in ranges:
        root = b""
        for tile, first, count in reversed(list(_subtrees(start, end, size))):  # the smallest stands at the right
            if tile not in tiles:
                tiles[tile] = _checked(tile, read(tile))
            hashes = tiles[tile][first * HASH_BYTES : (first + count) * HASH_BYTES]
            while len(hashes) > HASH_BYTES:
                hashes = pair_hashes(hashes)
            root = node_hash(hashes, root) if root else hashes
        roots.append(root)
    return roots


def encode_entries(leaves: Sequence[bytes]) -> bytes:
    """An entry bundle of at most 256 leaves, each with its length (u16) before it. Raises ValueError."""
    if not 0 < len(leaves) <= TILE_WIDTH or max(map(len, leaves)) > ENTRY_BYTES_MAX:
        raise ValueError(f"a bundle has 1 to {TILE_WIDTH} leaves of at most {ENTRY_BYTES_MAX} bytes")
    return b"".join([part for leaf in leaves for part in (_LENGTH.pack(len(leaf)), leaf)])


def decode_entries(bundle: bytes, width: int) -> list[bytes]:
    """The `width` leaves of an entry bundle, unverified. Raises TileInvalidError."""
    leaves: list[bytes] = []
    at, end = 0, len(bundle)
    while at < end and len(leaves) < width:
        start = at + _LENGTH.size
        if start > end:
            raise TileInvalidError("an entry bundle is cut short")
        at = start + (bundle[at] << 8 | bundle[at + 1])
        leaves.append(bundle[start:at])
    if at != end or len(leaves) != width:
        raise TileInvalidError(f"an entry bundle does not hold just {width} leaves")
    return leaves


def _tiles_of(level: int, old: int, new: int) -> Iterator[TileId]:
    """The tiles of a level in which hashes from `old` to `new` (counted in that level) stand."""
    for number in range(old >> TILE_BITS, new >> TILE_BITS):
        yield TileId(level, number, TILE_WIDTH)
    if new % TILE_WIDTH:
        yield TileId(level, new >> TILE_BITS, new % TILE_WIDTH)


def _levels_of(size: int) -> int:
    """How many levels of tiles a tree has."""
    return (size.bit_length() + TILE_BITS - 1) // TILE_BITS


def _subtrees(start: int, end: int, size: int) -> Iterator[tuple[TileId, int, int]]:
    """The whole subtrees that a range consists of: for each a tile, and which of its hashes (first, count) are its
    leaves. Valid for ranges as the tree is divided into (RFC 6962, 2.1), where the largest subtree comes first.
    """
    while start < end:
        height = (end - start).bit_length() - 1
        level, bits = divmod(height, TILE_BITS)
        number, first = divmod(start >> level * TILE_BITS, TILE_WIDTH)
        width = min(TILE_WIDTH, (size >> level * TILE_BITS) - number * TILE_WIDTH)
        yield TileId(level, number, width), first, 1 << bits
        start += 1 << height


def _checked(tile: TileId, hashes: bytes) -> bytes:
    if len(hashes) != tile.width * HASH_BYTES:
        raise TileInvalidError(f"{tile_path(tile)} has {len(hashes)} bytes, not {tile.width * HASH_BYTES}")
    return hashes
