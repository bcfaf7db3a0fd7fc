"""Actions and a receiver of them, in one thread: a service that is killed again and again, on a disk that forgets.

The code under test is the real one, from the tenants' mailboxes to the outbox, with its supervisors and its ledger;
simulated are time, the process, its disk, the network and whoever receives. The process is killed between any two steps
of its event loop, before or after any system call on a file, or with the power of the machine. What was sent by then
arrives all the same, perhaps late, perhaps never.

The receiver does what the documentation asks of one: each id once, and of one machine's actions none that was
overtaken.
"""

import asyncio
import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import orjson
import structlog
from simulation.faults import DiskFate
from simulation.ledger_world import Inline
from simulation.processes import Cluster, Process, Thread
from simulation.sim_disk import SimDisk, SimFiles
from simulation.worker import FOLDER, IDENTITY, ORIGIN

from governors import runtime as runtime_module
from governors.machines.events import Event, OverrideEnded, OverrideGranted
from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.replay.folder import replay_folder
from governors.runtime import Edges, Runtime
from governors.settings import Settings, TenantSettings
from governors.tenants.records import machine_key
from governors.tenants.tenant import OpenWork
from ingest.decode.native import decode_native
from ingest.signals import Signal, format_time
from ledger import recovery
from ledger.appender import Ledger
from ledger.archive import Archive
from ledger.draft import Limits
from ledger.errors import LedgerError
from ledger.format.receipt import Receipt

S: Final = 1_000_000
NOON_US: Final = 1_795_348_800 * S
TENANTS: Final = ("acme", "globex")
SETTINGS: Final = Settings(tenants=TenantSettings(auto_create=True))
LIMITS: Final = Limits(batch_bytes=4_000, batch_receipts=8, segment_bytes=24_000)
ITEMS: Final = 14
CALM_S: Final = 40_000.0
"""How long after the last fault all must be as wanted: operators lift what a storm froze, a verification and a cooldown
pass.
"""
KILLED: Final = (DiskFate.KILL_BEFORE, DiskFate.KILL_AFTER)
POWERED: Final = (DiskFate.POWER_BEFORE, DiskFate.POWER_WITHIN, DiskFate.POWER_AFTER)

# What an action does to what it is for, and in which statuses its machine wants it: by hand, so that neither the
# machines' own tables nor the outbox are asked about themselves.
TAKES: Final = frozenset({"throttle", "stop", "shed", "close", "probe", "hold_rollout"})
GIVES: Final = frozenset({"restore", "reopen", "resume_rollout", "rollback"})
"""A rollback ends a hold: what is rolled back goes on, or the rollback would have no effect."""
NOTICES: Final = frozenset({"notify", "page", "ask"})
WANTED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "cost_guard": {
        "THROTTLE": frozenset({"throttle"}),
        "RECOVERING": frozenset({"throttle"}),
        "STOP": frozenset({"stop"}),
        "": frozenset({"restore"}),
    },
    "backlog_valve": {
        "SHEDDING": frozenset({"shed"}),
        "DRAINING": frozenset({"close"}),
        "PROBING": frozenset({"probe"}),
        "": frozenset({"reopen"}),
    },
    "rollback_guard": {
        "HOLD": frozenset({"hold_rollout"}),
        "ROLLING_BACK": frozenset({"rollback"}),
        "INCONCLUSIVE": frozenset({"hold_rollout", "resume_rollout"}),
        "": frozenset({"resume_rollout"}),
    },
}
FORCED: Final[Mapping[str, tuple[str, ...]]] = {
    "cost_guard": ("THROTTLE", "STOP", "WARN", "NORMAL", "THROTTLE"),
    "backlog_valve": ("SHEDDING", "DRAINING", "OPEN"),
    "rollback_guard": ("HOLD", "ROLLING_BACK", "WATCHING"),
}
SUBJECT: Final = "prod"


class Fate(Enum):
    """What becomes of an order on its way."""

    DONE = "it is done and answered"
    SLOW = "it is done and answered late"
    NOT_REACHED = "it is not reached"
    LOST = "the request is lost, and nobody answers"
    UNHEARD = "it is done, and nobody answers"
    LATE = "it is done long after everybody has given up waiting"
    BUSY = "it says that it cannot now"
    REFUSED = "it says no"


WEIGHTS: Final = {
    Fate.DONE: 40, Fate.SLOW: 12, Fate.NOT_REACHED: 12, Fate.LOST: 8, Fate.UNHEARD: 14, Fate.LATE: 8, Fate.BUSY: 6,
    Fate.REFUSED: 3,
}  # fmt: skip


