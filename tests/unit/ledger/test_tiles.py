"""Tiles against the examples of C2SP tlog-tiles, and their errors."""

import pytest

from ledger.errors import TileInvalidError
from ledger.format.merkle import leaf_hash, root_of
from ledger.format.tiles import (
    ENTRIES,
    TILE_WIDTH,
    TileId,
    TileTree,
    bundles_between,
    consistency_proof,
    decode_entries,
    encode_entries,
    inclusion_proof,
    parse_tile_path,
    tile_path,
    tile_roots,
    tiles_between,
)
from ledger.format.tiles import root_of as root_from

HASHES = [leaf_hash(b"%d" % number) for number in range(600)]


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (TileId(0, 1234067, 256), "tile/0/x001/x234/067"),  # the example of C2SP tlog-tiles
        (TileId(0, 0, 256), "tile/0/000"),
        (TileId(63, 999, 255), "tile/63/999.p/255"),
        (TileId(1, 1000, 1), "tile/1/x001/000.p/1"),
        (TileId(2, 67_000_000, 17), "tile/2/x067/x000/000.p/17"),
        (TileId(ENTRIES, 5, 256), "tile/entries/005"),
        (TileId(ENTRIES, 1005, 9), "tile/entries/x001/005.p/9"),
        (TileId(0, 2**55, 256), "tile/0/x036/x028/x797/x018/x963/968"),
    ],
)
def test_a_tile_has_the_path_of_the_specification(tile: TileId, path: str) -> None:
    assert tile_path(tile) == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/01/000", "tile/64/000",
        "tile/-1/000", "tile/0/x000/067", "tile/0/x001", "tile/0/001/x002", "tile/0/001/002", "tile/0/x01/002",
        "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/", "tile/0/000.p", "tile/0/000.p/1/",
        "tile/0/000.p/257", "/tile/0/000", "tile/0/000\n", "tile/0/000 ", "tile/data/000", "tile/entries/x000/001",
        "tile/0/\N{ARABIC-INDIC DIGIT ONE}00", "tile/0/../000", "tile/0/" + "x001/" * 7 + "000", "TILE/0/000",
    ],
)  # fmt: skip
def test_no_other_path_names_a_tile(path: str) -> None:
    with pytest.raises(ValueError, match="is not the path of a tile"):
        parse_tile_path(path)


def test_a_tree_of_70000_has_the_tiles_of_the_specifications_example() -> None:
    tiles = list(tiles_between(0, 70_000))
    assert [tile for tile in tiles if tile.width < TILE_WIDTH] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert [tile.number for tile in tiles if tile.level == 0 and tile.width == TILE_WIDTH] == list(range(273))
    assert [tile for tile in tiles if tile.level == 1 and tile.width == TILE_WIDTH] == [(1, 0, 256)]
    assert len(tiles) == 273 + 1 + 3


