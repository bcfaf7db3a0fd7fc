"""Keeps views of the admission of those partitions whose logs other workers have: asks each worker every second, which
shows who does not answer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final

from prometheus_client import Gauge

from governors.api.peers import ADMISSION_PATH, HAVES_MAX
from governors.cluster.admission_view import AdmissionView, AnswerInvalidError, Have, read_answer

EVERY_S: Final = 1.0
ASK_S: Final = 2.0
"""For one answer. With the longest wait between two tries it stays below the default age that a view may have."""
BACKOFF_S_MAX: Final = 4.0


class PeerUnavailableError(Exception):
    """Another worker could not be asked, or gave no answer."""


class AdmissionFollower:
    """`others()` are the addresses of all other workers, each with the partitions whose logs it has. `ask(url)` gets
    what is there, and raises PeerUnavailableError. `on_failed(url, why)` is told of the first of several failures in a
    row, and the address is among the `unreached` until somebody answers there.
    """

    def __init__(
        self,
        views: Mapping[int, AdmissionView],
        others: Callable[[], Mapping[str, Sequence[int]]],
        ask: Callable[[str], Awaitable[bytes]],
        rng: random.Random,
        on_failed: Callable[[str, str], None],
        unreached: set[str],
    ) -> None:
        self._views = views
        self._others = others
        self._ask = ask
        self._rng = rng
        self._on_failed = on_failed
        self._unreached = unreached

    async def run(self) -> None:
        """Follow until cancelled. Each worker is asked by itself: one that hangs delays no other's answers."""
        following: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                others = self._others()
                for view in self._views.values():
                    view.share_among(1 + len(others))
                following = {url: task for url, task in following.items() if not task.done()}
                for url in others:
                    if url not in following:
                        following[url] = group.create_task(self._follow(url), name=f"follow-{url}")
                await asyncio.sleep(EVERY_S)

    def tell_ages(self, gauge: Gauge, is_here: Callable[[int], bool]) -> None:
        """Have the gauge say how old each view is: 0 for a partition whose log is here, endless where nothing was ever
        told. For the event loop's thread alone.
        """

        def tell(view: AdmissionView) -> Callable[[], float]:
            def age_s() -> float:
                age_s = 0.0 if is_here(view.partition) else view.age_s(asyncio.get_running_loop().time())
                return inf if age_s is None else age_s

            return age_s

        for view in self._views.values():
            gauge.labels(str(view.partition)).set_function(tell(view))

    async def _follow(self, url: str) -> None:
        """Until it is gone."""
        failures = 0
        try:
            while (wanted := self._others().get(url)) is not None:
                try:
                    # Of one that has none it is enough that it answers.
                    for first in range(0, max(1, len(wanted)), HAVES_MAX):
                        await self._catch_up(url, wanted[first : first + HAVES_MAX])
                    failures = 0
                    self._unreached.discard(url)
                except (PeerUnavailableError, AnswerInvalidError, TimeoutError) as error:
                    self._unreached.add(url)
                    if not failures:
                        self._on_failed(url, str(error) or f"no answer within {ASK_S:g} s")
                    failures += 1
                wait_s = min(EVERY_S * 2.0**failures, BACKOFF_S_MAX)
                # Spread out, so that workers that were started together do not all ask at once.
                await asyncio.sleep(wait_s * self._rng.uniform(0.7, 1.0))
        finally:
            self._unreached.discard(url)

    async def _catch_up(self, url: str, wanted: Iterable[int]) -> None:
        """Ask until everything was told."""
        loop = asyncio.get_running_loop()
        asked = {partition: self._views[partition] for partition in wanted}
        while True:
            asked_s = loop.time()
            async with asyncio.timeout(ASK_S):
                answer = await self._ask(url + target_of(view.have for view in asked.values()))
            pages = [page for page in read_answer(answer) if page.partition in asked]
            asked = {
                page.partition: asked[page.partition] for page in pages if asked[page.partition].install(page, asked_s)
            }
            if not asked:
                return


def target_of(haves: Iterable[Have]) -> str:
    """The path and query that ask for what somebody with this does not have."""
    return f"{ADMISSION_PATH}?" + "&".join(f"have={one.partition}:{one.run}:{one.version}" for one in haves)