class Item(NamedTuple):
    """Something that people or senders do, at a time: `what` is a kind of signal, `force`, `end`, `stop`, `resume`,
    `hurry` or `abandon`.
    """

    at_s: float
    tenant: str
    what: str
    governor: str = ""
    status: str = ""
    number: int = 0
    lasts_s: float = 0.0


class ViolationError(Exception):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Crash:
    """When a process ends: before its step number `step`, or at its system call number `call`."""

    step: int = -1
    call: int = -1
    fate: DiskFate = DiskFate.KILL_BEFORE


@dataclass
class Receiver:
    """Who carries orders out: a receiver as the documentation asks for one."""

    done: dict[str, int] = field(default_factory=dict)
    """Ids, with how often each was asked for."""
    effects: list[tuple[str, str, bool]] = field(default_factory=list)
    """What was done, in order: the id, the kind, and whether it was overtaken and so left undone."""
    outside: dict[tuple[str, str], str] = field(default_factory=dict)
    """What is so now, for each tenant and governor: the kind of what was taken, or "" for nothing."""
    bodies: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    newest: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, order: Order) -> None:
        """An order arrives."""
        work = order.work
        action, where = work.action, (work.tenant, work.governor)
        self.done[action.id] = self.done.get(action.id, 0) + 1
        if self.done[action.id] > 1:
            return
        number = int(action.id.rpartition("-")[2])
        is_overtaken = number < self.newest.get(where, -1) and action.kind not in NOTICES
        self.effects.append((action.id, action.kind, is_overtaken))
        if is_overtaken or action.kind in NOTICES:
            return
        self.newest[where] = number
        if action.kind in TAKES:
            self.outside[where] = action.kind
        elif action.kind in GIVES:
            self.outside[where] = ""


