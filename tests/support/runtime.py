"""A whole runtime in the test's own process: real ledger, real supervision, a clock that the test moves."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from governors.outbox.executors import Answer, Done, Order
from governors.policies import NO_POLICIES, Policies
from governors.runtime import Edges, Runtime
from governors.settings import Settings, TenantSettings
from governors.supervision.report import SupervisionEvent
from governors.tenants.decide import Decided
from governors.tenants.outcome import Outcome
from governors.tenants.tenant import OpenWork
from ingest.decode.native import decode_native
from ingest.signals import Signal, format_time

# 2026-11-22T12:00:00Z
NOON_US = 1_795_348_800_000_000
LAPTOP = Settings(tenants=TenantSettings(auto_create=True))


class World:
    """What the runtime is given from outside, and what it did to it."""

    def __init__(self) -> None:
        self.now_us = NOON_US
        self.executed: list[OpenWork] = []
        self.letters: list[dict[str, Any]] = []
        self.decided: list[tuple[str, Decided, int]] = []
        self.events: list[SupervisionEvent] = []
        self.answer: Answer = Done()
        self.hold = asyncio.Event()
        self.hold.set()
        self._ids = itertools.count()

    name = "world"

    def takes(self, _work: OpenWork) -> bool:
        return True

    async def execute(self, order: Order) -> Answer:
        self.executed.append(order.work)
        await self.hold.wait()
        return self.answer

    async def put(
        self,
        *,
        reason: str,
        tenant: str | None,
        payload: bytes,
        attributes: Mapping[str, str],
        error: str,
        now_us: int,
    ) -> str:
        self.letters.append({"reason": reason, "tenant": tenant, "payload": payload, "error": error})
        return f"memory:{len(self.letters)}"

    def on_decided(self, tenant: str, decided: Decided, index: int) -> None:
        self.decided.append((tenant, decided, index))

    def signal(
        self,
        kind: str,
        data: dict[str, Any],
        *,
        tenant: str = "acme",
        subject: str = "default",
        signal_id: str | None = None,
        source: str = "test",
        ago_s: float = 0.0,
    ) -> Signal:
        """A signal as it would come over the wire, observed `ago_s` seconds before now."""
        wire = {
            "id": signal_id or f"s{next(self._ids)}",
            "source": source,
            "tenant": tenant,
            "kind": kind,
            "subject": subject,
            "observed_at": format_time(self.now_us - int(ago_s * 1e6)),
            "data": data,
        }
        return decode_native(orjson.dumps(wire), self.now_us)

    def queue(self, depth: int = 0, oldest_age_s: float = 0.0, **where: Any) -> Signal:
        data = {"depth": depth, "oldest_age_s": oldest_age_s, "in_rate_per_s": 10.0, "done_rate_per_s": 10.0}
        return self.signal("queue.sample", data, **where)

    def spend(self, cost: str, budget: str = "1000.00", **where: Any) -> Signal:
        data = {
            "cost_amount": cost,
            "budget_amount": budget,
            "currency": "USD",
            "interval_start": "2026-11-01T00:00:00Z",
        }
        return self.signal("cost.snapshot", data, **where)


async def send(runtime: Runtime, *signals: Signal) -> list[Outcome]:
    """Decide signals and wait until their receipts are durable."""
    ticket = await runtime.registry.submit(signals)
    outcomes = await ticket.decided()
    if ticket.last_receipt >= 0:
        await runtime.ledger.wait_local(ticket.last_receipt)
    return outcomes


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop to others until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what it looks at has no event to wait for
            await asyncio.sleep(0.001)


async def quiet(runtime: Runtime) -> None:
    """Wait until no action is open and no mailbox has work."""

    def is_quiet() -> bool:
        views = [runtime.registry.view(name) for name in runtime.registry.names()]
        machines = [record for view in views if view is not None for record in view[1].values()]
        return not runtime.outbox.depth and all(record.state.in_flight is None for record in machines)

    await until(is_quiet)


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    world: World,
    settings: Settings = LAPTOP,
    policies: Policies = NO_POLICIES,
    partition: int = 0,
) -> AsyncIterator[Runtime]:
    """A runtime that is recovered from the folder and runs; stopped in order at the end."""
    edges = Edges(
        clock_us=lambda: world.now_us,
        entropy=os.urandom,
        executors=[world],
        dead_letters=world,
        on_decided=world.on_decided,
        on_supervision=world.events.append,
        on_commit=lambda seconds, receipts: None,
        on_attempt=lambda executor, outcome: None,
        on_action_ended=lambda kind, outcome: None,
        writer="test",
    )
    runtime = Runtime(settings, folder, edges, policies=policies, partition=partition)
    tree = runtime.tree("test")
    started = asyncio.Event()
    task = asyncio.create_task(tree.run(started.set))
    await started.wait()
    try:
        yield runtime
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
