"""Pull, hand over, acknowledge when committed.

    pullers (a few at a time) -> one task per batch, in the handler's hands -> settle.py: acks, nacks
                                   ^ leases.py extends leases while it takes its time

A message is acknowledged only after the handler said `ACK` for it, or after its dead letter is durable. Anything else,
a crash of the handler, of this process or of the network, ends in a redelivery. What is held at any time is bounded
in messages and in bytes; a batch counts until its acknowledgement was answered. Within these bounds nothing is pulled
that would only wait for the processor (`backlog`), and no more pulls are in flight than bring something.

Messages of one ordering key are handed over in order, without waiting for what became of the earlier ones: the handler
keeps the order of what it is given. Where it fails on one, nothing later of that key is handed over before that one.
"""

import asyncio
import contextlib
import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from ingest import flow
from ingest.dead_letter import DeadLetterSink
from ingest.errors import HandlerBusyError, IngestError, SourceRefusedError, SourceUnavailableError
from ingest.leases import Held, LeaseKeeper
from ingest.order import Fences
from ingest.pull_metrics import BATCH_SIZE_BOUNDS, PullMetrics
from ingest.pull_settings import PullSettings
from ingest.settle import Settler
from ingest.source import Ack, Batch, DeadLetter, Delivery, Disposition, Handle, Nack, Subscriber
from ingest.suspects import Suspects

_LOGGER = logging.getLogger(__name__)

# What a message is put aside for that the handler fails on.
POISON: Final = "handler_failed"
BACKLOG_LOOK_S: Final = 0.02
_ERROR_CHARS_MAX: Final = 500


