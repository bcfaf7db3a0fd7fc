"""Asks other workers which has a partition, while somebody here waits for it: heartbeats tell it seconds later."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from governors.cluster.admission_follow import PeerUnavailableError, target_of
from governors.cluster.admission_view import AnswerInvalidError, Have, read_answer
from governors.cluster.moves import Moves
from governors.cluster.whereabouts import Whereabouts

EVERY_S: Final = 0.2
ASK_S: Final = 1.0


class Inquiry:
    """`ask(url)` gets what is there, and raises PeerUnavailableError."""

    def __init__(
        self, where: Whereabouts, moves: Moves, ask: Callable[[str], Awaitable[bytes]], rng: random.Random
    ) -> None:
        self._where = where
        self._moves = moves
        self._ask = ask
        self._rng = rng

    async def run(self) -> NoReturn:
        """Ask again and again for as long as somebody waits, until cancelled. Each worker is asked by itself: the one
        that ends is among them, and it is slow to answer just then.
        """
        under_way = dict[str, asyncio.Task[None]]()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._moves.missed.wait()
                under_way = {url: task for url, task in under_way.items() if not task.done()}
                for url, partitions in self._to_ask().items():
                    if url not in under_way:
                        under_way[url] = group.create_task(self._find(url, partitions), name=f"ask-{url}")
                await asyncio.sleep(EVERY_S * self._rng.uniform(0.7, 1.0))

    def _to_ask(self) -> dict[str, list[int]]:
        """Whom, and for which partitions."""
        found: dict[str, list[int]] = {}
        for partition in self._moves.waited_for:
            if not self._where.has(partition) and self._where.url_of(partition) is None:
                for url in self._where.candidates(partition):
                    found.setdefault(url, []).append(partition)
        return found

    async def _find(self, url: str, partitions: list[int]) -> None:
        """What is not there, or may not be told of now, is not in the answer."""
        try:
            async with asyncio.timeout(ASK_S):
                pages = read_answer(await self._ask(url + target_of(Have(one, "", 0) for one in partitions)))
        except (PeerUnavailableError, AnswerInvalidError, TimeoutError):
            return
        found = {page.partition for page in pages} & set(partitions)
        for partition in found:
            self._where.see(partition, url)
        if found:
            self._moves.tell()
