"""A made-up life of a service, from a seed: signals of every kind, repetitions, defects, operators, time, restarts.

It is there to leave logs that hold every kind of receipt, so nothing in it is likely, only possible.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
from support.runtime import World, running, until

from governors.fsm.table import Row
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.catalog import BY_NAME
from governors.machines.events import Event, OverrideEnded, OverrideGranted
from governors.outbox.executors import Done, Refused
from governors.policies import Policies
from governors.runtime import Runtime
from governors.settings import DedupSettings, LedgerSettings, Settings, TenantSettings
from governors.snapshotter import make_snapshot
from governors.tenants.policy import Stop
from governors.tenants.windows import Approval, Window, read_weekly
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.native import decode_native
from ingest.signals import Signal, format_time

POISON = 666
TENANTS = ("ana", "ben", "cem", "dan", "eve")
SUBJECTS = ("default", "orders", "mail")
SECOND_US = 1_000_000

_LEDGER = LedgerSettings(segment_bytes_max=48_000)
_TENANTS = TenantSettings(auto_create=True, machines_max=4, restart_intensity=5)
CONFIGURATIONS = (
    Settings(
        ledger=_LEDGER,
        tenants=_TENANTS,
        dedup=DedupSettings(window_ids=64),
        profiles={"tight": {"cost_guard": {"warn_ppm": 300_000, "warn_clear_ppm": 200_000}}},
    ),
    Settings(
        ledger=_LEDGER,
        tenants=TenantSettings(auto_create=False, machines_max=2, dead_letter_after=2, restart_intensity=5),
        dedup=DedupSettings(window_ids=24),
        default_profile="tight",
        profiles={"tight": {"backlog_valve": {"profile": "rpc"}}, "other": {}},
    ),
    Settings(
        ledger=_LEDGER,
        tenants=_TENANTS,
        dedup=DedupSettings(window_ids=200),
        profiles={"tight": {}, "other": {"rollback_guard": {"watch_s": 60, "proven_after_s": 5}}},
    ),
)


@contextlib.contextmanager
def defects() -> Iterator[None]:
    """A Backlog Valve that raises on some depths and on some operators' reasons."""

    def is_poison(event: Event) -> bool:
        body = event.body
        return getattr(body, "depth", 0) == POISON or getattr(body, "reason", "") == "poison"

    with changed_valve(lambda row, state, event, policy, now_us: 1 // 0 if is_poison(event) else None):
        yield


@contextlib.contextmanager
def changed_valve(change: Callable[[Row, Any, Event, Any, int], Any]) -> Iterator[None]:
    """A Backlog Valve whose verdict is what `change` says, unless that is None."""
    table: Any = BACKLOG_VALVE.table

    def changed(row: Row) -> Row:
        def handler(state: Any, event: Any, policy: Any, now_us: int) -> Any:
            verdict = change(row, state, event, policy, now_us)
            return row.handler(state, event, policy, now_us) if verdict is None else verdict

        return Row(handler, row.targets)

    object.__setattr__(BACKLOG_VALVE, "table", {key: changed(row) for key, row in table.items()})
    try:
        yield
    finally:
        object.__setattr__(BACKLOG_VALVE, "table", table)


class Life:
    """One life. `live` may be called again: it goes on where it was."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.world = World()
        self._chance = random.Random(seed)
        self._sent: list[Signal] = []
        self._number = 0

    async def live(self, restarts: int, steps: int) -> None:
        """So many runs of the service, each of so many steps."""
        chance = self._chance
        for _ in range(restarts + 1):
            # Profiles that policies gave tenants must be there at the next start as well.
            async with running(self.folder, self.world, chance.choice(CONFIGURATIONS), self._policies()) as runtime:
                self.world.hold.set()
                for _ in range(steps):
                    await self._step(runtime)
                # Some stop while actions are under way, and some when all is done.
                if chance.random() < 0.5:
                    self.world.hold.set()
                    await until(lambda: runtime.registry.is_idle and not runtime.outbox.depth)
            # A start from a snapshot must know the same as one from all receipts.
            if chance.random() < 0.5:
                make_snapshot(self.folder, 0)

    async def _step(self, runtime: Runtime) -> None:
        chance, world = self._chance, self.world
        match chance.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                await self._send(runtime)
            case 5:
                world.now_us += chance.choice([1, 20, 400, 4_000, 100_000]) * SECOND_US
                while runtime.timers.fire_due() == 0.0:
                    pass
            case 6:
                answer = Done if chance.random() < 0.6 else Refused
                world.answer = answer(chance.choice(["", "done", "é" * 300]))
                (world.hold.set if chance.random() < 0.8 else world.hold.clear)()
            case 7:
                await self._override(runtime)
            case 8:
                for name in runtime.registry.names():
                    if (view := runtime.registry.view(name)) is not None and view[0].quarantined:
                        runtime.registry.set_quarantine(name, quarantined=False, why="ana")
            case 9:
                await runtime.reload(self._policies())
            case 10:
                await self._stop(runtime)
            case _:
                runtime.registry.passivate_idle()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)

    async def _stop(self, runtime: Runtime) -> None:
        chance = self._chance
        stopped, name = chance.random() < 0.5, chance.choice([*TENANTS, ""])
        if name:
            runtime.registry.set_emergency_stop(name, stopped=stopped, why="ana: drill")
        else:
            await runtime.stop_everybody(Stop(by="ana", reason="drill", stopped=stopped))

    def _policies(self) -> Policies:
        """Some windows, whose times are about now, and what differs for a tenant."""
        chance, now_us = self._chance, self.world.now_us
        spans = read_weekly(("Sun 12:05-13:00", "Mon-Fri 22:00-02:00"), "+01:00")
        approval = Approval(("throttle", "restore", "close"), 300, chance.choice(["act", "drop"]))
        windows = [
            Window(
                name=f"w{number}",
                tenants=tuple(chance.sample(TENANTS, chance.randrange(3))),
                governors=tuple(chance.sample(list(BY_NAME), chance.randrange(3))),
                from_us=chance.choice([None, now_us - 500 * SECOND_US, now_us + 50 * SECOND_US]),
                until_us=chance.choice([None, now_us + 4_000 * SECOND_US]),
                weekly=chance.choice([(), ((0, 10_080),), spans]),
                observe=chance.random() < 0.4,
                profile=chance.choice(["", "", "tight", "premium"]),
                approval=chance.choice([None, approval]),
            )
            for number in range(chance.randrange(4))
        ]
        changes = {"cost_guard": {"warn_ppm": chance.choice([870_000, 850_000])}}
        tenants = {"ana": changes} if chance.random() < 0.5 else {}
        return Policies(profiles={"tight": {}, "other": {}}, tenants=tenants, windows=tuple(windows))

    async def _send(self, runtime: Runtime) -> None:
        chance = self._chance
        signals = [self._signal() for _ in range(chance.choice([1, 3, 30]))]
        signals += chance.choices(self._sent, k=3) if self._sent else []
        self._sent += signals
        ticket = await runtime.registry.submit(signals)
        if chance.random() < 0.7:
            await ticket.decided()

    async def _override(self, runtime: Runtime) -> None:
        chance, world = self._chance, self.world
        keys = [
            (name, key, record.governor)
            for name in runtime.registry.names()
            for key, record in (runtime.registry.view(name) or ({}, {}))[1].items()
        ]
        if not keys:
            return
        name, key, governor = chance.choice(keys)
        body: Any = OverrideEnded(by="ana")
        if chance.random() < 0.8:
            body = OverrideGranted(
                mode=chance.choice(["hold", "release", "force", "approve", "veto", "extra_budget"]),
                until_us=world.now_us + chance.randrange(1, 5_000) * SECOND_US,
                by="ana@example.com",
                reason=chance.choice(["drill", "poison", "grün"]),
                status=chance.choice(list(BY_NAME[governor].status)),
                extra_micros=chance.choice([0, 10**8]),
            )
            if body.mode != "force":
                body = msgspec.structs.replace(body, status="")
        self._number += 1
        told = runtime.registry.tell(name, key, Event(f"override-{self._number}", world.now_us, body))
        if chance.random() < 0.5:
            await told

    def _signal(self) -> Signal:
        chance, world = self._chance, self.world
        kind, data = self._data()
        self._number += 1
        ago_us = chance.choice([0, 0, 0, 1, 5, 60, 4_000, -300]) * SECOND_US
        wire: dict[str, Any] = {
            "id": f"s{self._number}",
            "source": chance.choice(["metering", "billing", "operator"]),
            "tenant": chance.choice(TENANTS),
            "subject": chance.choice(SUBJECTS),
        }
        observed = format_time(world.now_us - ago_us)
        if chance.random() < 0.15:
            event = wire | {"specversion": "1.0", "type": f"gov.{kind}.v1", "time": observed, "data": data}
            return decode_cloudevent(orjson.dumps(event), world.now_us)
        native = wire | {"kind": kind, "observed_at": observed, "data": data}
        if chance.random() < 0.1:
            native["extra"] = {"specversion": "not at the top", "ü": [1, None]}
        return decode_native(orjson.dumps(native, option=chance.choice([0, orjson.OPT_INDENT_2])), world.now_us)

    def _data(self) -> tuple[str, dict[str, Any]]:
        chance, now_us = self._chance, self.world.now_us
        whole = [chance.randrange(0, 1_300), chance.randrange(0, 1_300), 9_007_199_253]
        amount = f"{chance.choices(whole, [45, 45, 10])[0]}.{chance.randrange(100):02d}"
        money = {"currency": chance.choices(["USD", "EUR"], [95, 5])[0]}
        ago = format_time(now_us - chance.choice([0, 3_600, 100_000]) * SECOND_US)
        deploy = {"deploy_id": f"d{chance.randrange(3)}"}
        match chance.randrange(12):
            case 0 | 1:
                start = chance.choice(["2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z", "2026-10-01T00:00:00Z"])
                return "cost.snapshot", {
                    "cost_amount": amount, "budget_amount": "1000.00", "interval_start": start, **money
                }  # fmt: skip
            case 2:
                return "cost.delta", {"amount": chance.choice(["", "-"]) + amount, "usage_at": ago, **money}
            case 3:
                return "budget.set", {"budget_amount": amount, "interval": chance.choice(["day", "month"]), **money}
            case 4:
                return "deploy.started", {"revision": "v2", "previous_revision": "v1", **deploy}
            case 5 | 6:
                requests = chance.choice([10, 1_000, 100_000])
                counts = {"requests": requests, "errors": chance.randrange(requests // 10 + 1), "slow": 0}
                return "deploy.sample", {
                    "arm": chance.choice(["canary", "baseline"]), "window_s": 15.0, **counts, **deploy
                }  # fmt: skip
            case 7:
                return "deploy.finished", {"result": chance.choice(["succeeded", "failed", "cancelled"]), **deploy}
            case 8:
                return "alert", {
                    "fingerprint": "f1", "status": chance.choice(["firing", "resolved"]),
                    "severity": chance.choice(["page", "info"]), "name": "latency é",
                }  # fmt: skip
            case 9 | 10:
                return "queue.sample", {
                    "depth": chance.choice([0, 10, 5_000, 2**53 - 1, POISON]), "oldest_age_s": chance.random() * 300,
                    "in_rate_per_s": chance.random() * 50, "done_rate_per_s": chance.random() * 50,
                }  # fmt: skip
            case _:
                profile = chance.choice([None, None, "standard", "tight", "platinum"])
                status = chance.choices(["active", "suspended", "cancelled"], [80, 10, 10])[0]
                return "tenant.entitlement", {"status": status, "profile": profile}
