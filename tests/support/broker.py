"""A broker in memory that does what a test's script says: a `Subscriber` for the pull loop on virtual time."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.source import TAKEN, AckResult, Delivery

NAME = "projects/p/subscriptions/signals"
UNAVAILABLE = SourceUnavailableError(f"{NAME}: UNAVAILABLE: try again")
FORBIDDEN = SourceRefusedError(f"{NAME}: PERMISSION_DENIED: no")
VANISHED = SourceRefusedError(f"{NAME}: NOT_FOUND: no such subscription", vanished=True)

_numbers = count(1)


def delivery(payload: bytes = b"{}", attempt: int = 1) -> Delivery:
    number = next(_numbers)
    return Delivery(payload, {}, f"m{number}", 0, attempt, "", f"a{number}")


def now_s() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class ScriptedBroker:
    """Each pull takes the next of `supply`: deliveries, an error, or once it is empty a wait for the whole timeout.

    `ack_failures` and `modify_failures` are raised by the next such requests, or are their results.
    """

    supply: deque[list[Delivery] | Exception] = field(default_factory=deque)
    ack_failures: deque[Exception | AckResult] = field(default_factory=deque)
    modify_failures: deque[Exception | AckResult] = field(default_factory=deque)
    pulls: list[tuple[float, int]] = field(default_factory=list)  # when, how many were asked for
    acked: list[str] = field(default_factory=list)
    ack_requests: list[tuple[float, list[str]]] = field(default_factory=list)
    nacked: list[str] = field(default_factory=list)
    extended: list[tuple[float, list[str]]] = field(default_factory=list)
    pull_takes_s: float = 0.0
    ack_takes_s: float = 0.0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return NAME

    def give(self, *items: list[Delivery] | Exception) -> None:
        self.supply.extend(items)
        self._news.set()

    async def pull(self, messages_max: int, timeout_s: float) -> list[Delivery]:
        self.pulls.append((now_s(), messages_max))
        await asyncio.sleep(self.pull_takes_s)
        try:
            async with asyncio.timeout(timeout_s):
                while not self.supply:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return []
        item = self.supply.popleft()
        if isinstance(item, Exception):
            raise item
        if len(item) > messages_max:
            self.supply.appendleft(item[messages_max:])
        return item[:messages_max]

    async def acknowledge(self, ack_ids: Sequence[str], timeout_s: float) -> AckResult:
        self.ack_requests.append((now_s(), list(ack_ids)))
        await asyncio.sleep(self.ack_takes_s)
        result = _fail(self.ack_failures, ack_ids)
        self.acked.extend(ack_id for ack_id in ack_ids if ack_id not in result.lost | result.failed)
        return result

    async def modify_ack_deadline(
        self,
        ack_ids: Sequence[str],
        deadline_s: int,
        timeout_s: float,
    ) -> AckResult:
        result = _fail(self.modify_failures, ack_ids)
        taken = [ack_id for ack_id in ack_ids if ack_id not in result.lost | result.failed]
        if deadline_s:
            self.extended.append((now_s(), taken))
        else:
            self.nacked.extend(taken)
        return result


def _fail(failures: deque[Exception | AckResult], ack_ids: Sequence[str]) -> AckResult:
    failure = failures.popleft() if failures else TAKEN
    if isinstance(failure, Exception):
        raise failure
    return AckResult(failure.lost.intersection(ack_ids), failure.failed.intersection(ack_ids))


async def until(condition: Callable[[], bool], within_s: float = 3_600.0) -> None:
    """Wait, on the loop's own clock, until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - whatever it is, nobody sets an event for it
            await asyncio.sleep(0.01)
