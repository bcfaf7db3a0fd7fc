"""The tile tree against the compact range and the proofs over a list of leaves, which know nothing of tiles."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.format import merkle, tiles
from ledger.format.merkle import CompactRange, leaf_hash, root_of
from ledger.format.tiles import TILE_WIDTH, TileId, TileTree, needed_tiles, tiles_between

# Two full tiles of level 1 would take 131,072 leaves: instead the tree repeats a few hashes, whose order still shows.
HASHES = b"".join(leaf_hash(b"%d" % number) for number in range(3_000))
LEAVES = [HASHES[at : at + 32] for at in range(0, len(HASHES), 32)]
PORTIONS = st.lists(st.sampled_from((0, 1, 2, 255, 256, 257, 512)) | st.integers(0, 700), max_size=6)


def grown(portions: list[int]) -> TileTree:
    tree = TileTree()
    for portion in portions:
        tree.extend(HASHES[tree.size * 32 :][: portion * 32])
    return tree


@given(PORTIONS)
def test_a_tile_tree_has_the_root_of_a_compact_range(portions: list[int]) -> None:
    tree, compact = TileTree(), CompactRange()
    for portion in portions:
        leaves = LEAVES[tree.size : tree.size + portion]
        tree.extend(b"".join(leaves))
        compact.extend(leaves)
        assert (tree.size, tree.root()) == (compact.size, compact.root())


def test_a_tile_tree_of_three_levels_has_the_root_of_a_compact_range() -> None:
    leaves = (LEAVES * 50)[:140_000]
    tree, compact = TileTree(), CompactRange()
    for start, end in ((0, 65_535), (65_535, 65_536), (65_536, 131_072), (131_072, 140_000)):
        tree.extend(b"".join(leaves[start:end]))
        compact.extend(leaves[start:end])
        assert tree.root() == compact.root()
    tree.forget_below(tree.size)
    assert tree.root() == compact.root()
    assert TileTree.from_state(tree.state()).root() == compact.root()
    assert len(tree.state()) < 3 * 8192


@given(PORTIONS, st.data())
def test_a_state_is_all_of_a_tile_tree(portions: list[int], data: st.DataObject) -> None:
    tree = grown(portions)
    tree.forget_below(data.draw(st.integers(0, tree.size)))
    again = TileTree.from_state(tree.state())
    assert (again.size, again.root(), again.state()) == (tree.size, tree.root(), tree.state())
    more = HASHES[tree.size * 32 :][: data.draw(st.integers(0, 300)) * 32]
    tree.extend(more)
    again.extend(more)
    assert again.state() == tree.state()


@given(PORTIONS)
def test_what_each_step_writes_is_together_all_that_any_proof_reads(portions: list[int]) -> None:
    """A reader of the files alone, each written once, after the step that needs it, and forgotten at once."""
    tree, files = TileTree(), dict[TileId, bytes]()
    for portion in portions:
        old = tree.size
        tree.extend(HASHES[old * 32 :][: portion * 32])
        for tile in tiles_between(old, tree.size):
            assert tile not in files
            files[tile] = tree.tile(tile)
            assert len(files[tile]) == tile.width * 32
        tree.forget_below(tree.size)
        size = tree.size
        assert tiles.root_of(size, files.__getitem__) == root_of(LEAVES[:size])
        for index in {0, old, size // 2, size - 1} & set(range(size)):
            assert tiles.inclusion_proof(index, size, files.__getitem__) == merkle.inclusion_proof(LEAVES[:size], index)
        assert tiles.consistency_proof(old, size, files.__getitem__) == merkle.consistency_proof(LEAVES[:size], old)


@settings(max_examples=60)
@given(st.data())
def test_proofs_from_tiles_are_those_over_the_leaves_and_read_just_the_tiles_they_announce(
    data: st.DataObject,
) -> None:
    whole = grown([3_000])
    size = data.draw(st.integers(1, 3_000))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    read: set[TileId] = set()

    def reader(tile: TileId) -> bytes:
        assert tile not in read
        read.add(tile)
        assert tile.number * TILE_WIDTH + tile.width <= size >> 8 * tile.level
        return whole.tile(tile)

    assert tiles.inclusion_proof(index, size, reader) == merkle.inclusion_proof(LEAVES[:size], index)
    assert read == needed_tiles(merkle.inclusion_ranges(index, size), size)
    read.clear()
    assert tiles.consistency_proof(old, size, reader) == merkle.consistency_proof(LEAVES[:size], old)
    assert read == needed_tiles(merkle.consistency_ranges(old, size), size)
    read.clear()
    assert tiles.root_of(size, reader) == root_of(LEAVES[:size])
    assert read == needed_tiles([(0, size)], size)


@given(st.integers(0, 2**40), st.integers(0, 2_000), st.integers(0, 2_000))
def test_two_steps_write_what_one_step_writes_and_partial_tiles_besides(start: int, first: int, second: int) -> None:
    middle, end = start + first, start + first + second
    at_once = set(tiles_between(start, end))
    in_two = set(tiles_between(start, middle)) | set(tiles_between(middle, end))
    full = {tile for tile in in_two if tile.width == TILE_WIDTH}
    assert full == {tile for tile in at_once if tile.width == TILE_WIDTH}
    if second:
        assert at_once >= set(tiles_between(middle, end))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_entry_bundles_give_their_leaves_back(leaves: list[bytes]) -> None:
    assert tiles.decode_entries(tiles.encode_entries(leaves), len(leaves)) == leaves
