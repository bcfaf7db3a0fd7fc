"""One partition brought to life: ledger, tenants, timers, admission and outbox, wired and recovered.

No edges here: HTTP and Pub/Sub stand on top of this (`app.py`), and so do the benchmarks and the demo.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from governors.admission import Admission
from governors.machines.events import Event
from governors.machines.profiles import Profile, build_profiles
from governors.memory import without_collector
from governors.outbox.executors import Executor
from governors.outbox.outbox import Outbox
from governors.policies import NO_POLICIES, Policies
from governors.settings import Settings, SettingsError
from governors.settings_layers import Problem
from governors.supervision.child import REST_FOR_ONE, TEMPORARY, AutoShutdown, Child, Start, Started
from governors.supervision.dynamic import DynamicSupervisor
from governors.supervision.report import OnEvent, SupervisionEvent
from governors.supervision.supervisor import Supervisor
from governors.tenants.decide import Decided
from governors.tenants.fold import WindowFold
from governors.tenants.operations import OPERATORS_TENANT, Operation, decide_operation, encode_operation
from governors.tenants.policy import (
    POLICY_KEY,
    RUNTIME_TENANT,
    InForce,
    Policy,
    Stop,
    encode_stop,
    load_policy,
    make_policy,
    stop_everybody,
)
from governors.tenants.records import PolicyRecord, decode_policy, encode_record
from governors.tenants.registry import Registry
from governors.tenants.tenant import OpenWork, Shared
from governors.tenants.terms import STOPPED
from governors.tenants.timers import Timers
from ingest.dead_letter import DeadLetterSink
from ledger.appender import Ledger
from ledger.draft import Draft, Limits
from ledger.errors import PushbackError
from ledger.format.receipt import Fsm
from ledger.identity import PartitionLock


@dataclass(frozen=True, slots=True)
class Edges:
    """What a runtime is given from outside: time, randomness, and those who act on what it decides."""

    clock_us: Callable[[], int]
    entropy: Callable[[int], bytes]
    executors: Sequence[Executor]
    dead_letters: DeadLetterSink
    on_decided: Callable[[str, Decided, int], None]
    on_supervision: Callable[[SupervisionEvent], None]
    on_commit: Callable[[float, int], None]
    on_attempt: Callable[[str, str], None]
    on_action_ended: Callable[[str, str], None]
    writer: str


@dataclass(frozen=True, slots=True)
class Tenure:
    """The right to write a log, once it was taken over: see `Ledger.open` for what each of these means."""

    lock: PartitionLock
    epoch: int
    commits_elsewhere: bool
    may_answer: Callable[[], bool]


class Runtime:
    """Recovered and ready to run; `tree` supervises its parts.

    Opening blocks until the log is read. Raises LedgerError where the log cannot be used, SettingsError where the
    configuration does not fit the tenants in it. Without a `tenure` the folder belongs to whoever has its lock, and
    nothing is committed elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        data_dir: Path,
        edges: Edges,
        tenure: Tenure | None = None,
        policies: Policies = NO_POLICIES,
        partition: int = 0,
    ) -> None:
        self.settings = settings
        self.partition = partition
        self.clock_us = edges.clock_us
        self._changing = asyncio.Lock()
        self.in_force = InForce(policy_of(settings, policies), stopped=False)
        fold = WindowFold()
        self.window = fold.window
        self.admission = Admission()
        self.timers = Timers(edges.clock_us, self._on_due)
        self.supervisor = DynamicSupervisor(
            "tenants",
            intensity=settings.tenants.restart_intensity,
            period_s=settings.tenants.restart_period_s,
            on_given_up=self._given_up,
            on_event=edges.on_supervision,
        )
        states: dict[str, bytes] = {}
        with without_collector():
            self.ledger = Ledger.open(
                data_dir,
                partition,
                entropy=edges.entropy,
                writer=edges.writer,
                encode_state=encode_record,
                app=fold,
                on_state=states.__setitem__,
                name=settings.ledger.origin,
                on_commit=edges.on_commit,
                lock=tenure.lock if tenure else None,
                epoch=tenure.epoch if tenure else None,
                commits_elsewhere=tenure is not None and tenure.commits_elsewhere,
                may_answer=tenure.may_answer if tenure else None,
                limits=Limits(
                    batch_bytes=settings.ledger.batch_bytes_max,
                    segment_bytes=settings.ledger.segment_bytes_max,
                    pending_bytes=settings.ledger.pending_bytes_max,
                ),
            )
        self.outbox = Outbox(
            self.ledger,
            partition,
            edges.executors,
            self._tell,
            self._why_not,
            edges.clock_us,
            edges.on_attempt,
            edges.on_action_ended,
        )
        shared = Shared(
            ledger=self.ledger,
            window=self.window,
            timers=self.timers,
            admission=self.admission,
            dead_letters=edges.dead_letters,
            in_force=self.in_force,
            clock_us=edges.clock_us,
            on_action=self.outbox.submit,
            on_decided=edges.on_decided,
            on_settled=self._settled,
            machines_max=settings.tenants.machines_max,
            attempts_max=settings.tenants.dead_letter_after,
        )
        self.registry = Registry(
            shared,
            self.supervisor,
            auto_create=settings.tenants.auto_create,
            default_profile=settings.default_profile,
            queued_max=settings.tenants.mailbox_max,
            idle_passivate_us=int(settings.tenants.idle_passivate_s * 1_000_000),
        )
        recorded = states.pop(POLICY_KEY, None)
        for key, value in states.items():
            self.registry.load(key, value)
        if problems := self._missing_profiles(self.policy):
            self.ledger.close()
            raise SettingsError(problems)
        before = PolicyRecord("") if recorded is None else decode_policy(recorded)
        self.in_force.stopped = before.stopped
        self._record_policy(before)
        for work in self.registry.restore():
            self.outbox.submit(work)

    def tree(
        self, name: str, *edges: Child, keepers: Sequence[Child] = (), on_event: OnEvent | None = None
    ) -> Supervisor:
        """The supervision tree of the parts, in the order in which they start, with `edges` on top. `keepers` commit
        the ledger and stand right above it: they outlive whoever appends.

        A ledger that failed cannot be started again, for nobody knows what is on the disk: everything above it is
        stopped in order, the edges first, and `run` returns.
        """
        return Supervisor(
            name,
            REST_FOR_ONE,
            intensity=3,
            period_s=60.0,
            auto_shutdown=AutoShutdown.ANY_SIGNIFICANT,
            on_event=on_event,
            children=[
                Child("ledger", ready_at_once(self.ledger.run), TEMPORARY, shutdown_s=30.0, significant=True),
                *keepers,
                self.supervisor.as_child(),
                Child("passivator", ready_at_once(self.registry.run)),
                Child("timers", ready_at_once(self.timers.run)),
                Child("outbox", ready_at_once(self.outbox.run), shutdown_s=10.0),
                *edges,
            ],
        )

    def operation_draft(self, operation: Operation) -> Draft:
        """The receipt of what an operator asked for, as the ledger takes it."""
        now_us = self.clock_us()
        decided, payload = decide_operation(operation), encode_operation(operation)
        return _draft(OPERATORS_TENANT, decided, self.policy, now_us, payload)

    def check(self, policies: Policies) -> None:
        """Raises SettingsError where these do not fit the tenants there are."""
        if problems := self._missing_profiles(policy_of(self.settings, policies)):
            raise SettingsError(problems)

    async def reload(self, policies: Policies) -> bool:
        """Govern by these from now on: all of them or none; false where they are those in force. Returns once that is
        durable.

        Raises SettingsError where they do not fit the tenants there are, LedgerError.
        """
        policy = policy_of(self.settings, policies)
        async with self._changing:
            if problems := self._missing_profiles(policy):
                raise SettingsError(problems)
            before = self.in_force.policy.digest
            if policy.digest == before:
                return False
            index = await self._append(
                lambda now_us: _draft(
                    RUNTIME_TENANT, load_policy(before, policy, now_us), policy, now_us, policy.encoded
                )
            )
            self.in_force.policy = policy
            await self._govern_anew(index)
        return True

    async def stop_everybody(self, change: Stop) -> int | None:
        """Stop all governors from acting, or let them act; the receipt's index once it is durable, None where nothing
        had to change.
        """
        async with self._changing:
            if change.stopped == self.in_force.stopped:
                return None
            payload = encode_stop(change)
            index = await self._append(
                lambda now_us: _draft(RUNTIME_TENANT, stop_everybody(change, now_us), self.policy, now_us, payload)
            )
            self.in_force.stopped = change.stopped
            await self._govern_anew(index)
        return index

    async def _govern_anew(self, index: int) -> None:
        self.ledger.put_state(POLICY_KEY, self._policy_record())
        await self.registry.look_at_terms()
        await self.ledger.wait_local(index)

    async def _append(self, draft: Callable[[int], Draft]) -> int:
        """Append when there is room. Nothing else happens between its receipt and what the caller does then."""
        while True:
            try:
                return self.ledger.append(draft(self.clock_us()))
            except PushbackError:
                await self.ledger.wait_local(self.ledger.size - 1)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.in_force.policy

    @property
    def profiles(self) -> dict[str, Profile]:
        """The profiles in force."""
        return self.in_force.policy.profiles

    def _missing_profiles(self, policy: Policy) -> list[Problem]:
        """Profiles that tenants in the log have and the configuration does not. To govern them by another one would be
        nobody's decision.
        """
        problems = []
        for profile, tenants in self.registry.by_profile().items():
            if profile not in policy.profiles:
                named = ", ".join(tenants[:3]) + (", …" if len(tenants) > 3 else "")
                problems.append(Problem(f"profiles.{profile}", "", "not set", f"needed by tenants in the log: {named}"))
        return problems

    def _record_policy(self, recorded: PolicyRecord) -> None:
        """Write into the log what decisions are taken under from now on, unless it is what `recorded` says."""
        record = self._policy_record()
        if record.digest != recorded.digest:
            now_us, policy = self.clock_us(), self.policy
            decided = load_policy(recorded.digest, policy, now_us)
            self.ledger.append(_draft(RUNTIME_TENANT, decided, policy, now_us, policy.encoded))
            self.window.resize(policy.document.window_ids, now_us)
        if record != recorded:
            self.ledger.put_state(POLICY_KEY, record)

    def _policy_record(self) -> PolicyRecord:
        policy, stopped = self.in_force.policy, self.in_force.stopped
        return PolicyRecord(policy.digest, policy.encoded, self.ledger.pseudonym(RUNTIME_TENANT), stopped)

    # The parts know each other through these; none of them has to exist before another.

    def _on_due(self, tenant: str, key: str) -> None:
        self.registry.on_due(tenant, key)

    def _tell(self, tenant: str, key: str, event: Event) -> None:
        self.registry.tell(tenant, key, event)

    def _why_not(self, work: OpenWork) -> str:
        # An emergency stop is for what has not begun as well.
        if self.in_force.stopped or self.registry.is_stopped(work.tenant):
            return STOPPED.observes
        return self.registry.why_not(work)

    def _settled(self, count: int) -> None:
        self.registry.settled(count)

    def _given_up(self, child: str, error: BaseException) -> None:
        self.registry.given_up(child, error)