class NoRows(Archive):
    """All places come from the segments: SQLite would be on a real disk."""

    def _open(self) -> Any:
        self._closed = True

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a course of events went. `steps` and `calls` are those of the process that ran last, `seen` counts what
    happened, so that it can be told whether anything did.
    """

    violation: str | None
    trace: list[str]
    crashes: int
    steps: int
    calls: int
    actions: int
    seen: Counter[str]


class World:
    """One course of events: a script, the crashes amid it, and all that must hold then."""

    def __init__(self, seed: int, crashes: list[Crash]) -> None:
        self.rng = random.Random(seed)
        self.commits_elsewhere = seed % 2 == 0
        self.script = make_script(random.Random(seed + 1))
        self.crashes = list(reversed(crashes))
        self.trace: list[str] = []
        self.seen = Counter[str]()
        self.cluster = Cluster(random.Random(seed + 2))
        self.disk = SimDisk(random.Random(seed + 3), self.log)
        self.disk.on_power_failure = self._lose_power
        self.receiver = Receiver()
        self.process: Process | None = None
        self.runtime: Runtime | None = None
        self.position = 0
        """In the script."""
        self.committed = 0
        self.is_calm = False
        self.crashed = 0
        self.violation: str | None = None
        self._incarnation = 0
        self._calls_before = 0
        self._dead: list[Process] = []

    def log(self, line: str) -> None:
        self.trace.append(f"{self.cluster.now_s:9.3f}  {line}")

    def violated(self, promise: str) -> None:
        """The first one counts."""
        if self.violation is None:
            self.violation = promise
            self.log(f"VIOLATION: {promise}")

    # The course of events

    def run(self) -> Outcome:
        steps = calls = 0
        try:
            self._start()
            until_s = self.script[-1].at_s + 600.0
            self.cluster.run(until_s, lambda: self.violation is not None or self._is_over())
            self._be_calm()
            if self.violation is None and not self.cluster.run(
                self.cluster.now_s + CALM_S, lambda: self.violation is not None or self._is_at_rest()
            ):
                self.violated(f"not at rest after {CALM_S:.0f} s: {self._why_not_at_rest()}")
            if self.process is not None:
                steps, calls = self.process.steps, self.disk.calls - self._calls_before
            if self.violation is None:
                self._check_outside()
                self._check_log()
        except ViolationError as error:
            self.violated(str(error))
        finally:
            self.crashes.clear()
            if self.process is not None:
                self.process.on_killed = lambda: None
                self.process.kill()
                self._dead.append(self.process)
            self._bury()
        actions = len(self.receiver.done)
        return Outcome(self.violation, self.trace, self.crashed, steps, calls, actions, self.seen)

    def _is_over(self) -> bool:
        return self.position == len(self.script) and not self.crashes

    def _be_calm(self) -> None:
        """No more faults: what is left must come to its end."""
        self.is_calm = self.disk.is_sound = True
        self.crashes.clear()
        if self.process is not None:
            self.process.kill_at_step = -1

    def _start(self) -> None:
        self._incarnation += 1
        process = self.process = Process(self.cluster, f"p{self._incarnation}", offset_s=1e5 * self._incarnation)  # type: ignore[abstract] # what it lacks is for sockets
        process.on_killed = partial(self._ended, process)
        self._calls_before = self.disk.calls
        if self.crashes:
            crash = self.crashes.pop()
            if crash.call >= 0:
                self.disk.faults[self.disk.calls + 1 + crash.call] = crash.fate
            process.kill_at_step = crash.step
        main = process.start(self._live(process))
        main.add_done_callback(partial(self._returned, process))

    def _ended(self, process: Process) -> None:
        self.crashed += 1
        self.log(f"{process.name} is killed at step {process.steps}, call {self.disk.calls - self._calls_before}")
        self.process = self.runtime = None
        self.disk.faults.clear()
        self._dead.append(process)
        self.cluster.after(0.0, self._bury)
        self.cluster.after(0.1 + 5.0 * self.rng.random() ** 2, self._start)

    def _lose_power(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.disk.lose_power()

    def _returned(self, process: Process, done: "asyncio.Future[None]") -> None:
        if process.alive:
            error = None if done.cancelled() else done.exception()
            self.violated(f"{process.name} ended: {error!r}")
            process.on_killed = lambda: None
            process.kill()

    def _bury(self) -> None:
        while self._dead:
            self._dead.pop().bury()

    # The service

    async def _live(self, process: Process) -> None:
        files = self.disk.open(process)

        def open_ledger(*_: object, **given: Any) -> Ledger:
            return self._open_ledger(files, **given)

        edges = Edges(
            clock_us=self._clock_us,
            entropy=self.rng.randbytes,
            executors=[Sender(self, process)],
            dead_letters=self,
            on_decided=lambda *_: None,
            on_supervision=lambda _: None,
            on_commit=lambda *_: None,
            on_attempt=lambda *_: None,
            on_action_ended=lambda _, outcome: self.seen.update([outcome]),
            writer=process.name,
        )
        with patch.object(runtime_module, "Ledger", Opener(open_ledger)):
            runtime = Runtime(SETTINGS, FOLDER.parent.parent, edges)
        self.runtime = runtime
        self.log(f"{process.name} runs: {runtime.ledger.size} receipts, {runtime.outbox.depth} actions open")
        started = asyncio.Event()
        tree = asyncio.create_task(runtime.tree("simulated").run(started.set))
        commit = asyncio.create_task(self._commit(runtime.ledger))
        people = asyncio.create_task(self._play(runtime, started))
        await asyncio.wait([tree, commit, people], return_when=asyncio.FIRST_COMPLETED)
        for task in (tree, commit, people):
            if task.done():
                raise ViolationError(f"a part has ended: {task}")

    def _open_ledger(self, files: SimFiles, **given: Any) -> Ledger:
        recovered = recovery.recover(FOLDER, ORIGIN, app=given["app"], on_state=given["on_state"], disk=files)
        return Ledger(
            FOLDER, recovered, identity=IDENTITY, partition=0, entropy=given["entropy"], writer=given["writer"],
            encode_state=given["encode_state"], limits=LIMITS, disk=files, writing=Thread(), reading=Thread(),
            indexing=Thread(), commits_elsewhere=self.commits_elsewhere,
            archive=NoRows(None, FOLDER, files),
        )  # fmt: skip

    async def _commit(self, ledger: Ledger) -> None:
        """What a committer does, on an object store that never fails."""
        size = 0
        while True:
            size = await ledger.wait_beyond(size) if size >= ledger.local_size else ledger.local_size
            if self.commits_elsewhere:
                await asyncio.sleep(2.0 * self.rng.random() ** 3)
                self.committed = max(self.committed, size)
                ledger.mark_committed(size)
            else:
                self.committed = max(self.committed, size)

    async def put(self, *, reason: str, error: str, **_: object) -> str:
        raise ViolationError(f"nothing here is to be put aside: {reason}: {error}")

    def _clock_us(self) -> int:
        return NOON_US + int(self.cluster.now_s * 1e6)

    # Who sends signals, and operators

    async def _play(self, runtime: Runtime, started: asyncio.Event) -> None:
        """The script from where it was; what was not confirmed is done again, as senders and people do."""
        await started.wait()
        while self.position < len(self.script):
            item = self.script[self.position]
            await asyncio.sleep(max(0.0, item.at_s - self.cluster.now_s))
            with suppress(LedgerError):
                await self._do(runtime, item)
                self.position += 1
        while True:
            await asyncio.sleep(61.0)
            if self.is_calm:
                await self._lift(runtime)

    async def _do(self, runtime: Runtime, item: Item) -> None:
        self.log(f"{item.tenant}: {item.what} {item.governor} {item.status}".rstrip())
        registry, key = runtime.registry, machine_key(item.governor, SUBJECT)
        if item.what in {"stop", "resume"}:
            index = registry.set_emergency_stop(item.tenant, stopped=item.what == "stop", why="ana")
            if index is not None:
                await runtime.ledger.wait_committed(index)
            return
        if item.what in {"hurry", "abandon"}:
            mine = [one for one in runtime.outbox.orders() if one.work.tenant == item.tenant]
            if mine and item.what == "hurry":
                runtime.outbox.hurry(mine[0].work.action.id)
            elif mine:
                runtime.outbox.abandon(mine[0].work.action.id, "ana")
            return
        if item.what in {"force", "end", "approve"}:
            now_us = self._clock_us()
            body: Any = OverrideEnded(by="ana")
            if item.what != "end":
                until_us = now_us + int(item.lasts_s * S)
                mode: Any = item.what
                body = OverrideGranted(mode=mode, until_us=until_us, by="ana", reason="drill", status=item.status)
            told = await registry.tell(item.tenant, key, Event(f"o-{now_us}", now_us, body))
            if told is not None:
                await runtime.ledger.wait_committed(told[1])
            return
        ticket = await registry.submit([self._signal(item)] if item.what != "deploy" else self._bad_deploy(item))
        await ticket.decided()
        await runtime.ledger.wait_committed(ticket.last_receipt)

    async def _lift(self, runtime: Runtime) -> None:
        """What a storm has frozen is let go, for nothing fails any more; nobody forces one machine where that keeps
        another from giving back what it took.
        """
        for name in runtime.registry.names():
            view = runtime.registry.view(name)
            assert view is not None
            machines = list(view[1].values())
            waits = any(one.state.restraint.waits for one in machines)
            for one in machines:
                if one.state.restraint.frozen_us is not None:
                    self.seen["a storm"] += 1
                    await self._do(runtime, Item(0.0, name, "approve", one.governor, lasts_s=3_600.0))
                if waits and one.state.override is not None:
                    await self._do(runtime, Item(0.0, name, "end", one.governor))

    def _signal(self, item: Item, data: dict[str, Any] | None = None, kind: str = "", number: int = 0) -> Signal:
        # Observed when it was to be sent: as it is sent again after a crash, it is the same.
        at_us = NOON_US + int(item.at_s * S)
        wire = {
            "id": f"s{item.number}-{number}", "source": "sim", "tenant": item.tenant, "kind": kind or item.what,
            "subject": SUBJECT, "observed_at": format_time(at_us), "data": data or _DATA[item.what],
        }  # fmt: skip
        return decode_native(orjson.dumps(wire), self._clock_us())

    def _bad_deploy(self, item: Item) -> list[Signal]:
        deploy = {"deploy_id": f"d{item.number}"}
        revisions = {"revision": f"r{item.number}", "previous_revision": "r0"}
        counts = {"window_s": 15.0, "slow": 0}
        return [
            self._signal(item, deploy | revisions, "deploy.started", 0),
            self._signal(item, deploy | counts | {"arm": "baseline", "requests": 900, "errors": 2}, "deploy.sample", 1),
            self._signal(item, deploy | counts | {"arm": "canary", "requests": 100, "errors": 60}, "deploy.sample", 2),
        ]

    # What must hold

    def may_send(self, order: Order) -> None:
        """An order is about to leave."""
        work = order.work
        if work.receipt >= self.committed:
            self.violated(f"{work.action.id} leaves before its receipt is committed")
        body = (work.tenant, work.governor, work.subject, work.action.kind, work.action.params, order.receipt_sha256)
        if self.receiver.bodies.setdefault(work.action.id, body) != body:
            self.violated(f"{work.action.id} means something else now")
        view = None if self.runtime is None else self.runtime.registry.view(work.tenant)
        if view is None:
            self.violated(f"{work.action.id} leaves, and nobody knows its tenant")
            return
        state = view[1][work.key].state
        self.log(f"{work.action.id} {work.action.kind} leaves for {work.tenant} in {state.status}")
        wanted = WANTED[work.governor]
        if work.action.kind not in NOTICES and work.action.kind not in wanted.get(state.status, wanted[""]):
            self.violated(f"{work.action.id} ({work.action.kind}) leaves in {state.status}, where it is not wanted")
        if view[0].stopped:
            self.violated(f"{work.action.id} leaves amid an emergency stop")

    def _is_at_rest(self) -> bool:
        return self._why_not_at_rest() == ""

    def _why_not_at_rest(self) -> str:
        if self.runtime is None or self.position < len(self.script) or self.runtime.outbox.depth:
            return "something is under way"
        if self.runtime.ledger.local_size < self.runtime.ledger.size:
            return "a receipt is on its way to the disk"
        for name in self.runtime.registry.names():
            view = self.runtime.registry.view(name)
            assert view is not None
            for key, record in view[1].items():
                state = record.state
                if (
                    state.in_flight is not None or state.doubt is not None or state.retry_us is not None
                    or state.restraint.withheld
                ):  # fmt: skip
                    return f"{name} {key}: {state}"
        return ""

    def _check_outside(self) -> None:
        """What is so outside is what the machines want: nothing was lost, and nothing is left behind."""
        assert self.runtime is not None
        for name in TENANTS:
            view = self.runtime.registry.view(name)
            for record in [] if view is None else view[1].values():
                status, outside = record.state.status, self.receiver.outside.get((name, record.governor), "")
                if record.governor == "rollback_guard" and status not in {"HOLD", "WATCHING", "IDLE"}:
                    continue  # a rollback ends a hold, and who escalates leaves it
                wanted = WANTED[record.governor].get(status, frozenset({""}))
                if outside not in wanted:
                    self.violated(f"{name} {record.governor} is {status}, and outside it is {outside or 'free'}")

    def _check_log(self) -> None:
        """Each action that was asked for has one result, and one effect where that is `ok`."""
        asked, results = dict[str, int](), dict[str, Receipt]()
        attempts = Counter[str]()

        def look(index: int, receipt: Receipt) -> None:
            for action_id in receipt.actions:
                asked[action_id] = index
            if receipt.fsm.event.startswith("action.") and receipt.outcome == "decided":
                action_id = str(receipt.evidence["action_id"])
                if receipt.fsm.event == "action.attempt":
                    attempts[action_id] += 1
                elif action_id in results:
                    self.violated(f"{action_id} has two results")
                else:
                    results[action_id] = receipt

        process = Process(self.cluster, "auditor")  # type: ignore[abstract] # what it lacks is for sockets
        recovery.recover(FOLDER, ORIGIN, on_receipt=look, disk=self.disk.open(process))
        for action_id in self.receiver.done:
            if action_id not in asked:
                self.violated(f"{action_id} was done, and no receipt asks for it")
        done = Counter(one for one, _, _ in self.receiver.effects)
        for action_id in asked:
            if action_id not in results:
                self.violated(f"{action_id} has no result")
                continue
            result = str(results[action_id].evidence["result"])
            self.seen[f"result {result}"] += 1
            if (result == "ok" and done[action_id] != 1) or (result in {"failed", "withdrawn"} and done[action_id]):
                self.violated(f"{action_id}: the result is {result}, and it was done {done[action_id]} times")
        self.seen["attempts in vain"] += attempts.total()
        self.seen["asked again"] += sum(times > 1 for times in self.receiver.done.values())
        self.seen["overtaken"] += sum(late for _, _, late in self.receiver.effects)
        self._replay()

    def _replay(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path, data in self.disk.contents().items():
                copy = Path(folder) / Path(path).relative_to(FOLDER.parent.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(data)
            report = replay_folder(Path(folder))
        if not report.ok:
            self.violated(f"a replay comes out otherwise: {report.as_dict()}")


_DATA: Final[Mapping[str, dict[str, Any]]] = {
    "cost.snapshot": {
        "cost_amount": "10.00", "budget_amount": "1000.00", "currency": "USD",
        "interval_start": "2026-11-01T00:00:00Z",
    },
    "queue.sample": {"depth": 0, "oldest_age_s": 0.0, "in_rate_per_s": 10.0, "done_rate_per_s": 10.0},
    "deploy.started": {"deploy_id": "d0", "revision": "r1", "previous_revision": "r0"},
}  # fmt: skip
_FIRST: Final = {
    "cost.snapshot": "cost_guard", "queue.sample": "backlog_valve", "deploy.started": "rollback_guard"
}  # fmt: skip


class Opener:
    """Stands where the runtime looks for the ledger's class."""

    def __init__(self, opened: Callable[..., Ledger]) -> None:
        self.open = opened


