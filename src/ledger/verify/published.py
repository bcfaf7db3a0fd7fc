"""What a log has published of one partition, in a folder: checkpoint, tiles, entry bundles, what retention dropped.

It is read as it stands there, and held against the log by whoever asks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.errors import HeadInvalidError, TileInvalidError
from ledger.format import retention
from ledger.format.merkle import HASH_BYTES
from ledger.format.retention import RETENTION_KEY, NamedSnapshot, Retention
from ledger.format.tiles import ENTRIES, TILE_WIDTH, TileId, decode_entries, tile_path
from ledger.protocol.head import decode_head
from ledger.protocol.places import is_written_once

CHECKPOINT: Final = "checkpoint"
HEAD: Final = "ctl/head"
ANY_PARTITION: Final = 0


@dataclass(frozen=True, slots=True)
class Published:
    """`folder` is where the partition's `checkpoint` and `tile/` are. `control` is where those of them are that are
    replaced or removed, if that is elsewhere (docs/formats/store.md).
    """

    folder: Path
    control: Path | None = None

    def checkpoint(self) -> bytes | None:
        """The signed note. Raises OSError."""
        return self._read(CHECKPOINT)

    def committed(self) -> bytes | None:
        """The signed note in the head, which is what the log has committed and may be newer. None where there is no
        head, or none that can be read: it is not public. Raises OSError.
        """
        data = self._read(HEAD)
        try:
            return None if data is None else decode_head(data).checkpoint.encode()
        except HeadInvalidError:
            return None

    def retention(self) -> Retention:
        """What the log says that it has dropped. Raises RetentionInvalidError, OSError."""
        data = self._read(RETENTION_KEY)
        return Retention() if data is None else retention.decode(data)

    def snapshot(self, named: NamedSnapshot) -> bytes | None:
        """The bytes of a snapshot that stands for what was dropped. Raises OSError."""
        return self._read(named.key())

    def tile(self, tile: TileId) -> bytes | None:
        """As many hashes as its width says, from the tile itself or, where that was deleted, from a fuller one.

        Raises TileInvalidError, OSError.
        """
        held, data = self._find(tile)
        if data is not None and len(data) != held * HASH_BYTES:
            raise TileInvalidError(f"{tile_path(tile)} has {len(data)} bytes, not {held * HASH_BYTES}")
        return None if data is None else data[: tile.width * HASH_BYTES]

    def entries(self, number: int, width: int) -> list[bytes] | None:
        """The first `width` leaves of an entry bundle. Raises as `tile`."""
        held, data = self._find(TileId(ENTRIES, number, width))
        return None if data is None else decode_entries(data, held)[:width]

    def has_entries(self, number: int, width: int) -> bool:
        """Whether there is a bundle of so many leaves, or a fuller one. Raises OSError."""
        bundle = TileId(ENTRIES, number, width)
        return self.path(bundle).exists() or (width < TILE_WIDTH and self._find(bundle)[1] is not None)

    def path(self, tile: TileId) -> Path:
        return self._place(tile_path(tile))

    def _find(self, tile: TileId) -> tuple[int, bytes | None]:
        """A tile or bundle that holds this one, and how wide it is. Partial ones give way to fuller ones."""
        data = self._read(tile_path(tile))
        if data is not None or tile.width == TILE_WIDTH:
            return tile.width, data
        widths = [int(each.name) for each in self.path(tile).parent.glob("*") if each.name.isdecimal()]
        for width in sorted({TILE_WIDTH, *(width for width in widths if tile.width < width < TILE_WIDTH)}):
            data = self._read(tile_path(tile._replace(width=width)))
            if data is not None:
                return width, data
        return tile.width, None

    def _read(self, name: str) -> bytes | None:
        try:
            return self._place(name).read_bytes()
        except FileNotFoundError:
            return None

    def _place(self, name: str) -> Path:
        if self.control is None or is_written_once(f"{ANY_PARTITION}/{name}"):
            return self.folder / name
        return self.control / name


def bundle_widths(size: int) -> Iterator[tuple[int, int]]:
    """Number and width of each entry bundle of a log with `size` receipts."""
    for number in range(-(-size // TILE_WIDTH)):
        yield number, min(TILE_WIDTH, size - number * TILE_WIDTH)
