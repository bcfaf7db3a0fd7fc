"""A throw-away service on the hour's clock: the real one, asked over HTTP, with a ledger in a folder."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from governors.app import App
from governors.demo.clock import SteppedClock
from governors.demo.script import SECOND_US, START_US, Ask, Wire, World, time_at
from governors.demo.story import Acted, Asked, Decided, asked, decided
from governors.outbox.executors import Done, Order
from governors.settings import HttpSettings, Settings, TenantSettings
from governors.tenants.tenant import OpenWork

HTTP_TIMEOUT_S: Final = 30.0
SETTLED_S_MAX: Final = 60.0
POLL_S: Final = 0.0005


class StageError(Exception):
    """The service did not do what a play relies on: it stopped, or did not come to rest."""


class Record:
    """What came of a tick, as it comes in."""

    def __init__(self) -> None:
        self.events: list[Acted | Decided] = []
        self.receipts = 0

    def take(self) -> list[Acted | Decided]:
        """What came since the last time: tenant by tenant, in the order of its receipts, an action after its own."""
        events, self.events = self.events, []
        return sorted(events, key=_place)


class Actors:
    """Carries actions out in the tenants' worlds, in the time of the hour."""

    def __init__(self, clock: SteppedClock, worlds: Mapping[str, World], record: Record) -> None:
        self._clock = clock
        self._worlds = worlds
        self._record = record

    name = "actors"

    def takes(self, work: OpenWork) -> bool:  # noqa: ARG002 - every action
        return True

    async def execute(self, order: Order) -> Done:
        work = order.work
        world, action = self._worlds[work.tenant], work.action
        await self._clock.sleep_until(self._clock.now_us + world.takes_s(action) * SECOND_US)
        second = second_of(self._clock.now_us)
        text = world.obey(work.subject, action, second)
        self._record.events.append(
            Acted(
                second=second,
                at=time_at(second),
                tenant=work.tenant,
                governor=work.governor,
                subject=work.subject,
                action=action.kind,
                text=text,
                receipt=order.receipt,
            )
        )
        return Done(text)


class Stage:
    """The running service, from outside."""

    def __init__(self, app: App, clock: SteppedClock, client: httpx.AsyncClient, record: Record) -> None:
        self._app = app
        self._clock = clock
        self._client = client
        self._record = record
        self.receipts_untold = app.runtimes[0].ledger.size
        """Those that the stream does not tell of: the policy that all is decided under, and operators' requests."""

    async def listen(self, listening: asyncio.Event) -> None:
        """Hear every decision from the service's own stream."""
        stream = self._client.stream("GET", "/v1/stream", params={"all": "true"}, timeout=None)
        async with stream as response:
            async for line in response.aiter_lines():
                listening.set()
                if line.startswith("data: "):
                    self._record.receipts += 1
                    self._record.events.append(decided(second_of(self._clock.now_us), orjson.loads(line[6:])))

    def take_events(self) -> list[Acted | Decided]:
        """What came of it since this was last called."""
        return self._record.take()

    async def send(self, signals: list[Wire]) -> list[dict[str, Any]]:
        """Signals in, outcomes out."""
        if not signals:
            return []
        body = orjson.dumps(signals)
        response = await self._client.post("/v1/signals", content=body, headers={"content-type": "application/json"})
        results: list[dict[str, Any]] = _document(response)["results"]
        return results

    async def entitle(self, tenant: str, entitlement: str) -> None:
        """Set a tenant's entitlement, as an operator does."""
        _document(await self._client.put(f"/v1/tenants/{tenant}", json={"entitlement": entitlement}))
        self.receipts_untold += 1  # its own, before it is answered

    async def state(self, tenant: str) -> str:
        """A tenant's state as the service shows it."""
        return str(_document(await self._client.get(f"/v1/tenants/{tenant}"))["state"])

    async def ask(self, tenant: str, ask: Ask) -> Asked:
        """Ask for admission, request by request, the classes mixed evenly."""
        passed: Counter[str] = Counter()
        why, retry_after_s = "", 0
        for klass in _mixed(ask.classes):
            parameters: dict[str, str | int] = {"tenant": tenant, "class": klass, "cost": ask.cost}
            response = await self._client.get("/v1/admit", params=parameters)
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                why = str(orjson.loads(response.content)["detail"])
                retry_after_s = int(response.headers["retry-after"])
            else:
                _document(response)
                passed[klass] += 1
        return asked(second_of(self._clock.now_us), tenant, ask, passed, why, retry_after_s)

    async def settle(self) -> None:
        """Let everything that is due at this moment of the hour happen, and be heard of."""
        runtime = self._app.runtimes[0]
        runtime.timers.recheck()
        try:
            async with asyncio.timeout(SETTLED_S_MAX):
                while not self._is_settled():  # noqa: ASYNC110 - of six things; none has an event for all of them
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise StageError(f"the service did not come to rest within {SETTLED_S_MAX:g} s") from error

    def _is_settled(self) -> bool:
        runtime = self._app.runtimes[0]
        return (
            not runtime.timers.is_due()
            and runtime.registry.is_idle
            and runtime.outbox.depth == self._clock.sleepers
            and runtime.ledger.size == self.receipts_untold + self._record.receipts
        )


@contextlib.asynccontextmanager
async def staged(folder: Path, clock: SteppedClock, worlds: Mapping[str, World]) -> AsyncIterator[Stage]:
    """A service in `folder`, stopped in order at the end: what is left is a whole ledger.

    Raises LedgerError where the folder has a ledger that cannot be used, OSError where nothing can be written.
    """
    record = Record()
    settings = Settings(data_dir=folder, http=HttpSettings(port=0), tenants=TenantSettings(auto_create=True))
    actors = Actors(clock, worlds, record)
    app = App(settings, clock_us=clock, executors=[actors])
    ready = asyncio.Event()
    serving = asyncio.create_task(app.run(ready.set))
    try:
        await _first(ready, serving)
        async with httpx.AsyncClient(base_url=app.http.url, timeout=HTTP_TIMEOUT_S) as client:
            stage = Stage(app, clock, client, record)
            listening = asyncio.Event()
            listener = asyncio.create_task(stage.listen(listening))
            try:
                await _first(listening, listener)
                yield stage
            finally:
                await _end(listener)
    finally:
        await _end(serving)


async def _first(event: asyncio.Event, task: "asyncio.Task[None]") -> None:
    """Wait for the event; raises what the task raised where that ends before."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    if not event.is_set():
        await _end(waiting)
        await task
        raise StageError("the service ended before it was ready")


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})


def second_of(now_us: int) -> int:
    """The second of the hour."""
    return (now_us - START_US) // SECOND_US


def _place(event: Acted | Decided) -> tuple[str, int, int]:
    _, _, index = event.receipt.partition(":")
    return event.tenant, int(index), int(isinstance(event, Acted))


def _mixed(classes: Mapping[str, int]) -> list[str]:
    """As many of each class as asked for, spread evenly among the others."""
    places = [((number + 0.5) / count, klass) for klass, count in classes.items() for number in range(count)]
    return [klass for _, klass in sorted(places)]


def _document(response: httpx.Response) -> Any:
    if response.is_error:
        raise StageError(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    return orjson.loads(response.content)