def policy_of(settings: Settings, policies: Policies) -> Policy:
    """What a configuration comes to."""
    return make_policy(
        build_profiles({**settings.profiles, **policies.profiles}),
        auto_create=settings.tenants.auto_create,
        dead_letter_after=settings.tenants.dead_letter_after,
        default_profile=settings.default_profile,
        machines_max=settings.tenants.machines_max,
        tenants=policies.tenants,
        window_ids=settings.dedup.window_ids,
        windows=policies.windows,
    )


def _draft(tenant: str, decided: Decided, policy: Policy, now_us: int, payload: bytes) -> Draft:
    """The draft of a receipt that is no tenant's."""
    return Draft(
        tenant=tenant,
        event_id=decided.event_id,
        source="",
        observed_us=now_us,
        ts_us=now_us,
        outcome=decided.outcome,
        decision=decided.decision,
        rule=decided.rule,
        evidence=decided.evidence,
        fsm=Fsm(
            decided.event, decided.from_status, decided.governor, decided.subject, decided.to_status, decided.version
        ),
        policy_digest=policy.digest,
        actions=(),
        payload=payload,
    )


def ready_at_once(run: Callable[[], Awaitable[None]]) -> Start:
    """A child that can do its work as soon as it runs."""

    async def start(started: Started) -> None:
        started()
        await run()

    return start