class PullLoop:
    """A child for a supervisor: `run` pulls until it is cancelled, or the subscription refuses from the first."""

    def __init__(
        self,
        subscriber: Subscriber,
        handle: Handle,
        dead_letters: DeadLetterSink,
        settings: PullSettings,
        *,
        clock_us: Callable[[], int],
        rng: Random,
        metrics: PullMetrics | None = None,
        backlog: Callable[[], int] = lambda: 0,
    ) -> None:
        """`backlog` says how many messages, of any source, wait to be decided."""
        self.metrics = metrics or PullMetrics()
        self._subscriber = subscriber
        self._handle = handle
        self._dead_letters = dead_letters
        self._settings = settings
        self._clock_us = clock_us
        self._rng = rng
        self._backlog = backlog
        self._has_answered = False
        self._forget()

    def _forget(self) -> None:
        settings = self._settings
        self._held: dict[Held, asyncio.Task[None]] = {}
        self._settler = Settler(self._subscriber, settings, self.metrics, self._rng, self._release)
        self._in_flight = flow.PullsInFlight(settings.pulls_in_flight)
        self._suspects = Suspects()
        self._fences = Fences()
        self._in_call: set[int] = set()
        self._asked_messages = 0
        self._message_bytes = 0.0
        self._room = asyncio.Event()
        self._draining = False
        self._paused_until_s = 0.0
        self._failures = 0

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Pull until cancelled; then stop pulling, let handed-over batches finish, and give back the rest.

        `started` is called as soon as pulls are under way, broker or no broker: `metrics.connected` knows the rest.
        The stop takes at most the longer of `pull_grace_s` and `drain_s`, then `rpc_timeout_s` for a last request. A
        second cancellation cuts it short, leaving what was not settled to its leases. Raises SourceRefusedError, after
        the same stop, where the broker refuses before it ever answered a pull: something is configured wrongly. Later
        on it is asked again, however long that takes: whoever took a permission away can give it back. May be run again
        afterwards.
        """
        self._forget()
        create_task = asyncio.get_running_loop().create_task
        pullers = [create_task(self._pull(i), name=f"pull-{i}") for i in range(self._settings.pulls_in_flight)]
        settler = create_task(self._settler.run(), name="pull-settle")
        leases = LeaseKeeper(self._subscriber, self._settings, self.metrics, self._held.keys(), self._give_up)
        keeper = create_task(leases.run(), name="pull-leases")
        started()
        try:
            done, _ = await asyncio.wait([*pullers, settler, keeper], return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                await self._drain(pullers, settler)
            finally:
                await _end([*pullers, *self._held.values(), settler, keeper])
                self._held.clear()
                self.metrics.held_messages = self.metrics.held_bytes = 0
        for task in done:  # none of them returns by itself: this raises
            task.result()

    # Pulling

    async def _pull(self, index: int) -> None:
        now_s = asyncio.get_running_loop().time
        failures = 0
        while not self._draining:
            asked = await self._ask(index)
            self._in_call.add(index)
            asked_s = now_s()
            try:
                deliveries = await self._subscriber.pull(asked, self._settings.pull_timeout_s)
            except (SourceUnavailableError, SourceRefusedError) as error:
                self._in_call.discard(index)
                self._note_failed_pull(error)
                failures += 1
                await self._back_off(failures)
            else:
                self._in_call.discard(index)
                failures = 0
                self._note_answered_pull(len(deliveries), now_s() - asked_s)
                if deliveries:
                    self._hand_over(deliveries)
            finally:
                self._asked_messages -= asked
                self._room.set()

    async def _ask(self, index: int) -> int:
        """Wait for the handler to be well and for room; returns how many messages to ask for, already reserved."""
        now_s = asyncio.get_running_loop().time
        while True:
            if (pause_s := self._paused_until_s - now_s()) > 0:
                await asyncio.sleep(pause_s)
                continue
            # After a failure one batch at a time finds out whether the trouble is over.
            is_testing = self._failures and (self._held or self._in_call)
            if not is_testing and index < self._in_flight.wanted and (size := self._pull_size()):
                self._asked_messages += size
                return size
            self._room.clear()
            # Nobody says when others' work is done.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BACKLOG_LOOK_S if self._backlog() else None):
                    await self._room.wait()

    def _pull_size(self) -> int:
        metrics, settings = self.metrics, self._settings
        return flow.pull_size(
            per_pull_max=settings.messages_per_pull,
            messages_max=settings.messages_max,
            messages_held=metrics.held_messages + self._asked_messages,
            backlog_max=settings.backlog_max,
            backlog=self._backlog(),
            bytes_max=settings.bytes_max,
            bytes_held=metrics.held_bytes + int(self._asked_messages * self._message_bytes),
            message_bytes=self._message_bytes,
        )

    def _note_answered_pull(self, messages: int, waited_s: float) -> None:
        metrics = self.metrics
        metrics.pulls += 1
        if messages:
            metrics.pull_wait_s += waited_s
        else:
            metrics.empty_pulls += 1
        # A pull that brought nothing until our own deadline may as well have gone to a broker that is frozen.
        if messages or waited_s < 0.9 * self._settings.pull_timeout_s:
            self._has_answered = True
            if metrics.answered():
                _LOGGER.warning("%s answers again", self._subscriber.name)
        self._in_flight.note(messages, waited_s)
        metrics.pulls_wanted = self._in_flight.wanted

    def _note_failed_pull(self, error: SourceUnavailableError | SourceRefusedError) -> None:
        """Count a failure that a retry may heal; raise the other ones."""
        self.metrics.pull_errors += 1
        if self.metrics.failed(asyncio.get_running_loop().time(), str(error)):
            _LOGGER.warning("pull failed: %s", error)  # once for each outage: the metrics count the rest
        if isinstance(error, SourceRefusedError) and not self._has_answered:
            raise error

    async def _back_off(self, failures: int) -> None:
        wait_s = flow.backoff_s(failures, self._settings.backoff_base_s, self._settings.backoff_cap_s, self._rng)
        self.metrics.backoff_s += wait_s
        await asyncio.sleep(wait_s)

    def _hand_over(self, deliveries: list[Delivery]) -> None:
        now_s = asyncio.get_running_loop().time()
        size_bytes = sum([len(delivery.payload) for delivery in deliveries])
        ack_ids = [delivery.ack_id for delivery in deliveries]
        self._count_received(deliveries, size_bytes)
        if self._draining:
            self._settler.give_back(ack_ids)
            return
        batch = Batch(deliveries, self._clock_us(), size_bytes)
        held = Held(batch, now_s, now_s, ack_ids, len(deliveries))
        self.metrics.held_messages += len(deliveries)
        self.metrics.held_bytes += size_bytes
        self._held[held] = asyncio.get_running_loop().create_task(self._see_through(held), name="pull-batch")

    def _count_received(self, deliveries: list[Delivery], size_bytes: int) -> None:
        metrics = self.metrics
        metrics.received += len(deliveries)
        metrics.received_bytes += size_bytes
        metrics.redelivered += sum([delivery.delivery_attempt > 1 for delivery in deliveries])
        metrics.batches_by_size[bisect_left(BATCH_SIZE_BOUNDS, len(deliveries))] += 1
        # A larger size counts at once, a smaller one slowly: the estimate guards the bound on bytes.
        mean_bytes = size_bytes / len(deliveries)
        self._message_bytes = max(mean_bytes, 0.9 * self._message_bytes + 0.1 * mean_bytes)

    # The life of one batch

    async def _see_through(self, held: Held) -> None:
        """Hand a batch over and queue what follows from the answer. Whatever happens, all of it ends up queued."""
        now_s = asyncio.get_running_loop().time
        parts = self._suspects.parts(held.batch.deliveries)
        try:
            for number, part in enumerate(parts):
                parts[number], early = self._fences.admit(part, now_s())
                self._settler.settle(held, (), [delivery.ack_id for delivery in early])
                if parts[number]:
                    await self._handle_part(held, parts[number], is_whole=len(parts) == 1 and not early)
                parts[number] = []
        finally:  # cancelled: held too long, or at a stop
            if nacks := [delivery.ack_id for part in parts for delivery in part]:
                self._settler.settle(held, (), nacks)

    async def _handle_part(self, held: Held, part: list[Delivery], *, is_whole: bool) -> None:
        """Hand a part over and queue what follows from the answer, or from the failure."""
        batch = held.batch if is_whole else _batch_of(part, held.batch.received_us)
        try:
            dispositions = await self._handle(batch)
            acks, nacks = await self._sort(part, dispositions)
        except Exception as error:  # noqa: BLE001 - whatever the handler raises, the loop goes on
            is_put_aside = await self._judge_failure(part, error)
            ack_ids = [delivery.ack_id for delivery in part]
            if is_put_aside:
                self._settler.settle(held, ack_ids, ())
            else:
                self._fences.fail(part, asyncio.get_running_loop().time())
                self._settler.settle(held, (), ack_ids)
            return
        self._suspects.clear(part)
        self.metrics.handled += len(part) - len(nacks)
        if nacks:
            given_back = frozenset(nacks)
            not_handled = [delivery for delivery in part if delivery.ack_id in given_back]
            self._fences.fail(not_handled, asyncio.get_running_loop().time())
        self._settler.settle(held, acks, nacks)

    async def _judge_failure(self, part: list[Delivery], error: Exception) -> bool:
        """Whether the one message of a part is to blame for its failure, and was put aside for it."""
        if isinstance(error, HandlerBusyError):
            _LOGGER.info("the handler can take nothing now: %s", error)
            self.metrics.handler_errors += 1
            self._pause(error)
            return False
        _LOGGER.error("the handler failed on %d messages", len(part), exc_info=error)
        self.metrics.handler_errors += 1
        attempts = self._suspects.fail(part, self.metrics.handled)
        if not attempts:
            self._pause(error)
            return False
        if attempts < self._settings.attempts_max:
            return False
        (delivery,) = part
        text = f"failed {attempts} times by itself, while others passed: {type(error).__name__}: {error}"
        letter = DeadLetter(POISON, text.encode("utf-8", "replace").decode()[:_ERROR_CHARS_MAX])
        if not await self._put_aside(delivery, letter):
            return False
        self._suspects.clear(part)
        self.metrics.poison += 1
        return True

    async def _sort(
        self, deliveries: list[Delivery], dispositions: Sequence[Disposition]
    ) -> tuple[list[str], list[str]]:
        """The ids to acknowledge and those to give back, dead letters put aside first."""
        if len(dispositions) != len(deliveries):
            raise ValueError(f"{len(dispositions)} dispositions for {len(deliveries)} deliveries")
        acks: list[str] = []
        nacks: list[str] = []
        letters: list[tuple[Delivery, DeadLetter]] = []
        for delivery, disposition in zip(deliveries, dispositions, strict=True):
            if isinstance(disposition, Ack):
                acks.append(delivery.ack_id)
            elif isinstance(disposition, Nack):
                nacks.append(delivery.ack_id)
            else:
                letters.append((delivery, disposition))
        kept = await asyncio.gather(*[self._put_aside(delivery, letter) for delivery, letter in letters])
        for (delivery, _), is_kept in zip(letters, kept, strict=True):
            (acks if is_kept else nacks).append(delivery.ack_id)
        if all(kept):
            self._failures = 0
        return acks, nacks

    async def _put_aside(self, delivery: Delivery, letter: DeadLetter) -> bool:
        try:
            await self._dead_letters.put(
                reason=letter.reason,
                tenant=letter.tenant,
                payload=delivery.payload,
                attributes=delivery.attributes,
                error=letter.error,
                now_us=self._clock_us(),
            )
        except (IngestError, OSError) as error:
            self.metrics.dead_letter_errors += 1
            self._pause(error)
            _LOGGER.warning("a dead letter could not be kept, its message stays with the broker: %s", error)
            return False
        self.metrics.dead_lettered += 1
        return True

    def _pause(self, error: Exception) -> None:
        """Start no pull for a while: behind the broker something is broken, and redeliveries would come at once."""
        self.metrics.last_error = str(error)
        self._failures += 1
        pause_s = flow.backoff_s(self._failures, self._settings.backoff_base_s, self._settings.backoff_cap_s, self._rng)
        self.metrics.backoff_s += pause_s
        self._paused_until_s = asyncio.get_running_loop().time() + pause_s

    def _release(self, held: Held) -> None:
        self._held.pop(held, None)
        self.metrics.held_messages -= len(held.batch.deliveries)
        self.metrics.held_bytes -= held.batch.size_bytes
        self._room.set()

    def _give_up(self, held: Held) -> None:
        """Cancel a handler that keeps its batch too long."""
        if self._held[held].cancel():
            self.metrics.held_too_long += 1
            self.metrics.last_error = f"a batch was held for more than {self._settings.held_s_max} s"

    # Stopping

    async def _drain(self, pullers: list[asyncio.Task[None]], settler: asyncio.Task[None]) -> None:
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + self._settings.drain_s
        self._draining = True
        self.metrics.connected = False
        for index, puller in enumerate(pullers):
            if index not in self._in_call:
                puller.cancel()
        await asyncio.wait(pullers, timeout=self._settings.pull_grace_s)
        await _end(pullers)
        if batches := list(self._held.values()):
            await asyncio.wait(batches, timeout=max(0.0, until_s - now_s()))
            await _end(batches)
        self._settler.close()
        await asyncio.wait([settler], timeout=self._settings.rpc_timeout_s)


def _batch_of(deliveries: list[Delivery], received_us: int) -> Batch:
    return Batch(deliveries, received_us, sum([len(delivery.payload) for delivery in deliveries]))


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel and wait. What they raised stays with them, marked as seen."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
