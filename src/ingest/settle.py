"""What became of deliveries, told to the broker: acknowledged, or given back.

One request at a time: what gathers meanwhile goes together in the next. What the broker did not take is sent again
after a backoff, for as long as the lease may hold; after that the message comes again whatever is said of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from random import Random

from ingest import flow
from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.leases import Held
from ingest.pull_metrics import PullMetrics
from ingest.pull_settings import PullSettings
from ingest.source import AckResult, Subscriber

_LOGGER = logging.getLogger(__name__)

_Send = Callable[[Sequence[str]], Awaitable[AckResult]]


class _Errand:
    """Ids to settle together. `held` is None for what was never handed over; `until_s` bounds giving back."""

    __slots__ = ("ack_ids", "all_ids", "failures", "gives_back", "held", "until_s")

    def __init__(self, held: Held | None, ack_ids: Sequence[str], until_s: float, *, gives_back: bool) -> None:
        self.held = held
        self.ack_ids = self.all_ids = ack_ids
        self.until_s = until_s
        self.gives_back = gives_back
        self.failures = 0


class Settler:
    """`run` sends what `settle` and `give_back` queue. `on_settled(held)` is called once all of a batch is settled."""

    def __init__(
        self,
        subscriber: Subscriber,
        settings: PullSettings,
        metrics: PullMetrics,
        rng: Random,
        on_settled: Callable[[Held], None],
    ) -> None:
        self._subscriber = subscriber
        self._settings = settings
        self._metrics = metrics
        self._rng = rng
        self._on_settled = on_settled
        self._queue: list[_Errand] = []
        self._waiting: dict[_Errand, asyncio.TimerHandle] = {}
        self._news = asyncio.Event()
        self._closing = asyncio.Event()

    def settle(self, held: Held, acks: Sequence[str], nacks: Sequence[str]) -> None:
        """Acknowledge some deliveries of a batch and give others back."""
        until_s = asyncio.get_running_loop().time() + self._settings.ack_deadline_s
        if nacks:
            held.let_go(frozenset(nacks))
            self._queue.append(_Errand(held, nacks, until_s, gives_back=True))
        if acks:
            self._queue.append(_Errand(held, acks, until_s, gives_back=False))
        self._news.set()

    def give_back(self, ack_ids: Sequence[str]) -> None:
        """Give back what was never handed over."""
        until_s = asyncio.get_running_loop().time() + self._settings.ack_deadline_s
        self._queue.append(_Errand(None, ack_ids, until_s, gives_back=True))
        self._news.set()

    def close(self) -> None:
        """Send what is queued, each once more, and let `run` return."""
        for errand, timer in self._waiting.items():
            timer.cancel()
            self._queue.append(errand)
        self._waiting.clear()
        self._closing.set()
        self._news.set()

    async def run(self) -> None:
        """Send what is queued; until cancelled, or until `close` when that is done."""
        failures = 0
        while True:
            while self._queue:
                errands, self._queue = self._queue, []
                if await self._send_all(errands):
                    failures = 0
                else:
                    failures += 1
                    await self._back_off(failures)
            if self._closing.is_set():
                return
            self._news.clear()
            await self._news.wait()

    async def _send_all(self, errands: list[_Errand]) -> bool:
        """Whether the broker could be reached."""
        acks = [errand for errand in errands if not errand.gives_back]
        nacks = [errand for errand in errands if errand.gives_back]
        is_reached = await self._send(acks, self._acknowledge)
        if is_reached:
            return await self._send(nacks, self._give_back)
        for errand in nacks:
            self._go_on(errand, frozenset(errand.ack_ids), is_reached=False)
        return False

    async def _send(self, errands: list[_Errand], send: _Send) -> bool:
        left: set[str] = set()
        is_reached = True
        for chunk in flow.chunk_ack_ids(list(chain.from_iterable(errand.ack_ids for errand in errands))):
            if not is_reached:
                left.update(chunk)
                continue
            try:
                result = await send(chunk)
            except SourceUnavailableError as error:
                self._metrics.ack_errors += 1
                if self._metrics.failed(asyncio.get_running_loop().time(), str(error)):
                    _LOGGER.warning("settling with the broker failed: %s", error)
                is_reached = False
                left.update(chunk)
            except SourceRefusedError as error:
                # The same request will be refused again. Whether the subscription is of any use, the pulls find out.
                self._metrics.ack_errors += 1
                self._metrics.last_error = str(error)
                self._metrics.acks_given_up += len(chunk)
            else:
                if self._metrics.answered():
                    _LOGGER.warning("%s answers again", self._subscriber.name)
                self._metrics.acks_lost += len(result.lost)
                self._metrics.acks_retried += len(result.failed)
                left |= result.failed
        for errand in errands:
            self._go_on(errand, left, is_reached=is_reached)
        return is_reached

    async def _acknowledge(self, ack_ids: Sequence[str]) -> AckResult:
        now_s = asyncio.get_running_loop().time
        asked_s = now_s()
        result = await self._subscriber.acknowledge(ack_ids, self._settings.rpc_timeout_s)
        self._metrics.ack_requests += 1
        self._metrics.ack_request_s += now_s() - asked_s
        self._metrics.acked += len(ack_ids) - len(result.lost) - len(result.failed)
        return result

    async def _give_back(self, ack_ids: Sequence[str]) -> AckResult:
        result = await self._subscriber.modify_ack_deadline(ack_ids, 0, self._settings.rpc_timeout_s)
        self._metrics.nacked += len(ack_ids) - len(result.lost) - len(result.failed)
        return result

    def _go_on(self, errand: _Errand, left: set[str] | frozenset[str], *, is_reached: bool) -> None:
        """Send the ids among `left` again, or be done with the errand."""
        errand.ack_ids = [ack_id for ack_id in errand.ack_ids if ack_id in left] if left else ()
        if errand.ack_ids and (self._closing.is_set() or self._is_too_late(errand)):
            self._metrics.acks_given_up += len(errand.ack_ids)
            errand.ack_ids = ()
        if not errand.ack_ids:
            self._finish(errand)
        elif is_reached:
            # A single id that is not taken yet holds up nobody else's.
            errand.failures += 1
            wait_s = self._backoff_s(errand.failures)
            self._waiting[errand] = asyncio.get_running_loop().call_later(wait_s, self._send_again, errand)
        else:
            self._queue.append(errand)

    def _send_again(self, errand: _Errand) -> None:
        del self._waiting[errand]
        self._queue.append(errand)
        self._news.set()

    def _finish(self, errand: _Errand) -> None:
        held = errand.held
        if held is None:
            return
        held.unsettled -= len(errand.all_ids)
        if not held.unsettled:
            self._on_settled(held)
        elif not errand.gives_back:
            held.let_go(frozenset(errand.all_ids))

    def _is_too_late(self, errand: _Errand) -> bool:
        """Whether the lease is over, or is extended no more."""
        now_s, held, settings = asyncio.get_running_loop().time(), errand.held, self._settings
        if errand.gives_back or held is None:
            return now_s >= errand.until_s
        return now_s >= min(held.leased_s + settings.ack_deadline_s, held.received_s + settings.held_s_max)

    def _backoff_s(self, failures: int) -> float:
        return flow.backoff_s(failures, self._settings.backoff_base_s, self._settings.backoff_cap_s, self._rng)

    async def _back_off(self, failures: int) -> None:
        wait_s = self._backoff_s(failures)
        self._metrics.backoff_s += wait_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._closing.wait()