class Sender:
    """The executor: what goes on its way arrives or not, whatever becomes of the process that sent it."""

    name = "receiver"

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    def takes(self, _work: OpenWork) -> bool:
        return True

    async def execute(self, order: Order) -> Answer:
        world, rng = self._world, self._world.rng
        fate = Fate.DONE if world.is_calm else rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        world.may_send(order)
        world.seen[fate.value] += 1
        there_s = 0.3 * rng.random()
        match fate:
            case Fate.NOT_REACHED:
                await asyncio.sleep(there_s)
                return TryAgain("cannot be reached", maybe=False)
            case Fate.BUSY:
                await asyncio.sleep(there_s)
                return TryAgain("answered 503", maybe=False, after_s=3.0)
            case Fate.REFUSED:
                await asyncio.sleep(there_s)
                return Refused("answered 400")
            case Fate.LATE:
                there_s = 20.0 + 40.0 * rng.random()
            case Fate.SLOW:
                there_s = 15.0 * rng.random()
        if fate is not Fate.LOST:
            world.cluster.after(there_s, partial(world.receiver.take, order))
        if fate in {Fate.DONE, Fate.SLOW}:
            await asyncio.sleep(there_s + 0.3 * rng.random())
            return Done("answered 200")
        if rng.random() < 0.5:
            await asyncio.sleep(there_s)
            return TryAgain("no answer: the connection was cut")
        await asyncio.Event().wait()  # until the outbox's patience ends
        raise AssertionError


