"""What everybody can see to be committed: the heads of a log's partitions, looked at again and again."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import httpx
from support.kept import read_receipts

from ledger.format import canonical
from ledger.format.merkle import CompactRange, leaf_hash
from ledger.format.receipt import Receipt
from ledger.protocol.head import decode_head

LOOK_EVERY_S: Final = 0.25


class Committed(NamedTuple):
    """What a head says."""

    epoch: int
    size: int
    root: bytes


NOTHING: Final = Committed(0, 0, b"")


class Heads:
    """Those of the log at gs://`bucket`/`prefix`, as a server at `url` has them. Asserts that none goes back."""

    def __init__(self, url: str, bucket: str, prefix: str) -> None:
        self._place = f"{url}/download/storage/v1/b/{bucket}/o/"
        self._prefix = prefix
        self.partitions: set[int] = {0}
        """Which ones there are, as a worker tells."""
        self.seen: dict[int, list[Committed]] = {}
        """All that were seen, by partition, in order."""
        self._client = httpx.AsyncClient(timeout=10.0)

    async def close(self) -> None:
        """Look no more."""
        await self._client.aclose()

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> dict[int, Committed]:
        """By partition; those that nobody has committed to are not there."""
        await asyncio.gather(*map(self._look_at, self.partitions))
        return self.now

    @property
    def now(self) -> dict[int, Committed]:
        """As they were seen last."""
        return {partition: seen[-1] for partition, seen in self.seen.items()}

    async def _look_at(self, partition: int) -> None:
        name = quote(f"{self._prefix}/{partition}/ctl/head", safe="")
        try:
            answer = await self._client.get(self._place + name, params={"alt": "media"})
        except httpx.TransportError:
            return  # servers may end a connection that is idle; the next look is soon
        if answer.status_code == httpx.codes.NOT_FOUND:
            return
        answer.raise_for_status()
        head = decode_head(answer.content)
        new = Committed(head.epoch, head.size, head.root_bytes())
        seen = self.seen.setdefault(partition, [])
        # Two looks may be answered in either order.
        if seen and new[:2] < seen[-1][:2] and new in seen:
            return
        assert not seen or (new.epoch >= seen[-1].epoch and new.size >= seen[-1].size), f"{seen[-1]} went back to {new}"
        if not seen or new != seen[-1]:
            seen.append(new)


def replaced(data_dir: Path, seen: Mapping[int, Iterable[Committed]]) -> list[str]:
    """In words, what was committed once and is not in the log that a data folder holds: where another writer committed
    the same indices, its tree has another root.
    """
    expected = {(partition, one.size): one.root for partition, heads in seen.items() for one in heads if one.size}
    trees: dict[int, CompactRange] = {}

    def grow(partition: int, index: int, receipt: Receipt) -> None:
        tree = trees.setdefault(partition, CompactRange())
        tree.append(leaf_hash(canonical.encode(receipt)))
        root = expected.get((partition, tree.size))
        if root is not None and root == tree.root():
            del expected[partition, tree.size]

    read_receipts(data_dir, grow)
    return [
        f"partition {partition}: {size} receipts with root {root.hex()}" for (partition, size), root in expected.items()
    ]
