"""A ledger's whole world in one thread: machines with disks, a store, callers, and everything that can go wrong.

The code under test is the real one (recovery, ledger, committer, takeover); simulated are time, processes, disks and
the network. One schedule gives one course of events, to the byte.
"""

import asyncio
import errno
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from simulation.faults import DiskFault, KillAtStep, MachineFate, MachineFault, StoreFault
from simulation.observer import Keeping, Observer, ViolationError
from simulation.processes import Cluster, Process
from simulation.schedule import Mode, Request, Schedule
from simulation.signatures import signing, verify
from simulation.sim_disk import SimDisk
from simulation.sim_store import Link, SimStore
from simulation.worker import ORIGIN, POLICY, SIGNING_SEED, Worker

from ledger import orphans, pruner, recovery
from ledger.appender import Ledger
from ledger.errors import LedgerClosedError, LedgerError, LedgerFailedError, StoreUnavailableError, WriterFencedError
from ledger.format.note import Signer

ORPHAN_GRACE_S: Final = 3.0
ORPHAN_SWEEP_S: Final = 2.0
"""Instead of a day and six hours: what makes collecting safe is not how long it waits."""
PRUNE_ROUND_S: Final = 4.0
SNAPSHOT_EVERY_S: Final = 2.5
CLOCKS_OFF_S: Final = 20 * 3600.0
RESTORED_EVERY: Final = 2
"""One of so many schedules ends with a restore, which takes a tenth of its time."""
RECOVERY_S: Final = 300.0
"""How long after the last fault somebody must make progress: leases, backoffs and patience with the store included."""


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

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asks for the result
            done.set_exception(error)
        return done


@dataclass
class Machine:
    """One computer: what it keeps when its processes end, and the processes that it runs."""

    number: int
    disk: SimDisk
    link: Link
    rng: random.Random
    clock_off_us: int = 0
    may_run: bool = True
    kills: list[int] = field(default_factory=list)
    """Steps before which a process is killed."""
    incarnation: int = 0
    steps_before: int = 0
    """Of all its processes that have ended."""
    process: Process | None = None
    main: asyncio.Task[None] | None = None
    worker: Worker | None = None
    ledger: Ledger | None = None
    """While it serves."""
    served: Ledger | None = None
    """What its latest process has served."""
    ended_well: bool = False
    helper: Process | None = None
    """Makes a snapshot. It outlives the process that began it, unless the power fails."""

    def lose_power(self) -> None:
        """All processes end, and what was not durable is lost or not."""
        for process in (self.process, self.helper):
            if process is not None:
                process.kill()
        self.disk.lose_power()


