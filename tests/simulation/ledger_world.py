"""A ledger's whole world in one thread: machines with disks, a store, callers, and everything that can go wrong.

The code under test is the real one (recovery, ledger, committer, takeover); simulated are time, processes, disks and
the network. One schedule gives one course of events, to the byte.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from simulation.faults import DiskFault, Fault, KillAtStep, MachineFate, MachineFault, StoreFault
from simulation.observer import Observer, ViolationError
from simulation.processes import Cluster, Process, Thread
from simulation.sim_disk import SimDisk
from simulation.sim_store import Link, SimStore

from ledger import orphans, recovery
from ledger.appender import Draft, Ledger, Limits
from ledger.authority import HeadTerms
from ledger.committer import Cadence, Committer
from ledger.errors import LedgerError, LedgerFailedError, StoreUnavailableError, WriterFencedError
from ledger.format.note import Signer
from ledger.format.receipt import Fsm
from ledger.identity import Identity
from ledger.orphans import OrphanCollector
from ledger.publisher import PublishCadence, Publisher
from ledger.takeover import Claimant, Place, take_over

IDENTITY: Final = Identity("sim.test/log", bytes(range(32)))
ORIGIN: Final = IDENTITY.origin(0)
SIGNER: Final = Signer(ORIGIN, bytes(range(32)))
FOLDER: Final = Path("/data/ledger/0")
FSM: Final = Fsm(event="e", from_="A", machine="m", subject="s", to="B", version=1)
LIMITS: Final = Limits(batch_bytes=2_000, batch_receipts=4, segment_bytes=6_000)
CADENCE: Final = Cadence(interval_s=2.0, hand_over_s=8.0)
PUBLISH_CADENCE: Final = PublishCadence(interval_s=4.0, heads_every=2)
ORPHAN_GRACE_S: Final = 5.0
ORPHAN_SWEEP_S: Final = 3.0
"""Instead of a day and six hours: what makes collecting safe is not how long it waits."""
LEASE: Final = HeadTerms(lease_s=5.0, margin_s=1.0, spacing_s=1.1)
LOCK: Final = HeadTerms(spacing_s=1.1)
RECOVERY_S: Final = 300.0
"""How long after the last fault somebody must make progress: leases, backoffs and patience with the store included."""


class Mode(Enum):
    """Who keeps the log."""

    LOCAL = "one machine, and no store"
    EMBEDDED = "one machine that holds a lock, and a store for the record"
    SHARED = "several machines, one store, leases"


@dataclass(frozen=True, slots=True)
class Request:
    """At `at_s` a caller hands `count` receipts of one tenant to a machine, and waits."""

    at_s: float
    machine: int
    tenant: int
    count: int

    def __str__(self) -> str:
        return f"machine {self.machine}, at {self.at_s:.2f} s: {self.count} receipts of tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What shall happen. `seed` fixes everything else: delays, and which parts of what was lost are lost."""

    seed: int
    mode: Mode
    machines: int
    until_s: float
    requests: tuple[Request, ...]
    faults: tuple[Fault, ...]

    def lines(self) -> list[str]:
        timed: list[tuple[float, str]] = [(one.at_s, str(one)) for one in self.requests]
        timed += [(one.at_s if isinstance(one, MachineFault) else 0.0, str(one)) for one in self.faults]
        return [f"{self.mode.value}; faults end at {self.until_s:.1f} s", *(line for _, line in sorted(timed))]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a schedule went: what was violated, if something was, and the trace. `digest` is over all that happened and
    all that the store holds; `answered` counts callers, `committed` receipts.
    """

    violation: str | None
    trace: list[str]
    digest: str
    steps: int
    answered: int
    committed: int


class Inline(Executor):
    """Runs a call at once, where a thread would be started."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return _Done(fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class _Done:
    """What `Inline` has done already, good or bad."""

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._error: BaseException | None = None
        try:
            self._result = fn(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asks for the result
            self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


@dataclass
class Machine:
    """One computer: what it keeps when its process ends, and the process that it runs."""

    number: int
    disk: SimDisk
    link: Link
    rng: random.Random
    process: Process | None = None
    incarnation: int = 0
    steps_before: int = 0
    may_run: bool = True
    served: Ledger | None = None
    """What its latest process has served."""
    ended_well: bool = False
    clock_off_us: int = 0
    ledger: Ledger | None = None
    main: asyncio.Task[None] | None = None
    kills: list[int] = field(default_factory=list)


class World:
    """One schedule, from an empty store to the last check."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.mode = schedule.mode
        self.trace: list[str] = []
        seed = schedule.seed * 1000
        self.cluster = Cluster(random.Random(seed))
        self.observer = Observer(ORIGIN, SIGNER.verifier.public_key, self.log, lambda: self.cluster.now_s)
        self.store = SimStore(self.observer.landed)
        self.terms = LEASE if self.mode is Mode.SHARED else LOCK
        self.machines = [
            Machine(
                number,
                SimDisk(random.Random(seed + 100 * number + 1), self.log),
                Link(self.cluster, self.store, random.Random(seed + 100 * number + 2), self.log),
                random.Random(seed + 100 * number + 3),
            )
            for number in range(schedule.machines)
        ]
        self._dead: list[Process] = []
        self.events = 0
        self.probes = 0
        self.faults_are_over = False
        self.answered = 0
        self.violation: str | None = None

    def log(self, line: str) -> None:
        self.trace.append(f"{self.cluster.now_s:9.4f}  {line}")

    # The course of events

    def run(self) -> Outcome:
        with _in_short():
            return self._run()

    def _run(self) -> Outcome:
        try:
            self._arrange()
            self.cluster.run(self.schedule.until_s, lambda: self.violation is not None)
            self._raise_violation()
            self._end_faults()
            self._demand_progress()
            self._stop_in_order()
        except ViolationError as error:
            self.violation = self.violation or str(error)
        finally:
            for machine in self.machines:
                if (process := machine.process) is not None:
                    process.on_killed = lambda: None
                    process.kill()
                    process.bury()
            self._bury()
        if self.violation is not None:
            self.log(f"VIOLATION: {self.violation}")
        digest = hashlib.sha256("\n".join(self.trace).encode())
        for key, found in sorted(self.store.objects.items()):
            digest.update(f"{key} {found.generation}".encode() + found.data)
        committed = len(self.observer.committed)
        return Outcome(self.violation, self.trace, digest.hexdigest(), self.cluster.steps, self.answered, committed)

    def _arrange(self) -> None:
        for number, machine in enumerate(self.machines):
            self.cluster.at(number * 3.0 * machine.rng.random(), partial(self._start, machine))
        for request in self.schedule.requests:
            self.cluster.at(request.at_s, partial(self._hand_over, request))
        for fault in self.schedule.faults:
            machine = self.machines[fault.machine]
            match fault:
                case DiskFault():
                    machine.disk.faults[fault.call] = fault.fate
                case StoreFault():
                    machine.link.faults[fault.call] = (fault.fate, fault.late_s)
                case KillAtStep():
                    machine.kills.append(fault.step)
                case MachineFault():
                    self.cluster.at(fault.at_s, partial(self._befall, fault))

    def _befall(self, fault: MachineFault) -> None:
        machine = self.machines[fault.machine]
        process = machine.process
        self.log(str(fault))
        match fault.fate:
            case MachineFate.KILL if process is not None:
                process.kill()
            case MachineFate.POWER:
                if process is not None:
                    process.kill()
                machine.disk.lose_power()
            case MachineFate.FREEZE if process is not None:
                process.freeze()
                self.cluster.after(fault.for_s, process.thaw)
            case MachineFate.CUT_OFF:
                machine.link.is_cut = True
                self.cluster.after(fault.for_s, lambda: setattr(machine.link, "is_cut", False))
            case MachineFate.STOP if machine.main is not None:
                machine.may_run = False
                machine.main.cancel()
                self.cluster.after(fault.for_s, lambda: self._may_run(machine))
            case MachineFate.CLOCK:
                machine.clock_off_us += int(fault.by_s * 1e6)
            case MachineFate.FLIP:
                spoilt = machine.disk.flip_a_bit(lambda path: path.suffix == ".seg")
                if spoilt is not None:
                    self.log(f"machine {machine.number}: a bit of {spoilt.name} is flipped")
            case MachineFate.WIPE:
                if process is not None:
                    process.kill()
                machine.disk.wipe()
                self.observer.disk_wiped(machine.number)

    def _end_faults(self) -> None:
        self.log("the faults end")
        self.faults_are_over = True
        for machine in self.machines:
            machine.disk.is_sound = machine.link.is_sound = machine.may_run = True
            machine.link.is_cut = False
            machine.kills.clear()
            if machine.process is not None:
                machine.process.kill_at_step = -1
                machine.process.thaw()

    def _demand_progress(self) -> None:
        """One machine is left alone with the log. A new receipt must become committed."""
        sound = [machine for machine in self.machines if not machine.disk.is_spoilt]
        if not sound:
            return
        chosen = sound[self.schedule.seed % len(sound)]
        for machine in self.machines:
            if machine is not chosen:
                machine.may_run = False
                if machine.main is not None:
                    machine.main.cancel()
        deadline_s = self.cluster.now_s + RECOVERY_S
        before = self.probes
        self._probe(chosen)
        done = self.cluster.run(deadline_s, lambda: self.probes > before or self.violation is not None)
        self._raise_violation()
        if not done:
            raise ViolationError(f"machine {chosen.number} made no progress in {RECOVERY_S:.0f} s")

    def _probe(self, machine: Machine) -> None:
        """Try every second until one was answered."""
        if machine.ledger is not None and machine.process is not None and machine.process.alive:
            machine.process.start(self._ask(machine, machine.ledger, machine.process, 0, 1, probe=True), "probe")
        if self.probes == 0:
            self.cluster.after(1.0, lambda: self._probe(machine))

    def _stop_in_order(self) -> None:
        """Everybody stops; then the disk of the last owner and the store must agree."""
        for machine in self.machines:
            machine.may_run = False
            if machine.main is not None:
                machine.main.cancel()
        running = [machine for machine in self.machines if machine.main is not None]
        self.cluster.run(
            self.cluster.now_s + 60.0,
            lambda: self.violation is not None or all(machine.main is None for machine in running),
        )
        self._raise_violation()
        if any(machine.main is not None for machine in self.machines):
            raise ViolationError("a process did not end in a minute")
        for machine in self.machines:
            if machine.ended_well and not machine.disk.is_spoilt:
                self.observer.check_disk(machine.number, machine.disk.contents(), with_store=self._has_store)
        last = self.observer.heads[-1][1] if self.observer.heads else None
        files = None if last is None or self.machines[last].disk.is_spoilt else self.machines[last].disk.contents()
        found = self.store.objects.get("ctl/head")
        self.observer.check_end(files, json.loads(found.data)["checkpoint"] if found is not None else None)

    @property
    def _has_store(self) -> bool:
        return self.mode is not Mode.LOCAL

    def _raise_violation(self) -> None:
        if self.violation is not None:
            raise ViolationError(self.violation)

    # Processes

    def _may_run(self, machine: Machine) -> None:
        if not self.faults_are_over:
            machine.may_run = True

    def _start(self, machine: Machine) -> None:
        if machine.process is not None or not machine.may_run:
            self.cluster.after(1.0, lambda: self._start(machine))
            return
        machine.incarnation += 1
        machine.ended_well, machine.served = False, None
        rng = machine.rng
        name = f"{machine.number}.{machine.incarnation}"
        process = Process(  # type: ignore[abstract] # what it lacks is for sockets
            self.cluster, name, offset_s=1e5 * rng.randrange(1, 100), rate=1.0 + 0.02 * (rng.random() - 0.5)
        )
        process.on_killed = lambda: self._ended(machine, process, "killed")
        kills = [step - machine.steps_before for step in machine.kills if step > machine.steps_before]
        process.kill_at_step = min(kills, default=-1)
        machine.process = process
        self.log(f"{name} starts")
        machine.main = process.start(self._live(machine, process))
        machine.main.add_done_callback(lambda done: self._returned(machine, process, done))

    def _returned(self, machine: Machine, process: Process, done: "asyncio.Future[None]") -> None:
        if not process.alive:
            return
        error = None if done.cancelled() else done.exception()
        why = "stopped" if done.cancelled() or error is None else f"{type(error).__name__}: {error}"
        if error is not None and not self._is_expected(machine, error):
            self.violation = f"{process.name} ended with {error!r}"
        if process.failures:
            self.violation = f"{process.name}: nobody heard of {process.failures[0]}"
        machine.ended_well = machine.served is not None and machine.served.failed is None
        process.on_killed = lambda: self._ended(machine, process, why)
        process.kill()

    def _is_expected(self, machine: Machine, error: BaseException) -> bool:
        """Whether a sound program may end so, given what has happened to it."""
        if isinstance(error, WriterFencedError | LedgerFailedError | StoreUnavailableError | OSError):
            return True
        return machine.disk.is_spoilt and isinstance(error, LedgerError)

    def _ended(self, machine: Machine, process: Process, why: str) -> None:
        self.log(f"{process.name} ended: {why}")
        machine.steps_before += process.steps
        machine.kills = [step for step in machine.kills if step > machine.steps_before]
        machine.process = machine.main = machine.ledger = None
        self._dead.append(process)
        self.cluster.after(0.0, self._bury)
        self.cluster.after(0.2 + 3.0 * machine.rng.random() ** 2, lambda: self._start(machine))

    def _bury(self) -> None:
        while self._dead:
            self._dead.pop().bury()

    async def _live(self, machine: Machine, process: Process) -> None:
        """What a process does from its start to its end, as the service does it."""
        files = machine.disk.open(process)
        store = machine.link.open(process, files)
        rng = random.Random(machine.rng.getrandbits(64))
        thread = Thread()
        if not self._has_store:
            recovered = recovery.recover(FOLDER, ORIGIN, disk=files)
            ledger = self._ledger(process, files, recovered, rng)
            self._serve(machine, ledger)
            await ledger.run()
            return
        taken = await take_over(
            Place(store, files, FOLDER, ORIGIN),
            Claimant(process.name, f"lock-{machine.number}", SIGNER, self.terms),
            entropy=rng.randbytes, rng=rng, executor=thread,
        )  # fmt: skip
        self.log(f"{process.name} took over: epoch {taken.epoch}, {taken.adopted} adopted, {taken.lost} lost")
        recovered = recovery.recover(FOLDER, ORIGIN, disk=files)
        ledger = self._ledger(
            process, files, recovered, rng, epoch=taken.epoch, commits_elsewhere=self.mode is Mode.SHARED,
            may_answer=taken.authority.may_answer,
        )  # fmt: skip
        committer = Committer(
            ledger, store, taken.authority, SIGNER, files,
            entropy=rng.randbytes, rng=rng, cadence=CADENCE, executor=thread,
        )  # fmt: skip
        publisher = Publisher(
            ledger, store, committer, files,
            clock_us=lambda: self._clock_us(machine), rng=rng, cadence=PUBLISH_CADENCE, executor=thread,
        )  # fmt: skip
        parts = {"ledger": ledger.run, "committer": committer.run, "publisher": publisher.run}
        if self.mode is Mode.SHARED:
            collector = OrphanCollector(
                store, taken.authority.replace, lambda: [one.key for one in ledger.sealed_behind(None)]
            )
            parts["orphans"] = collector.run
        tasks = [asyncio.create_task(run(), name=name) for name, run in parts.items()]
        self._serve(machine, ledger)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            machine.ledger = None
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait({task})
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _ledger(
        self, process: Process, files: Any, recovered: recovery.Recovered, rng: random.Random, **given: Any
    ) -> Ledger:
        return Ledger(
            FOLDER, recovered, identity=IDENTITY, partition=0, entropy=rng.randbytes, writer=process.name,
            encode_state=_encode_state, limits=LIMITS, disk=files, writing=Thread(), reading=Thread(),
            indexing=Thread(), **given,
        )  # fmt: skip

    def _serve(self, machine: Machine, ledger: Ledger) -> None:
        assert machine.process is not None
        name, files = machine.process.name, machine.disk.contents()
        self.log(f"{name} serves: epoch {ledger.epoch}, {ledger.local_size} receipts")
        self.observer.check_disk(machine.number, files, with_store=self._has_store)
        self.observer.check_serving(name, files, with_store=self._has_store)
        machine.ledger = machine.served = ledger

    # Callers

    def _hand_over(self, request: Request) -> None:
        machine = self.machines[request.machine]
        if machine.ledger is not None and machine.process is not None and machine.process.alive:
            asking = self._ask(machine, machine.ledger, machine.process, request.tenant, request.count)
            machine.process.start(asking, "caller")

    async def _ask(
        self, machine: Machine, ledger: Ledger, process: Process, tenant: int, count: int, *, probe: bool = False
    ) -> None:
        asked: list[tuple[int, str]] = []
        try:
            for _ in range(count):
                self.events += 1
                asked.append((ledger.append(self._draft(machine, tenant)), f"e-{self.events}"))
            ledger.put_state(f"t{tenant}", self.events)
            for index, event_id in asked:
                await ledger.wait_local(index)
                self.observer.told_local(process.name, index, event_id, alone=self.mode is not Mode.SHARED)
            index, event_id = asked[-1]
            stored = await ledger.read(index)
            committed = stored.committed and self.mode is Mode.SHARED
            self.observer.told_leaf(process.name, index, event_id, stored.leaf, committed=committed)
            await ledger.wait_committed(index)
            if self.mode is Mode.SHARED:
                for index, event_id in asked:
                    self.observer.told_committed(process.name, index, event_id)
            self.answered += 1
            self.probes += probe
        except ViolationError as error:
            self.violation = self.violation or str(error)
        except (LedgerError, OSError) as error:
            self.log(f"{process.name}: a caller was told {type(error).__name__}")

    def _clock_us(self, machine: Machine) -> int:
        return 1_700_000_000_000_000 + int(self.cluster.now_s * 1e6) + machine.clock_off_us

    def _draft(self, machine: Machine, tenant: int) -> Draft:
        now_us = self._clock_us(machine)
        return Draft(
            tenant=f"t{tenant}", event_id=f"e-{self.events}", source="sim", observed_us=now_us, ts_us=now_us,
            outcome="decided", decision="none", rule="r", evidence={"n": self.events}, fsm=FSM, policy_digest="d",
            actions=(), payload=b"x" * (self.events * 37 % 600),
        )  # fmt: skip


@contextmanager
def _in_short() -> Iterator[None]:
    """No threads, and what takes days takes seconds."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(recovery, "ThreadPoolExecutor", Inline))
        stack.enter_context(patch.object(orphans, "GRACE_S", ORPHAN_GRACE_S))
        stack.enter_context(patch.object(orphans, "SWEEP_S", ORPHAN_SWEEP_S))
        yield


def _encode_state(value: object) -> bytes:
    return str(value).encode()


def run_schedule(schedule: Schedule) -> Outcome:
    """What becomes of a schedule."""
    return World(schedule).run()
