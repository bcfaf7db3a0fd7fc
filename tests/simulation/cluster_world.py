"""Several workers that share the partitions of a log, in one thread: machines with disks, a store, senders, and what
can go wrong between them.

Whoever goes, whoever comes, and whatever is cut: no two epochs commit at one index, nothing that was acknowledged is
lost or decided twice, and once the faults are over and everybody is back every partition has an owner within 15 s, soon
the one that should have it, and then nothing moves any more.
"""

import asyncio
import errno
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

from simulation.cluster_schedule import ClusterSchedule, Event, Fate, Signal
from simulation.cluster_worker import DATA, IDENTITY, ClusterWorker, NotHereError
from simulation.faults import StoreFault
from simulation.ledger_world import Outcome, in_short
from simulation.observer import Observer, ViolationError
from simulation.processes import Cluster, Process
from simulation.signatures import signing, verify
from simulation.sim_disk import SimDisk
from simulation.sim_store import Landed, Link, SimStore
from simulation.worker import SIGNING_SEED

from governors.cluster.ownership import ranked
from ledger.errors import LedgerError, StoreUnavailableError
from ledger.format.note import Signer
from ledger.identity import partition_folder

OWNED_S: Final = 15.0
"""After the last fault: until then every partition has an owner."""
OWNED_WITHOUT_S: Final = 25.0
"""And until then where some are gone for good: whoever stood by may be among them. That is noticed after `LIVE_S`, by
one that has just started counted from then on, and only then somebody else begins to wait for the lease to end.
"""
SETTLED_S: Final = 90.0
"""And until then each has the one that should have it."""
STILL_S: Final = 30.0
"""For so long then, nothing moves."""
ACKED_S: Final = 60.0
ENDED_S: Final = 60.0
HOP_S: Final = 0.002
ANSWER_S: Final = 8.0
SLOW_S: Final = 2.5