class World:
    """One schedule, from an empty store to the last check."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.mode = schedule.mode
        self.trace: list[str] = []
        seed = schedule.seed * 1000
        self.cluster = Cluster(random.Random(seed))
        clocks_were_set = any(
            isinstance(one, MachineFault) and one.fate is MachineFate.CLOCK for one in schedule.faults
        )
        age_s = -CLOCKS_OFF_S if clocks_were_set else POLICY.payloads_days * 86_400
        keeping = Keeping(age_s, POLICY.receipts_min) if schedule.forgets else None
        self.signer = Signer(ORIGIN, SIGNING_SEED)
        public_key = self.signer.verifier.public_key
        self.observer = Observer(
            ORIGIN,
            public_key,
            partial(verify, schedule.seed, public_key),
            self.log,
            lambda: self.cluster.now_s,
            keeping,
        )
        self.store = SimStore(self.observer.landed, self.observer.gone)
        self.machines = [
            Machine(
                number,
                SimDisk(random.Random(seed + 100 * number + 1), self.log),
                Link(self.cluster, self.store, random.Random(seed + 100 * number + 2), self.log),
                random.Random(seed + 100 * number + 3),
            )
            for number in range(schedule.machines)
        ]
        for machine in self.machines:
            machine.disk.on_power_failure = machine.lose_power
        self._dead: list[Process] = []
        self.events = 0
        self.answered_probe = ""
        self.faults_are_over = False
        self.answered = 0
        self.violation: str | None = None

    def log(self, line: str) -> None:
        self.trace.append(f"{self.cluster.now_s:9.4f}  {line}")

    # The course of events

    def run(self) -> Outcome:
        try:
            self._arrange()
            self.cluster.run(self.schedule.until_s, lambda: self.violation is not None)
            self._raise_violation()
            self._end_faults()
            self._demand_progress()
            self._stop_in_order()
            self._restore()
        except ViolationError as error:
            self.violated(str(error))
        finally:
            for machine in self.machines:
                for process in (machine.process, machine.helper):
                    if process is not None:
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
                machine.lose_power()
            case MachineFate.FREEZE if process is not None:
                process.freeze()
                self.cluster.after(fault.for_s, process.thaw)
            case MachineFate.CUT_OFF:
                machine.link.cuts += 1
                self.cluster.after(fault.for_s, partial(self._mend, machine))
            case MachineFate.STOP if machine.main is not None:
                machine.may_run = False
                machine.main.cancel()
                self.cluster.after(fault.for_s, lambda: self._may_run(machine))
            case MachineFate.CLOCK:
                machine.clock_off_us += int(fault.by_s * 1e6)
            case MachineFate.FLIP:
                spoilt = machine.disk.flip_a_bit(".seg")
                if spoilt is not None:
                    self.log(f"machine {machine.number}: a bit of {spoilt} is flipped")
            case MachineFate.WIPE:
                machine.lose_power()
                machine.disk.wipe()
                self.observer.disk_wiped(machine.number)

    def _end_faults(self) -> None:
        self.log("the faults end")
        self.faults_are_over = True
        for machine in self.machines:
            machine.disk.is_sound = machine.link.is_sound = machine.may_run = True
            machine.link.cuts = 0
            machine.kills.clear()
            if machine.process is not None:
                machine.process.kill_at_step = -1
                machine.process.thaw(for_good=True)

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
        self._probe(chosen)
        self._await(f"machine {chosen.number} made no progress", lambda: self.answered_probe != "")
        if self._has_store:
            probe, told = self.answered_probe, self.observer
            self._await("a receipt was not committed", lambda: probe in told.event_ids)
            size = told.event_ids.index(probe) + 1
            self._await("what is committed was not published", lambda: told.public_size >= size)

    def _await(self, promise: str, done: Callable[[], bool]) -> None:
        """Run until something has come true. Raises ViolationError if it does not in good time."""
        found = self.cluster.run(self.cluster.now_s + RECOVERY_S, lambda: done() or self.violation is not None)
        self._raise_violation()
        if not found:
            raise ViolationError(f"{promise} in {RECOVERY_S:.0f} s")

    def _probe(self, machine: Machine) -> None:
        """Try every second until one was answered."""
        if not self.answered_probe:
            self._ask(machine, 0, 1, probe=True)
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

    def _restore(self) -> None:
        """A new machine gets the log from the store alone."""
        if "ctl/head" not in self.store.objects or self.schedule.seed % RESTORED_EVERY:
            return
        rng = random.Random(self.schedule.seed)
        machine = Machine(
            len(self.machines), SimDisk(rng, self.log), Link(self.cluster, self.store, rng, self.log), rng
        )
        self.machines.append(machine)
        process = machine.process = self._new_process(machine, f"{machine.number}.1")
        restored = process.start(self._new_worker(machine, process).restore())
        if not self.cluster.run(self.cluster.now_s + RECOVERY_S, restored.done):
            raise ViolationError("a restore did not end")
        if (error := restored.exception()) is not None:
            raise ViolationError(f"a restore ended with {error!r}")

    @property
    def _has_store(self) -> bool:
        return self.mode is not Mode.LOCAL

    def violated(self, promise: str) -> None:
        """The first one counts."""
        self.violation = self.violation or promise

    def _raise_violation(self) -> None:
        if self.violation is not None:
            raise ViolationError(self.violation)

    # Processes

    def _mend(self, machine: Machine) -> None:
        if not self.faults_are_over:
            machine.link.cuts -= 1

    def _may_run(self, machine: Machine) -> None:
        if not self.faults_are_over:
            machine.may_run = True

    def _start(self, machine: Machine) -> None:
        if machine.process is not None or not machine.may_run:
            self.cluster.after(1.0, lambda: self._start(machine))
            return
        machine.incarnation += 1
        machine.ended_well, machine.served = False, None
        name = f"{machine.number}.{machine.incarnation}"
        process = machine.process = self._new_process(machine, name)
        process.on_killed = lambda: self._ended(machine, process, "killed")
        kills = [step - machine.steps_before for step in machine.kills if step > machine.steps_before]
        process.kill_at_step = min(kills, default=-1)
        self.log(f"{name} starts")
        worker = machine.worker = self._new_worker(machine, process)
        machine.main = process.start(worker.live())
        machine.main.add_done_callback(lambda done: self._returned(machine, process, done))
        self.cluster.after(SNAPSHOT_EVERY_S, partial(self._start_helper, machine, process))

    def _new_process(self, machine: Machine, name: str) -> Process:
        rng = machine.rng
        return Process(  # type: ignore[abstract] # what it lacks is for sockets
            self.cluster, name, offset_s=1e5 * rng.randrange(1, 100), rate=1.0 + 0.02 * (rng.random() - 0.5)
        )

    def _new_worker(self, machine: Machine, process: Process) -> Worker:
        files = machine.disk.open(process)
        return Worker(
            self.mode, self.schedule.forgets, machine.number, process, files, machine.link.open(process, files),
            self.observer, random.Random(machine.rng.getrandbits(64)), partial(self._clock_us, machine), self.signer,
            self.log, partial(self._serves, machine),
        )  # fmt: skip

    def _clock_us(self, machine: Machine) -> int:
        return 1_700_000_000_000_000 + int(self.cluster.now_s * 1e6) + machine.clock_off_us

    def _serves(self, machine: Machine, ledger: Ledger | None) -> None:
        machine.ledger = ledger
        machine.served = ledger or machine.served

    def _start_helper(self, machine: Machine, parent: Process) -> None:
        """A process that makes a snapshot, now and then while its parent lives; one at a time has the lock."""
        if not parent.alive or self.faults_are_over:  # nothing more can go wrong with one
            return
        self.cluster.after(SNAPSHOT_EVERY_S, partial(self._start_helper, machine, parent))
        if machine.helper is None and machine.ledger is not None and not parent.frozen:
            helper = machine.helper = self._new_process(machine, f"{parent.name}.snapshot")
            helper.on_killed = lambda: self._helper_ended(machine, helper)
            made = helper.start(self._new_worker(machine, helper).make_snapshot())
            made.add_done_callback(lambda done: self._helper_returned(machine, helper, done))

    def _helper_returned(self, machine: Machine, helper: Process, done: "asyncio.Future[None]") -> None:
        # A disk that fails, or a segment that was put aside meanwhile: then there is no snapshot.
        if helper.alive and (error := done.exception()) is not None and not isinstance(error, LedgerError | OSError):
            self.violated(f"{helper.name} ended with {error!r}")
        helper.kill()

    def _helper_ended(self, machine: Machine, helper: Process) -> None:
        machine.helper = None
        self._dead.append(helper)
        self.cluster.after(0.0, self._bury)

    def _returned(self, machine: Machine, process: Process, done: "asyncio.Future[None]") -> None:
        if not process.alive:
            return
        error = None if done.cancelled() else done.exception()
        why = "stopped" if done.cancelled() or error is None else f"{type(error).__name__}: {error}"
        if error is not None and not self._is_expected(machine, error):
            self.violated(f"{process.name} ended with {error!r}")
        if process.failures:
            self.violated(f"{process.name}: nobody heard of {process.failures[0]}")
        if machine.helper is not None:
            machine.helper.kill()  # who ends in order ends his helper too
        machine.ended_well = machine.served is not None and machine.served.failed is None
        process.on_killed = lambda: self._ended(machine, process, why)
        process.kill()

    def _is_expected(self, machine: Machine, error: BaseException) -> bool:
        """Whether a sound program may end so, given what has happened to it."""
        if isinstance(error, LedgerFailedError | LedgerClosedError) and machine.served is not None:
            error = machine.served.failed or error  # who heard of it from the ledger knows no more
        while error.__cause__ is not None:
            error = error.__cause__
        if isinstance(error, OSError):
            return error.errno in {errno.EIO, errno.ENOSPC}
        if isinstance(error, WriterFencedError | StoreUnavailableError):
            return True
        return machine.disk.is_spoilt and isinstance(error, LedgerError)

    def _ended(self, machine: Machine, process: Process, why: str) -> None:
        self.log(f"{process.name} ended: {why}")
        machine.steps_before += process.steps
        machine.kills = [step for step in machine.kills if step > machine.steps_before]
        machine.process = machine.main = machine.worker = machine.ledger = None
        self._dead.append(process)
        self.cluster.after(0.0, self._bury)
        self.cluster.after(0.2 + 3.0 * machine.rng.random() ** 2, lambda: self._start(machine))

    def _bury(self) -> None:
        while self._dead:
            self._dead.pop().bury()

    # Callers

    def _hand_over(self, request: Request) -> None:
        self._ask(self.machines[request.machine], request.tenant, request.count)

    def _ask(self, machine: Machine, tenant: int, count: int, *, probe: bool = False) -> None:
        worker, ledger = machine.worker, machine.ledger
        if worker is None or ledger is None or not worker.process.alive:
            return
        event_ids = [f"e-{self.events + number}" for number in range(1, count + 1)]
        self.events += count

        async def ask() -> None:
            try:
                await worker.ask(ledger, tenant, event_ids)
                self.answered += 1
                if probe:
                    self.answered_probe = event_ids[-1]
            except ViolationError as error:
                self.violated(str(error))
            except FileNotFoundError as error:
                self.violated(f"{worker.process.name} looked for what is not there: {error}")
            except (LedgerError, OSError) as error:
                self.log(f"{worker.process.name}: a caller was told {type(error).__name__}")

        worker.process.start(ask(), "caller")


@contextmanager
def in_short() -> Iterator[None]:
    """No threads, and what takes days takes seconds."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(recovery, "ThreadPoolExecutor", Inline))
        stack.enter_context(patch.object(orphans, "GRACE_S", ORPHAN_GRACE_S))
        stack.enter_context(patch.object(orphans, "SWEEP_S", ORPHAN_SWEEP_S))
        stack.enter_context(patch.object(pruner, "ROUND_S", PRUNE_ROUND_S))
        yield


def run_schedule(schedule: Schedule) -> Outcome:
    """What becomes of a schedule."""
    with signing(schedule.seed), in_short():
        return World(schedule).run()
