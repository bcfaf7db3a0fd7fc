"""The outbox: an action goes out only after its receipt is committed, and its result comes back as an event.

Nothing here is durable and nothing needs to be: an open action stands in its machine's record until the result is
in, so after a crash it is submitted again under the same id. A machine has one action in flight at the most, which
bounds the queue by the number of machines.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from governors.machines.events import ActionResult, Event
from governors.outbox.executors import Done, Executor
from governors.tenants.tenant import OpenWork

ACTION_DEADLINE_S: Final = 30.0
WORKERS: Final = 8


class Commits(Protocol):
    """What the outbox needs of the ledger."""

    async def wait_committed(self, index: int) -> None: ...


class Outbox:
    """`tell(tenant, key, event)` delivers results to the machines that asked; `on_ended(kind, outcome)` counts;
    `held_back(tenant)` says why nothing may be done for it any more, although it was decided ("" where it may).
    """

    def __init__(
        self,
        commits: Commits,
        executor: Executor,
        tell: Callable[[str, str, Event], object],
        clock_us: Callable[[], int],
        on_ended: Callable[[str, str], None],
        held_back: Callable[[str], str] = lambda _tenant: "",
    ) -> None:
        self._commits = commits
        self._executor = executor
        self._tell = tell
        self._clock_us = clock_us
        self._on_ended = on_ended
        self._held_back = held_back
        self._queue: deque[OpenWork] = deque()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger("governors.outbox")
        self._since_us: dict[str, int] = {}

    @property
    def depth(self) -> int:
        """Actions that wait or are being carried out."""
        return len(self._since_us)

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest action has been open in this process, 0 when none is."""
        since_us = min(self._since_us.values(), default=None)
        return 0.0 if since_us is None else max(0, self._clock_us() - since_us) / 1e6

    def submit(self, work: OpenWork) -> None:
        """Take on an action; it goes out when its receipt is committed."""
        self._queue.append(work)
        self._since_us[work.action.id] = self._clock_us()
        self._wake.set()

    async def run(self) -> None:
        """Carry actions out, a few at a time. Those under way when this is cancelled are sent again at recovery."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            work = self._queue.popleft()
            try:
                # No action without a durable receipt.
                await self._commits.wait_committed(work.receipt)
                # An emergency stop is for what has not begun as well.
                why_not = self._held_back(work.tenant)
                done = Done(ok=False, detail=why_not) if why_not else await self._execute(work)
            except BaseException:
                self._queue.appendleft(work)
                raise
            self._since_us.pop(work.action.id, None)
            self._on_ended(work.action.kind, "ok" if done.ok else "failed")
            result = ActionResult(work.action.id, work.action.kind, done.ok, done.detail)
            self._tell(work.tenant, work.key, Event(f"{work.action.id}-result", self._clock_us(), result))

    async def _execute(self, work: OpenWork) -> Done:
        try:
            async with asyncio.timeout(ACTION_DEADLINE_S):
                return await self._executor.execute(work)
        except TimeoutError:
            return Done(ok=False, detail=f"no answer within {ACTION_DEADLINE_S:g} s")
        except Exception as error:  # noqa: BLE001 - whatever an executor raises is its answer: not done
            self._log.exception("executor failed", action_id=work.action.id)
            return Done(ok=False, detail=f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode())
