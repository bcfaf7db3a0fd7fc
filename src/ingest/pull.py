"""Pull, hand over, acknowledge when committed.

    pullers (a few at a time) -> one task per batch, in the handler's hands -> one settler: acks, nacks
                                   ^ leases are extended while it takes its time

A message is acknowledged only after the handler said `ACK` for it, or after its dead letter is durable. Anything else,
a crash of the handler, of this process or of the network, ends in a redelivery. What is held at any time is bounded
in messages and in bytes; a batch counts until its acknowledgement was answered.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from ingest import flow
from ingest.dead_letter import DeadLetterSink
from ingest.errors import IngestError, SourceRefusedError, SourceUnavailableError
from ingest.source import Ack, Batch, DeadLetter, Delivery, Disposition, Handle, Nack, Subscriber

_LOGGER = logging.getLogger(__name__)

BATCH_SIZE_BOUNDS: Final = (1, 10, 50, 100, 250, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSettings:
    """How one subscription is pulled. Times in seconds."""

    pulls_in_flight: int = 4
    """Pulls waiting at the broker at once. One to four are fastest; more only compete for this process's core."""

    messages_per_pull: int = 1_000
    """The most to ask for in one pull; the service gives at most 1,000."""

    messages_max: int = 20_000
    """The most messages held at once, pulled and not yet acknowledged. Acknowledgements follow commits, which may be
    2 s apart: a tenth of this a second still flows when a commit takes 10 s."""

    bytes_max: int = 64 * 1024 * 1024
    """No pull starts while payloads of this size are held. Pulls in flight may pass it once, as far as their messages
    are larger than those seen lately."""

    ack_deadline_s: int = 60
    """The subscription's own deadline, and what every extension asks for."""

    held_s_max: float = 600.0
    """A handler that keeps a batch longer is cancelled and the batch is delivered again."""

    pull_timeout_s: float = 3.0
    """The deadline of a pull, at least 2. An empty one is answered about a second before it, so that nothing is on
    its way to us when we stop listening. Short, because a broker may go on serving a pull whose client was killed:
    what it sends there stays leased to nobody. The emulator does so for as long as the pull had asked to wait."""

    rpc_timeout_s: float = 10.0
    """The deadline of every other request."""

    backoff_base_s: float = 0.1
    """Bound of the first wait after a failure; doubles with each further one."""

    backoff_cap_s: float = 10.0
    """Bound of every wait after a failure."""

    vanished_s_max: float = 60.0
    """How long a subscription that was there may be missing before that is an error: emulators forget on restart."""

    pull_grace_s: float = 3.0
    """At a stop, how long pulls in flight may still return: as long as they wait, for the same reason. What they
    bring is given back at once."""

    drain_s: float = 4.0
    """From the stop on, how long handed-over batches may take before they are given back. Longer than a commit's
    cadence."""

    def __post_init__(self) -> None:
        if self.pull_timeout_s < 2:
            raise ValueError(
                f"pull_timeout_s: {self.pull_timeout_s} is too short, empty pulls would be answered at once"
            )


@dataclass(slots=True)
class PullMetrics:
    """What the loop counts. Counters only grow; the `held` ones and `connected` are gauges."""

    received: int = 0
    received_bytes: int = 0
    redelivered: int = 0
    acked: int = 0
    nacked: int = 0
    dead_lettered: int = 0
    dead_letter_errors: int = 0
    handler_errors: int = 0
    pulls: int = 0
    empty_pulls: int = 0
    pull_errors: int = 0
    ack_errors: int = 0
    acks_given_up: int = 0
    lease_extensions: int = 0
    lease_errors: int = 0
    held_too_long: int = 0
    backoff_s: float = 0.0
    held_messages: int = 0
    held_bytes: int = 0
    batches_by_size: list[int] = field(default_factory=lambda: [0] * (len(BATCH_SIZE_BOUNDS) + 1))
    """Pulled batches by size: counts for up to each of `BATCH_SIZE_BOUNDS`, then for what is larger."""
    connected: bool = False
    """Whether the latest pull was answered."""
    last_error: str = ""


@dataclass(slots=True, eq=False)
class _Held:
    """A batch from the pull until its acknowledgement was answered. `unsettled` is what its lease is extended for."""

    batch: Batch
    received_s: float
    leased_s: float
    unsettled: Sequence[str]