@dataclass
class Machine:
    """One computer: what it keeps when its processes end, and the process that it runs. `peer_cuts`: how often it is
    cut off from the other workers.
    """

    number: int
    disk: SimDisk
    link: Link
    rng: random.Random
    clock_off_us: int
    may_run: bool = True
    is_lost: bool = False
    peer_cuts: int = 0
    incarnation: int = 0
    process: Process | None = None
    main: "asyncio.Task[None] | None" = None
    worker: ClusterWorker | None = None
    drains: int = 0

    @property
    def url(self) -> str:
        return f"http://w{self.number}:8080"

    def lose_power(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.disk.lose_power()


@dataclass
class Sent:
    """A signal on its way: `acked` once somebody said that it is committed."""

    signal: Signal
    attempts: int = 0
    acked: bool = False


@dataclass
class ClusterWorld:
    """One schedule, from an empty store to the last check."""

    schedule: ClusterSchedule
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        schedule = self.schedule
        seed = schedule.seed * 1000
        self.cluster = Cluster(random.Random(seed))
        self.rng = random.Random(seed + 7)
        self.signers = [Signer(IDENTITY.origin(number), SIGNING_SEED) for number in range(schedule.partitions)]
        self.observers = [
            Observer(
                signer.name, key := signer.verifier.public_key, partial(verify, schedule.seed, key),
                partial(self._log_of, number), lambda: self.cluster.now_s,
            )
            for number, signer in enumerate(self.signers)
        ]  # fmt: skip
        self.store = SimStore(self._landed, self._gone)
        self.machines = [self._new_machine(number) for number in range(len(schedule.starts_s))]
        self.sent: list[Sent] = []
        self.violation: str | None = None
        self.faults_are_over = False
        self.committed: Counter[str] = Counter()
        self._counted = [0] * schedule.partitions
        self._dead: list[Process] = []

    def log(self, line: str) -> None:
        self.trace.append(f"{self.cluster.now_s:9.4f}  {line}")

    # The course of events

    def run(self) -> Outcome:
        try:
            self.arrange()
            self._go_on(self.schedule.until_s)
            self._end_faults()
            within_s = OWNED_WITHOUT_S if any(one.is_lost for one in self.machines) else OWNED_S
            self.expect("a partition had no owner", within_s, lambda: not self.vacant())
            self.expect("partitions were not where they should be", SETTLED_S, self.is_settled)
            self.stay_still()
            self.finish()
        except ViolationError as error:
            self.violated(str(error))
        finally:
            self.end()
        return self.outcome()

    def end(self) -> None:
        """Nothing happens any more."""
        for machine in self.machines:
            if machine.process is not None:
                machine.process.on_killed = lambda: None
                machine.process.kill()
                machine.process.bury()
        self._bury()

    def outcome(self) -> Outcome:
        if self.violation is not None:
            self.log(f"VIOLATION: {self.violation}")
        digest = hashlib.sha256("\n".join(self.trace).encode())
        for key, found in sorted(self.store.objects.items()):
            digest.update(f"{key} {found.generation}".encode() + found.data)
        acked = sum(one.acked for one in self.sent)
        return Outcome(self.violation, self.trace, digest.hexdigest(), self.cluster.steps, acked, len(self.committed))

    def arrange(self) -> None:
        for machine, at_s in zip(self.machines, self.schedule.starts_s, strict=True):
            if at_s < inf:
                self.cluster.at(at_s, partial(self.start, machine))
        for signal in self.schedule.requests:
            self.cluster.at(signal.at_s, partial(self.send, signal))
        for fault in self.schedule.faults:
            if isinstance(fault, StoreFault):
                self.machines[fault.machine].link.faults[fault.call] = (fault.fate, fault.late_s)
            else:
                self.cluster.at(fault.at_s, partial(self._befall, fault))

    def _befall(self, event: Event) -> None:
        if self.faults_are_over:
            return
        self.log(str(event))
        one = [self.machines[event.worker]]
        match event.fate:
            case Fate.KILL:
                _kill(one)
            case Fate.KILL_ALL:
                _kill(self.machines)
            case Fate.POWER:
                one[0].lose_power()
            case Fate.LOSE:
                one[0].may_run, one[0].is_lost = False, True
                one[0].lose_power()
                self._later(event.for_s, lambda: self.start_again(one[0]))
            case Fate.FREEZE:
                self._freeze(one, event.for_s)
            case Fate.FREEZE_ALL:
                self._freeze(self.machines, event.for_s)
            case Fate.CUT_STORE:
                self._cut(one, event.for_s)
            case Fate.CUT_ALL:
                self._cut(self.machines, event.for_s)
            case Fate.SLOW:
                self._slow(one, event.for_s)
            case Fate.SLOW_ALL:
                self._slow(self.machines, event.for_s)
            case Fate.CUT_PEERS:
                one[0].peer_cuts += 1
                self._later(event.for_s, lambda: _mend_peers(one[0]))
            case Fate.CLOCK:
                one[0].clock_off_us += int(event.by_s * 1e6)
            case Fate.STOP:
                self.stop(one[0])
                self._later(event.for_s, lambda: self.start_again(one[0]))
            case Fate.DRAIN:
                self.drain(one[0])
                self._later(event.for_s, lambda: self.take_part(one[0]))

    def _freeze(self, machines: list[Machine], for_s: float) -> None:
        for process in [one.process for one in machines if one.process is not None]:
            process.freeze()
            self.cluster.after(for_s, process.thaw)

    def _cut(self, machines: list[Machine], for_s: float) -> None:
        for one in machines:
            one.link.cuts += 1

        def mend() -> None:
            for one in machines:
                one.link.cuts -= 1

        self._later(for_s, mend)

    def _slow(self, machines: list[Machine], for_s: float) -> None:
        for one in machines:
            one.link.slow_s += SLOW_S

        def mend() -> None:
            for one in machines:
                one.link.slow_s -= SLOW_S

        self._later(for_s, mend)

    def _later(self, for_s: float, mend: Callable[[], None]) -> None:
        """When a fault ends, unless all have by then."""
        self.cluster.after(for_s, lambda: None if self.faults_are_over else mend())

    def _end_faults(self) -> None:
        self.log("the faults end")
        self.faults_are_over = True
        for machine in self.machines:
            machine.link.is_sound = True
            machine.link.cuts = machine.peer_cuts = 0
            machine.link.slow_s = 0.0
            if machine.process is not None:
                machine.process.thaw(for_good=True)
            # What is lost does not come back for that: the others do without it.
            if not machine.is_lost or all(one.is_lost for one in self.machines):
                self.start_again(machine)
            self.take_part(machine)

    def stay_still(self) -> None:
        """For a while; then nothing has moved. Raises ViolationError."""
        before = self.epochs()
        self._go_on(self.cluster.now_s + STILL_S)
        moved = [number for number, epoch in enumerate(self.epochs()) if epoch != before[number]]
        if moved:
            raise ViolationError(f"partitions {moved} moved on with nothing the matter")

    def finish(self) -> None:
        """Every signal is acknowledged, everybody stops, and what is left is looked at. Raises ViolationError."""
        self.expect("a signal was not acknowledged", ACKED_S, lambda: all(one.acked for one in self.sent))
        for machine in self.machines:
            self.stop(machine)
        self.expect("a process did not end", ENDED_S, lambda: all(one.main is None for one in self.machines))
        for one in self.sent:
            if self.committed[_name(one.signal)] != 1:
                raise ViolationError(
                    f"a signal that was acknowledged is committed {self.committed[_name(one.signal)]} times"
                )
        for number, observer in enumerate(self.observers):
            last = observer.heads[-1][1] if observer.heads else None
            files = None if last is None else self._files_of(self.machines[last], number)
            observer.check_end(files, None)

    # What is expected

    def expect(self, otherwise: str, within_s: float, holds: Callable[[], bool]) -> None:
        """Run until something has come true. Raises ViolationError if it does not in good time."""
        since_s = self.cluster.now_s
        found = self.cluster.run(since_s + within_s, lambda: holds() or self.violation is not None)
        self.raise_violation()
        if not found:
            raise ViolationError(f"{otherwise} within {within_s:.0f} s")
        self.log(f"after {self.cluster.now_s - since_s:.1f} s it was not so that {otherwise}")

    def vacant(self) -> list[int]:
        """The partitions that nobody serves who could answer."""
        return [number for number in range(self.schedule.partitions) if self.owner(number) is None]

    def owner(self, number: int) -> Machine | None:
        """Who serves a partition, has won its head, and may still answer."""
        epoch = self.observers[number].epoch
        for machine in self.machines:
            there = None if machine.worker is None else machine.worker.here.get(number)
            if there is not None and there.epoch == epoch and there.may_answer():
                return machine
        return None

    def is_settled(self) -> bool:
        """Whether each partition is with the worker that comes first for it, of those that take part, and stays."""
        if any(one.worker is not None and one.worker.is_handing_over for one in self.machines):
            return False
        urls = [one.url for one in self.machines if one.may_run and not one.drains]
        return all(
            (owner := self.owner(number)) is not None and owner.url == ranked(number, urls)[0]
            for number in range(self.schedule.partitions)
        )

    def epochs(self) -> list[int]:
        """Of each partition's head."""
        return [observer.epoch for observer in self.observers]

    def violated(self, promise: str) -> None:
        """The first one counts."""
        self.violation = self.violation or promise

    def raise_violation(self) -> None:
        if self.violation is not None:
            raise ViolationError(self.violation)

    def _go_on(self, until_s: float) -> None:
        self.cluster.run(until_s, lambda: self.violation is not None)
        self.raise_violation()

    # What lands in the store

    def _landed(self, landed: Landed) -> None:
        prefix, _, key = landed.key.partition("/")
        if not prefix.isdecimal():
            return  # heartbeats
        number = int(prefix)
        observer = self.observers[number]
        observer.landed(Landed(landed.process, key, landed.data, landed.generation))
        for event_id in observer.event_ids[self._counted[number] :]:
            self.committed[event_id] += 1
            if self.committed[event_id] > 1:
                raise ViolationError(f"{event_id} was decided twice")
        self._counted[number] = len(observer.event_ids)

    def _gone(self, process: str, key: str) -> None:
        prefix, _, rest = key.partition("/")
        if prefix.isdecimal():
            self.observers[int(prefix)].gone(process, rest)

    def _log_of(self, number: int, line: str) -> None:
        self.log(f"[{number}] {line}")

    # Machines and processes

    def _new_machine(self, number: int) -> Machine:
        seed = self.schedule.seed * 1000 + 100 * number
        rng = random.Random(seed + 3)
        machine = Machine(
            number,
            SimDisk(random.Random(seed + 1), self.log),
            Link(self.cluster, self.store, random.Random(seed + 2), self.log),
            rng,
            int(rng.uniform(-120.0, 120.0) * 1e6),
        )
        machine.disk.on_power_failure = machine.lose_power
        return machine

    def start(self, machine: Machine) -> None:
        """Unless it runs already, or may not."""
        if machine.process is not None or not machine.may_run:
            return
        machine.incarnation += 1
        name = f"{machine.number}.{machine.incarnation}"
        rng = machine.rng
        process = machine.process = Process(  # type: ignore[abstract] # what it lacks is for sockets
            self.cluster, name, offset_s=1e5 * rng.randrange(1, 100), rate=1.0 + 0.02 * (rng.random() - 0.5)
        )
        process.on_killed = lambda: self._ended(machine, process, "killed")
        self.log(f"{name} starts")
        machine.main = process.start(self._live(machine, process), "main")
        machine.main.add_done_callback(lambda done: self._returned(machine, process, done))

    async def _live(self, machine: Machine, process: Process) -> None:
        """Within its process, for what it makes belongs to the loop that runs."""
        files = machine.disk.open(process)
        worker = machine.worker = ClusterWorker(
            machine.number, machine.url, process, files, machine.link.open(process, files), self.observers,
            self.signers, random.Random(machine.rng.getrandbits(64)), partial(self._clock_us, machine), self.log,
            partial(self._answers, machine),
        )  # fmt: skip
        if machine.drains:
            worker.assignment.leave(leaving=True)
        await worker.live()

    def _answers(self, asking: Machine, url: str) -> bool:
        """Whether whoever is at an address answers this one."""
        asked = next(one for one in self.machines if one.url == url)
        is_there = asked.worker is not None and asked.worker.process.alive
        return is_there and not asking.peer_cuts and not asked.peer_cuts

    def stop(self, machine: Machine) -> None:
        """As SIGTERM does; it starts no more."""
        machine.may_run = False
        if machine.main is not None:
            machine.main.cancel()

    def start_again(self, machine: Machine) -> None:
        """It may run again."""
        machine.may_run, machine.is_lost = True, False
        self.start(machine)

    def drain(self, machine: Machine) -> None:
        """As `governors drain` does."""
        machine.drains += 1
        if machine.worker is not None and machine.drains == 1:
            self._tell(machine, leaving=True)

    def take_part(self, machine: Machine) -> None:
        """Drained no more."""
        machine.drains = 0
        if machine.worker is not None and machine.may_run:
            self._tell(machine, leaving=False)

    def _tell(self, machine: Machine, *, leaving: bool) -> None:
        process, worker = machine.process, machine.worker
        assert process is not None
        assert worker is not None
        process.call_soon(lambda: worker.assignment.leave(leaving=leaving))

    def _clock_us(self, machine: Machine) -> int:
        return 1_700_000_000_000_000 + int(self.cluster.now_s * 1e6) + machine.clock_off_us

    def _returned(self, machine: Machine, process: Process, done: "asyncio.Future[None]") -> None:
        if not process.alive:
            return
        error = None if done.cancelled() else done.exception()
        why = "stopped" if done.cancelled() or error is None else f"{type(error).__name__}: {error}"
        if error is not None and not _is_expected(error):
            self.violated(f"{process.name} ended with {error!r}")
        if process.failures:
            self.violated(f"{process.name}: nobody heard of {process.failures[0]}")
        process.on_killed = lambda: self._ended(machine, process, why)
        process.kill()

    def _ended(self, machine: Machine, process: Process, why: str) -> None:
        self.log(f"{process.name} ended: {why}")
        machine.process = machine.main = machine.worker = None
        self._dead.append(process)
        self.cluster.after(0.0, self._bury)
        self.cluster.after(0.2 + 3.0 * machine.rng.random() ** 2, lambda: self.start(machine))

    def _bury(self) -> None:
        while self._dead:
            self._dead.pop().bury()

    def _files_of(self, machine: Machine, number: int) -> dict[str, bytes]:
        prefix = f"{partition_folder(DATA, number)}/"
        return {path: data for path, data in machine.disk.contents().items() if path.startswith(prefix)}

    # Senders

    def send(self, signal: Signal) -> None:
        """Hand a signal over, until it is acknowledged."""
        sent = Sent(signal)
        self.sent.append(sent)
        self._try(sent)

    def _try(self, sent: Sent) -> None:
        """Hand it to somebody; to another one later, if that comes to nothing."""
        if sent.acked:
            return
        sent.attempts += 1
        machine = self.rng.choice(self.machines)
        # Some of those who sent it before have not heard yet, when it is sent again.
        self.cluster.after(self.rng.uniform(1.0, 5.0), lambda: self._try(sent))
        if machine.worker is not None:
            self._ask(machine, sent, hops=1)

    def _ask(self, machine: Machine, sent: Sent, *, hops: int) -> None:
        worker = machine.worker
        if worker is None or not worker.process.alive:
            return
        tenant = f"t{sent.signal.tenant}"

        async def ask() -> None:
            if not worker.has(tenant) and hops:
                url = worker.owner_of(tenant)
                peer = next((one for one in self.machines if one.url == url), None)
                if peer is not None and not machine.peer_cuts and not peer.peer_cuts:
                    self.cluster.after(HOP_S, lambda: self._ask(peer, sent, hops=0))
                return
            try:
                async with asyncio.timeout(ANSWER_S):
                    await worker.decide(tenant, _name(sent.signal))
            except ViolationError as error:
                self.violated(str(error))
            except (NotHereError, LedgerError, TimeoutError) as error:
                self.log(f"{worker.process.name}: a sender was told {type(error).__name__}")
            else:
                if not sent.acked:
                    self.log(f"{_name(sent.signal)} is acknowledged after {sent.attempts} attempts")
                sent.acked = True

        worker.process.start(ask(), "sender")


def _kill(machines: list[Machine]) -> None:
    for one in machines:
        if one.process is not None:
            one.process.kill()


def _mend_peers(machine: Machine) -> None:
    machine.peer_cuts -= 1


def _name(signal: Signal) -> str:
    return f"e-{signal.number}"


def _is_expected(error: BaseException) -> bool:
    """Whether a sound program may end so."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno in {errno.EIO, errno.ENOSPC}
    return isinstance(error, StoreUnavailableError)


def run_cluster(schedule: ClusterSchedule) -> Outcome:
    """What becomes of a schedule."""
    with signing(schedule.seed), in_short():
        return ClusterWorld(schedule).run()