def test_a_tree_of_256_has_a_full_tile_and_one_of_width_1_above() -> None:
    assert list(tiles_between(0, 256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tiles_between(255, 256)) == [(0, 0, 256), (1, 0, 1)]
    assert list(tiles_between(256, 257)) == [(0, 1, 1)]
    assert list(tiles_between(256, 256)) == list(tiles_between(0, 0)) == list(bundles_between(7, 7)) == []
    assert list(bundles_between(200, 520)) == [(ENTRIES, 0, 256), (ENTRIES, 1, 256), (ENTRIES, 2, 8)]


def test_forgetting_keeps_what_the_next_publication_writes() -> None:
    tree = TileTree()
    tree.extend(b"".join(HASHES[:300]))
    tree.forget_below(300)
    with pytest.raises(LookupError):
        tree.tile(TileId(0, 0, 256))
    tree.extend(b"".join(HASHES[300:]))
    written = {tile: tree.tile(tile) for tile in tiles_between(300, 600)}
    assert written[TileId(0, 1, 256)] == b"".join(HASHES[256:512])
    assert written[TileId(0, 2, 88)] == b"".join(HASHES[512:])
    assert written[TileId(1, 0, 2)] == root_of(HASHES[:256]) + root_of(HASHES[256:512])
    assert tree.root() == root_of(HASHES)
    tree.forget_below(10)  # of an earlier size: nothing to forget, and nothing comes back
    assert tree.tile(TileId(0, 1, 256)) == b"".join(HASHES[256:512])
    for size in (-1, 601):
        with pytest.raises(ValueError, match="no earlier size"):
            tree.forget_below(size)


def test_a_tile_that_is_not_there_is_not_given() -> None:
    tree = TileTree()
    tree.extend(b"".join(HASHES[:300]))
    assert tree.tile(TileId(0, 1, 44)) == b"".join(HASHES[256:300])
    assert tree.tile(TileId(0, 1, 3)) == b"".join(HASHES[256:259])
    for absent in (TileId(0, 1, 45), TileId(0, 2, 1), TileId(1, 0, 2), TileId(2, 0, 1), TileId(ENTRIES, 0, 256)):
        with pytest.raises(LookupError, match=tile_path(absent)):
            tree.tile(absent)


def test_half_a_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="whole hashes"):
        TileTree().extend(bytes(33))
    with pytest.raises(ValueError, match="full tiles"):
        tile_roots(bytes(32))


def test_a_state_that_was_never_written_is_refused() -> None:
    tree = TileTree()
    tree.extend(b"".join(HASHES))
    state = tree.state()
    larger_size = (601).to_bytes(8, "big") + state[8:]
    fewer_levels = state[:8] + b"\1" + state[9:]
    more_levels = state[:8] + b"\3" + state[9:]
    level_without_tiles = state[:8] + b"\3" + state[9:] + bytes(8)
    first_beyond = state[:9] + (3).to_bytes(8, "big") + state[17:]
    wrong_levels = (fewer_levels, more_levels, level_without_tiles)
    for wrong in (b"", state[:5], state[:-1], state + b"\0", larger_size, *wrong_levels, first_beyond):
        with pytest.raises(ValueError, match="state of a tile tree"):
            TileTree.from_state(wrong)
    assert TileTree.from_state(state).root() == root_of(HASHES)
    assert TileTree.from_state(TileTree().state()).size == 0


def test_a_tile_of_another_length_is_refused_by_its_name() -> None:
    tree = TileTree()
    tree.extend(b"".join(HASHES))
    for wrong in (lambda tile: tree.tile(tile)[:-1], lambda tile: tree.tile(tile) + bytes(32), lambda _: b""):
        with pytest.raises(TileInvalidError, match="tile/0/002"):
            inclusion_proof(599, 600, wrong)
        with pytest.raises(TileInvalidError):
            root_from(600, wrong)


def test_proofs_of_what_is_not_in_the_tree_are_refused() -> None:
    tree = TileTree()
    tree.extend(b"".join(HASHES))
    for index in (-1, 600):
        with pytest.raises(IndexError):
            inclusion_proof(index, 600, tree.tile)
    with pytest.raises(IndexError):
        consistency_proof(601, 600, tree.tile)


def test_an_entry_bundle_gives_its_leaves_back() -> None:
    leaves = [b"", b"x", b"y" * 65_535] + [b"%d" % number for number in range(253)]
    bundle = encode_entries(leaves)
    assert bundle[:5] == b"\0\0\0\1x"
    assert decode_entries(bundle, 256) == leaves
    for wrong in (bundle[:-1], bundle + b"\0", bundle + b"\0\0", bundle[:1], b""):
        with pytest.raises(TileInvalidError):
            decode_entries(wrong, 256)
    for width in (255, 257, 0):
        with pytest.raises(TileInvalidError):
            decode_entries(bundle, width)
    for beyond in ([], [b"x"] * 257, [b"y" * 65_536]):
        with pytest.raises(ValueError, match="a bundle has"):
            encode_entries(beyond)