class PullLoop:
    """A child for a supervisor: `run` pulls until it is cancelled or the subscription refuses."""

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
    ) -> None:
        self.metrics = metrics or PullMetrics()
        self._subscriber = subscriber
        self._handle = handle
        self._dead_letters = dead_letters
        self._settings = settings
        self._clock_us = clock_us
        self._rng = rng
        self._forget()

    def _forget(self) -> None:
        self._held: dict[_Held, asyncio.Task[None]] = {}
        self._in_call: set[int] = set()
        self._asked_messages = 0
        self._message_bytes = 0.0
        self._room = asyncio.Event()
        self._to_ack: list[_Held] = []
        self._to_nack: list[str] = []
        self._settled = asyncio.Event()
        self._draining = False
        self._closing = False
        self._paused_until_s = 0.0
        self._failures = 0
        self._seen = False
        self._is_outage = False
        self._missing_since_s: float | None = None

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Pull until cancelled; then stop pulling, let handed-over batches finish, and give back the rest.

        `started` is called as soon as pulls are under way, broker or no broker: `metrics.connected` knows the rest.
        The stop takes at most the longer of `pull_grace_s` and `drain_s`, then `rpc_timeout_s` for a last request. A
        second cancellation cuts it short, leaving what was not settled to its leases. Raises SourceRefusedError, after
        the same stop, where the subscription is missing or forbidden. May be run again afterwards.
        """
        self._forget()
        create_task = asyncio.get_running_loop().create_task
        pullers = [create_task(self._pull(i), name=f"pull-{i}") for i in range(self._settings.pulls_in_flight)]
        settler = create_task(self._settle(), name="pull-settle")
        keeper = create_task(self._keep_leases(), name="pull-leases")
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
        failures = 0
        while not self._draining:
            asked = await self._ask()
            self._in_call.add(index)
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
                self._note_answered_pull(len(deliveries))
                if deliveries:
                    self._hand_over(deliveries)
            finally:
                self._asked_messages -= asked
                self._room.set()

    async def _ask(self) -> int:
        """Wait for the handler to be well and for room; returns how many messages to ask for, already reserved."""
        now_s = asyncio.get_running_loop().time
        while True:
            if (pause_s := self._paused_until_s - now_s()) > 0:
                await asyncio.sleep(pause_s)
                continue
            if self._failures and (self._held or self._in_call):
                await self._wait_for_room()  # one batch at a time finds out whether the trouble is over
                continue
            size = flow.pull_size(
                per_pull_max=self._settings.messages_per_pull,
                messages_max=self._settings.messages_max,
                messages_held=self.metrics.held_messages + self._asked_messages,
                bytes_max=self._settings.bytes_max,
                bytes_held=self.metrics.held_bytes + int(self._asked_messages * self._message_bytes),
                message_bytes=self._message_bytes,
            )
            if size:
                self._asked_messages += size
                return size
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        self._room.clear()
        await self._room.wait()

    def _note_answered_pull(self, messages: int) -> None:
        self._seen = True
        self._missing_since_s = None
        self.metrics.connected = True
        if self._is_outage:
            self._is_outage = False
            _LOGGER.warning("%s answers again", self._subscriber.name)
        self.metrics.pulls += 1
        self.metrics.empty_pulls += not messages

    def _note_failed_pull(self, error: SourceUnavailableError | SourceRefusedError) -> None:
        """Count a failure that a retry may heal; raise the other ones."""
        self.metrics.pull_errors += 1
        self.metrics.connected = False
        self.metrics.last_error = str(error)
        if not self._is_outage:  # once for each outage: the metrics count the rest
            self._is_outage = True
            _LOGGER.warning("pull failed: %s", error)
        if isinstance(error, SourceUnavailableError):
            return
        now_s = asyncio.get_running_loop().time()
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if not (error.vanished and self._seen) or now_s - self._missing_since_s > self._settings.vanished_s_max:
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
            self._to_nack.extend(ack_ids)
            self._settled.set()
            return
        held = _Held(Batch(deliveries, self._clock_us(), size_bytes), now_s, now_s, ack_ids)
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

    async def _see_through(self, held: _Held) -> None:
        """Hand the batch over and queue what follows from the answer. Whatever happens, it ends up queued."""
        acks: Sequence[str] = ()
        nacks: Sequence[str] = held.unsettled
        try:
            dispositions = await self._handle(held.batch)
            acks, nacks = await self._sort(held.batch.deliveries, dispositions)
        except Exception as error:
            # Not ours to judge: the batch is delivered again, and the pause keeps a broken handler from spinning.
            _LOGGER.exception("the handler failed on a batch of %d", len(held.batch.deliveries))
            self.metrics.handler_errors += 1
            self._pause(error)
        finally:
            held.unsettled = acks
            self._to_nack.extend(nacks)
            self._to_ack.append(held)
            self._settled.set()

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

    # Settling with the broker

    async def _settle(self) -> None:
        """Send what was queued. One round at a time: what gathers meanwhile goes together in the next."""
        while True:
            while self._to_ack or self._to_nack:
                done, self._to_ack = self._to_ack, []
                nacks, self._to_nack = self._to_nack, []
                await self._nack(nacks)
                await self._ack(done)
                self._release(done)
            if self._closing:
                return
            self._settled.clear()
            await self._settled.wait()

    async def _ack(self, done: list[_Held]) -> None:
        ack_ids = [ack_id for held in done for ack_id in held.unsettled]
        for chunk in flow.chunk_ack_ids(ack_ids):
            failures = 0
            while not await self._acknowledged(chunk):
                failures += 1
                # A lapsed lease, or one about to: the messages come again whatever is said now.
                if self._closing or self._lapsed(done):
                    self.metrics.acks_given_up += len(chunk)
                    break
                await self._back_off(failures)

    async def _acknowledged(self, chunk: Sequence[str]) -> bool:
        try:
            await self._subscriber.acknowledge(chunk, self._settings.rpc_timeout_s)
        except SourceUnavailableError as error:
            self._note_failed_ack(error)
            return False
        except SourceRefusedError as error:
            self._note_failed_ack(error)
            if not error.vanished:
                raise
            self.metrics.acks_given_up += len(chunk)  # the pullers judge whether a missing subscription is fatal
            return True
        self.metrics.acked += len(chunk)
        return True

    def _note_failed_ack(self, error: Exception) -> None:
        self.metrics.ack_errors += 1
        self.metrics.last_error = str(error)
        if not self._is_outage:
            _LOGGER.warning("acknowledging failed: %s", error)

    def _lapsed(self, done: list[_Held]) -> bool:
        now_s = asyncio.get_running_loop().time()
        return all(
            now_s - held.leased_s >= self._settings.ack_deadline_s
            or now_s - held.received_s >= self._settings.held_s_max
            for held in done
        )

    async def _nack(self, ack_ids: list[str]) -> None:
        """Ask for redelivery, once: a nack that is lost is only a slower one."""
        for chunk in flow.chunk_ack_ids(ack_ids):
            try:
                await self._subscriber.modify_ack_deadline(chunk, 0, self._settings.rpc_timeout_s)
            except IngestError as error:
                self._note_failed_ack(error)
            else:
                self.metrics.nacked += len(chunk)

    def _release(self, done: Iterable[_Held]) -> None:
        for held in done:
            self._held.pop(held, None)
            self.metrics.held_messages -= len(held.batch.deliveries)
            self.metrics.held_bytes -= held.batch.size_bytes
        self._room.set()

    # Leases

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(flow.lease_check_period_s(self._settings.ack_deadline_s))
            due = [held for held in self._held if self._is_due(held)]
            ack_ids = [ack_id for held in due for ack_id in held.unsettled]
            asked_s = asyncio.get_running_loop().time()
            if await self._extended(ack_ids):
                for held in due:
                    held.leased_s = asked_s

    def _is_due(self, held: _Held) -> bool:
        match flow.assess_lease(
            asyncio.get_running_loop().time(),
            received_s=held.received_s,
            leased_s=held.leased_s,
            ack_deadline_s=self._settings.ack_deadline_s,
            held_s_max=self._settings.held_s_max,
        ):
            case flow.Lease.EXTEND:
                return True
            case flow.Lease.KEEP:
                return False
            case flow.Lease.GIVE_UP:
                if self._held[held].cancel():
                    self.metrics.held_too_long += 1
                    self.metrics.last_error = f"a batch was held for more than {self._settings.held_s_max} s"
                return False

    async def _extended(self, ack_ids: list[str]) -> bool:
        try:
            for chunk in flow.chunk_ack_ids(ack_ids):
                await self._subscriber.modify_ack_deadline(
                    chunk, self._settings.ack_deadline_s, self._settings.rpc_timeout_s
                )
                self.metrics.lease_extensions += len(chunk)
        except SourceRefusedError as error:
            if not error.vanished:
                raise
            self._note_failed_extension(error)
        except SourceUnavailableError as error:
            self._note_failed_extension(error)
        else:
            return True
        return False  # half of the lease is left: the next look tries again

    def _note_failed_extension(self, error: Exception) -> None:
        self.metrics.lease_errors += 1
        self.metrics.last_error = str(error)
        if not self._is_outage:
            _LOGGER.warning("extending leases failed: %s", error)

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
        self._closing = True
        self._settled.set()
        await asyncio.wait([settler], timeout=self._settings.rpc_timeout_s)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel and wait. What they raised stays with them, marked as seen."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