def make_script(rng: random.Random) -> list[Item]:
    """What happens, but for crashes: each machine is there first, then it is forced to and fro."""
    script: list[Item] = []
    at_s = 1.0
    for tenant in TENANTS:
        script += [Item(at_s, tenant, what, governor) for what, governor in _FIRST.items()]
    machines = [(tenant, governor) for tenant in TENANTS for governor in FORCED]
    # Few of them, so that much happens to each.
    busy = rng.sample(machines, 2)
    for _ in range(ITEMS):
        at_s += rng.choice([0.0, 0.02, 0.3, 2.0, 9.0, 25.0, 70.0])
        tenant, governor = rng.choice(busy)
        lasts_s = rng.choice([15.0, 100_000.0, 100_000.0])
        match rng.randrange(12):
            case 0:
                script.append(Item(at_s, tenant, "stop"))
            case 1 | 2:
                script.append(Item(at_s, tenant, "resume"))
            case 3:
                script.append(Item(at_s, tenant, "end", governor))
            case 4:
                script.append(Item(at_s, tenant, rng.choice(["hurry", "hurry", "abandon"])))
            case 5 if governor == "rollback_guard":
                script.append(Item(at_s, tenant, "deploy", governor))
            case _:
                script.append(Item(at_s, tenant, "force", governor, rng.choice(FORCED[governor]), lasts_s=lasts_s))
    script += [Item(at_s + 5.0, tenant, "resume") for tenant in TENANTS]
    return [one._replace(number=number) for number, one in enumerate(script)]


@contextmanager
def _in_silence() -> Iterator[None]:
    """No threads, and no log."""
    before = structlog.get_config()
    with ExitStack() as stack:
        stack.enter_context(patch.object(recovery, "ThreadPoolExecutor", Inline))
        stack.callback(lambda: structlog.configure(**before))
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        yield


def run_world(seed: int, crashes: list[Crash]) -> Outcome:
    """What comes of a script with these crashes, one for each start of the process."""
    with _in_silence():
        return World(seed, crashes).run()


def random_crashes(seed: int, count: int) -> list[Crash]:
    """So many crashes at places that a seed chooses: some early in a process's life, some late."""
    rng = random.Random(seed + 4)
    crashes = []
    for _ in range(count):
        if rng.random() < 0.6:
            crashes.append(Crash(step=1 + int(500 * rng.random() ** 2)))
        else:
            fate = rng.choice((*KILLED, *POWERED))
            crashes.append(Crash(call=int(60 * rng.random() ** 2), fate=fate))
    return crashes
