"""Takes a log's decisions again: from the payload of each receipt, by the same pure code, and compares every byte.

Given by the log, because nobody decides them, are the moment of a decision, the writer, its epoch, the log's name and
the tenant's pseudonym; of what the runtime told a machine, which one; of a failure, what it said. All the rest of a
receipt is made anew, beginning with tenants of whom nothing is known, and must come out as the same bytes.

No I/O, no clock, no key. What it cannot know it says: where a payload is gone, its tenant's receipts from there on are
named as not replayed, and never count as good.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct, field

from governors.machines.catalog import BY_NAME, BY_SIGNAL, OPERATOR, RUNTIME, TENANT
from governors.machines.events import Event, RuntimeEvent
from governors.machines.governor import Governor
from governors.machines.overlays import MachineState
from governors.machines.profiles import Profile
from governors.replay.beginning import Beginning
from governors.replay.findings import Difference, Findings, Named, Unknown, differences
from governors.tenants.decide import (
    ENTITLEMENT_KEY,
    Decided,
    EmergencyStop,
    Moment,
    Quarantine,
    decide_event,
    decide_signal,
    emergency_stop,
    give_up,
    listens,
    put_aside,
    quarantine,
)
from governors.tenants.dedup import REMEMBERED, DedupWindow, TenantWindow, recall
from governors.tenants.operations import OperationInvalidError, decide_operation, decode_operation
from governors.tenants.policy import (
    EMERGENCY_STOP,
    Policy,
    PolicyUnknownError,
    decode_stop,
    load_policy,
    read_policy,
    stop_everybody,
    terms_of,
)
from governors.tenants.records import SEPARATOR, Header, machine_key
from ingest.decode.limits import DecodeLimits
from ingest.decode.message import decode_message
from ingest.decode.native import decode_native
from ingest.errors import SignalRejectedError
from ingest.signals import INTEGER_MAX, Signal
from ledger.errors import NotCanonicalError
from ledger.format import canonical, chain
from ledger.format.chain import LEDGER_TENANT
from ledger.format.receipt import RECEIPT_VERSION, Fsm, Receipt
from ledger.format.segment import COMMITMENT_KEY_BYTES

PUT_ASIDE: Final = "dead_lettered"
QUARANTINED: Final = "tenant.quarantined"
# What was taken in was within the bounds of its day; only its meaning matters now.
_ANY_SIZE: Final = DecodeLimits(signal_bytes_max=1 << 31, extra_bytes_max=1 << 31, extra_depth_max=1 << 10)
_NOT_MET: Final = Header("", "unknown", "", 0)
_sha256 = hashlib.sha256


class StoredReceipt(Struct, frozen=True, gc=False):
    """A leaf, and the bytes of the payload frame behind it (None where it is gone)."""

    leaf: bytes
    payload: bytes | None


class _GivenFsm(Struct, frozen=True, gc=False):
    event: str
    machine: str
    subject: str
    from_: str = field(name="from")


class _Given(Struct, frozen=True, gc=False):
    """What is looked at in a stored receipt. `outcome` and `rule` only choose what is asked, and are made anew; `prev`
    and `from` are taken only where the log's beginning is gone.
    """

    epoch: int
    fsm: _GivenFsm
    log: str
    outcome: str
    prev: str
    rule: str
    source: str
    tenant: str
    ts_us: int
    tseq: int
    writer: str


class _Head(Struct, frozen=True, gc=False):
    """What is looked at in the receipts of tenants that another replay takes: the memory of repeated signals is one for
    all of them.
    """

    observed_us: int
    outcome: str
    source: str
    tenant: str
    ts_us: int


class _Told(Struct, frozen=True):
    """The payload of what the runtime tells a machine: an `Event` whose body is the runtime's."""

    id: str
    observed_us: int
    body: RuntimeEvent


_read_given: Final = msgspec.json.Decoder(_Given).decode
_read_head: Final = msgspec.json.Decoder(_Head).decode
_read_told: Final = msgspec.json.Decoder(_Told).decode
_read_change: Final = msgspec.json.Decoder(Quarantine | EmergencyStop).decode


class _NotWrittenError(Exception):
    """The service would not have left this receipt."""


class _Machine:
    """One machine as it is. `deadline_us` is when it may be told that its time is over."""

    __slots__ = ("deadline_us", "governor", "state", "subject")

    def __init__(self, governor: Governor, subject: str, state: MachineState[Any], deadline_us: int | None) -> None:
        self.governor = governor
        self.subject = subject
        self.state = state
        self.deadline_us = deadline_us


class _Tenant:
    """One tenant as its receipts so far make it; without a profile before the first of them.

    `head` is the leaf hash (hex) of the last one, `count` how many there are, `name` what its senders call it (where
    it is entitled to a name of its own), `released_us` when it was last let out of quarantine.
    """

    __slots__ = (
        "count",
        "head",
        "header",
        "machines",
        "name",
        "profile",
        "pseudonym",
        "released_us",
        "unknown",
        "window",
    )

    def __init__(self, pseudonym: str, window: TenantWindow, head: str) -> None:
        self.pseudonym = pseudonym
        self.window = window
        self.head = head
        self.count = 0
        self.header = _NOT_MET
        self.profile: Profile | None = None
        self.machines: dict[str, _Machine] = {}
        self.name = ""
        self.released_us = -1
        self.unknown = False


class _Again(Struct, frozen=True, gc=False):
    """A decision taken again, with what its receipt has from its cause."""

    decided: Decided
    source: str
    observed_us: int
    policy_digest: str


class Replay:
    """The fold over one partition, whose first receipt to be taken has the index `first_index`; what was before that
    is in `beginning`, or unknown.

    Several may share a log: each reads all of it and takes again what share number `share` of `shares` decided. Each
    needs a `beginning` of its own.
    """

    def __init__(
        self, first_index: int = 0, beginning: Beginning | None = None, *, share: int = 0, shares: int = 1
    ) -> None:
        self.found: Final = Findings()
        self._share = share
        self._shares = shares
        self._index = self._first_index = first_index
        self._policy: Policy | None = None
        self._stopped = False
        self._no_policy = "the policy it was decided under is not in the log"
        self._runtime = ""
        """The pseudonym of the runtime's own chain."""
        self._operators = ""
        """That of the operators' chain."""
        self._window = DedupWindow(1)
        self._others = TenantWindow()
        self._tenants: dict[str, _Tenant] = {}
        self._beginning = beginning
        if beginning is not None:
            self._policy, self._no_policy = beginning.policy, beginning.no_policy
            self._stopped = beginning.stopped
            self._runtime = beginning.runtime
            self._window = beginning.window

    def take(self, receipts: Sequence[StoredReceipt]) -> None:
        """The next receipts of the log, in order."""
        read = [self._look(one.leaf) for one in receipts]
        ours = [one.payload or b"" for one, given in zip(receipts, read, strict=True) if type(given) is _Given]
        # A frame that is too short for a key commits to nothing that a receipt could have.
        keys = [frame[:COMMITMENT_KEY_BYTES].ljust(COMMITMENT_KEY_BYTES, b"\0") for frame in ours]
        payloads = [frame[COMMITMENT_KEY_BYTES:] for frame in ours]
        contents = iter(zip(payloads, chain.commitments(keys, payloads), strict=True))
        for one, given in zip(receipts, read, strict=True):
            if type(given) is _Given:
                payload, commitment = next(contents)
                self._take(given, one.leaf, None if one.payload is None else payload, commitment)
            elif type(given) is _Head:
                if given.source and given.outcome in REMEMBERED:
                    at = self._index
                    self._window.remember(self._others, str(at), "", given.observed_us, at, given.ts_us)
            elif self._share == 0:
                self._differs("", Difference("leaf", None, f"not a receipt: {given}"))
            self._index += 1
        self.found.receipts += len(receipts)

    def _look(self, leaf: bytes) -> _Given | _Head | str:
        """As much of a receipt as is needed; why there is none."""
        try:
            if self._shares > 1:
                head = _read_head(leaf)
                # The runtime's own are everybody's: they say under which policy.
                if not self._is_ours(head.tenant) and (head.source or b'"machine":"runtime"' not in leaf):
                    return head
            return _read_given(leaf)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return str(error)

    def _is_ours(self, pseudonym: str) -> bool:
        return zlib.crc32(pseudonym.encode()) % self._shares == self._share

    def _take(self, given: _Given, leaf: bytes, payload: bytes | None, commitment: str) -> None:
        tenant = self._tenants.get(given.tenant) or self._meet(given)
        if given.tenant == LEDGER_TENANT:
            self.found.of_ledger += 1
        elif given.fsm.machine == RUNTIME and given.fsm.event == EMERGENCY_STOP:
            self._stop(tenant, given, leaf, payload, commitment)
        elif given.fsm.machine == RUNTIME:
            self._load_policy(tenant, given, leaf, payload, commitment)
        elif given.fsm.machine == OPERATOR and not given.source:
            self._operate(tenant, given, leaf, payload, commitment)
        elif tenant.unknown or payload is None or self._policy is None:
            self._pass_over(tenant, given, leaf, "its payload is gone" if payload is None else self._no_policy)
        else:
            self._repeat(tenant, given, leaf, payload, commitment, self._policy)
        # On with what is stored, so that one wrong receipt is named once.
        tenant.head = _sha256(b"\0" + leaf).hexdigest()
        tenant.count = given.tseq + 1

    def _meet(self, given: _Given) -> _Tenant:
        pseudonym = given.tenant
        head = chain.genesis(given.log, pseudonym).hex()
        tenant = self._tenants[pseudonym] = _Tenant(pseudonym, self._window.tenant(pseudonym), head)
        if self._beginning is not None:
            self._go_on(tenant, self._beginning)
        elif given.tseq and self._first_index:
            tenant.head, tenant.count = given.prev, given.tseq
            if given.fsm.machine not in {RUNTIME, OPERATOR} and pseudonym != LEDGER_TENANT:
                self._lose(tenant, f"its first {given.tseq} receipts are gone")
        return tenant

    def _go_on(self, tenant: _Tenant, beginning: Beginning) -> None:
        """Make a tenant what it was."""
        tenant.count, tenant.head = beginning.chains.get(tenant.pseudonym, (0, tenant.head))
        known = beginning.tenants.get(tenant.pseudonym)
        if known is not None:
            tenant.header = known.header
            tenant.machines = {
                machine_key(one.governor, one.subject): _Machine(
                    BY_NAME[one.governor], one.subject, one.state, one.deadline_us
                )
                for one in known.machines
            }
            self._name(tenant, known.header.tenant)
            if self._policy is not None:
                tenant.profile = self._policy.profiles.get(known.header.profile)
                if tenant.profile is None:
                    self._lose(tenant, f"its profile {known.header.profile!r} is not in the policy")
        elif tenant.count and tenant.pseudonym not in {self._runtime, LEDGER_TENANT}:
            self._lose(tenant, f"what it was after its first {tenant.count} receipts is not in the snapshot")

    def _repeat(
        self, tenant: _Tenant, given: _Given, leaf: bytes, payload: bytes, commitment: str, policy: Policy
    ) -> None:
        """Take a decision again and compare its receipt."""
        self.found.replayed += 1
        if tenant.profile is None:
            document = policy.document
            tenant.header = Header("", "active" if document.auto_create else "unknown", document.default_profile, 0)
            tenant.profile = policy.profiles[document.default_profile]
        try:
            if given.source:
                again = self._decide_signal(tenant, given, leaf, payload, policy)
            elif given.fsm.machine == TENANT:
                again = self._change(tenant, given, payload, policy)
            else:
                again = self._tell(tenant, given, leaf, payload, policy)
        except _NotWrittenError as error:
            self._differs(given.tenant, Difference("outcome", given.outcome, f"no receipt: {error}"))
            self._recall(given, leaf)
            return
        self._compare(tenant, given, leaf, commitment, again)

    def _moment(self, tenant: _Tenant, name: str, given: _Given, policy: Policy) -> Moment:
        """What a decision about the tenant of this name was taken under."""
        terms = terms_of(policy, tenant.header, name, given.ts_us, stopped=self._stopped)
        return Moment(
            given.ts_us, terms, policy.profiles, tenant.pseudonym, policy.document.machines_max, tenant.machines
        )

    def _compare(self, tenant: _Tenant, given: _Given, leaf: bytes, commitment: str, again: _Again) -> None:
        decided = again.decided
        action = decided.action
        written = canonical.encode_checked(
            Receipt(
                () if action is None else (action.id,),
                decided.decision,
                given.epoch,
                decided.event_id,
                decided.evidence,
                _fsm_of(decided),
                commitment,
                given.log,
                again.observed_us,
                decided.outcome,
                again.policy_digest,
                tenant.head,
                decided.rule,
                again.source,
                given.tenant,
                given.ts_us,
                tenant.count,
                RECEIPT_VERSION,
                given.writer,
            )
        )
        if written != leaf:
            self._differs(given.tenant, *differences(leaf, written))

    def _differs(self, tenant: str, *found: Difference) -> None:
        self.found.differs(self._index, tenant, list(found))

    # What cannot be replayed

    def _lose(self, tenant: _Tenant, reason: str) -> None:
        if not tenant.unknown:
            tenant.unknown = True
            # Of the runtime's own chain, which all shares read, one of them speaks.
            if self._is_ours(tenant.pseudonym):
                self.found.unknown.append(Unknown(tenant.pseudonym, self._index, reason))

    def _pass_over(self, tenant: _Tenant, given: _Given, leaf: bytes, reason: str) -> None:
        self._lose(tenant, reason)
        self._recall(given, leaf)

    def _recall(self, given: _Given, leaf: bytes) -> None:
        """What is not replayed was decided all the same, and counts for what is remembered."""
        if given.source:
            try:
                recall(self._window, self._index, canonical.decode(leaf))
            except NotCanonicalError as error:
                self._differs(given.tenant, Difference("leaf", None, str(error)))

    # Each kind of receipt

    def _is_runtimes(self, given: _Given) -> bool:
        """The runtime has one chain."""
        if self._runtime in {"", given.tenant}:
            self._runtime = given.tenant
            return True
        if self._is_ours(given.tenant):
            self._differs(given.tenant, Difference("tenant", given.tenant, self._runtime))
        return False

    def _stop(self, tenant: _Tenant, given: _Given, leaf: bytes, payload: bytes | None, commitment: str) -> None:
        """An emergency stop for everybody, or its end."""
        if not self._is_runtimes(given):
            return
        if payload is None or self._policy is None:
            for one in (tenant, *self._tenants.values()):
                self._lose(one, "whether governors acted is not known" if payload is None else self._no_policy)
            return
        try:
            change = decode_stop(payload)
        except msgspec.DecodeError as error:
            self._differs(given.tenant, Difference("payload", None, f"no emergency stop: {error}"))
            return
        self._stopped = change.stopped
        if self._is_ours(given.tenant):
            self.found.replayed += 1
            again = _Again(stop_everybody(change, given.ts_us), "", given.ts_us, self._policy.digest)
            self._compare(tenant, given, leaf, commitment, again)

    def _load_policy(self, tenant: _Tenant, given: _Given, leaf: bytes, payload: bytes | None, commitment: str) -> None:
        if not self._is_runtimes(given):
            return
        if self._policy is not None or not self._first_index:
            before = "" if self._policy is None else self._policy.digest
        else:
            before = given.fsm.from_
        try:
            policy = self._policy = read_policy(payload or b"")
        except PolicyUnknownError as error:
            self._policy, self._no_policy = None, "the policy's payload is gone" if payload is None else str(error)
            for one in (tenant, *self._tenants.values()):
                self._lose(one, self._no_policy)
            return
        self._window.resize(policy.document.window_ids, given.ts_us)
        for one in self._tenants.values():
            if one.profile is not None:
                one.profile = policy.profiles.get(one.header.profile)
                if one.profile is None:
                    self._lose(one, f"its profile {one.header.profile!r} is not in the policy")
        if self._is_ours(given.tenant):
            self.found.replayed += 1
            again = _Again(load_policy(before, policy, given.ts_us), "", given.ts_us, policy.digest)
            self._compare(tenant, given, leaf, commitment, again)

    def _operate(self, tenant: _Tenant, given: _Given, leaf: bytes, payload: bytes | None, commitment: str) -> None:
        """What an operator asked for decides nothing; its receipt says what its payload says."""
        if self._operators not in {"", given.tenant}:
            self._differs(given.tenant, Difference("tenant", given.tenant, self._operators))
            return
        self._operators = given.tenant
        if payload is None or self._policy is None:
            self._lose(tenant, "its payload is gone" if payload is None else self._no_policy)
            return
        self.found.replayed += 1
        try:
            operation = decode_operation(payload)
        except OperationInvalidError as error:
            self._differs(given.tenant, Difference("payload", None, f"no operation: {error}"))
            return
        again = _Again(decide_operation(operation), "", given.ts_us, self._policy.digest)
        self._compare(tenant, given, leaf, commitment, again)

    def _decide_signal(self, tenant: _Tenant, given: _Given, leaf: bytes, payload: bytes, policy: Policy) -> _Again:
        try:
            # Only what has this word can be anything but native.
            if b'"specversion"' in payload:
                signal = decode_message(payload, {}, INTEGER_MAX, _ANY_SIZE)
            else:
                signal = decode_native(payload, INTEGER_MAX, _ANY_SIZE)
        except SignalRejectedError as error:
            raise _NotWrittenError(f"the payload is no signal: {error.field}: {error.message}") from error
        moment = self._moment(tenant, signal.tenant, given, policy)
        window = tenant.window
        key = signal.source + SEPARATOR + signal.id
        if (original := window.seen.get(key)) is not None:
            raise _NotWrittenError(f"it repeats the signal of receipt {original}")
        governor = BY_SIGNAL.get(type(signal.data))
        name = ENTITLEMENT_KEY if governor is None else governor.name + SEPARATOR + signal.subject
        machine = tenant.machines.get(name)

        def ask() -> Decided:
            return decide_signal(
                tenant.header,
                governor,
                None if machine is None else machine.state,
                len(tenant.machines),
                window.horizons.get(name, -1) if window.horizons else -1,
                signal,
                moment,
                tenant.count,
            )

        if tenant.header.quarantined or given.outcome == PUT_ASIDE:
            decided = self._put_aside(tenant, given, leaf, signal, moment, ask)
        else:
            decided = _answer(ask)
        if decided.outcome != "refused":
            self._window.remember(window, key, name, signal.observed_us, self._index, given.ts_us)
        self._apply(tenant, decided, name, machine)
        if signal.tenant != tenant.name:
            self._name(tenant, signal.tenant)
        return _Again(decided, signal.source, signal.observed_us, moment.terms.profile.digest)

    def _put_aside(
        self, tenant: _Tenant, given: _Given, leaf: bytes, signal: Signal, moment: Moment, ask: Callable[[], Decided]
    ) -> Decided:
        # A signal that was put aside in quarantine may have its receipt right after the release.
        in_quarantine = given.rule == QUARANTINED and given.ts_us <= tenant.released_us
        if tenant.header.quarantined or in_quarantine:
            return put_aside(tenant.header, signal, QUARANTINED, {})
        evidence = self._failure(leaf, ask, signal.observed_us, signal.source, moment)
        return put_aside(tenant.header, signal, "tenant.dead_lettered", evidence)

    def _change(self, tenant: _Tenant, given: _Given, payload: bytes, policy: Policy) -> _Again:
        """What the runtime or an operator changes of the tenant itself."""
        moment = self._moment(tenant, tenant.name, given, policy)
        try:
            change = _read_change(payload)
        except msgspec.DecodeError as error:
            raise _NotWrittenError(f"the payload changes nothing of a tenant: {error}") from error
        if isinstance(change, EmergencyStop):
            decided = emergency_stop(tenant.header, change, given.ts_us)
        else:
            decided = quarantine(tenant.header, change, given.ts_us)
            if not change.quarantined:
                tenant.released_us = given.ts_us
        self._apply(tenant, decided, "", None)
        return _Again(decided, "", given.ts_us, moment.terms.profile.digest)

    def _tell(self, tenant: _Tenant, given: _Given, leaf: bytes, payload: bytes, policy: Policy) -> _Again:
        moment = self._moment(tenant, tenant.name, given, policy)
        try:
            told = _read_told(payload)
        except msgspec.DecodeError as error:
            raise _NotWrittenError(f"the payload is nothing that the runtime tells: {error}") from error
        event = Event(told.id, told.observed_us, told.body)
        name = machine_key(given.fsm.machine, given.fsm.subject)
        machine = tenant.machines.get(name)
        if machine is None:
            raise _NotWrittenError(f"the tenant has no machine {given.fsm.machine}/{given.fsm.subject}")
        governor, subject, state = machine.governor, machine.subject, machine.state
        if not listens(tenant.header, machine.deadline_us, event, given.ts_us):
            raise _NotWrittenError("the machine was not to be told this now")

        def ask() -> Decided:
            return decide_event(governor, subject, state, event, moment, tenant.count)

        if given.outcome == PUT_ASIDE:
            evidence = self._failure(leaf, ask, event.observed_us, "", moment)
            decided = give_up(governor, subject, state.status, event, evidence)
        else:
            decided = _answer(ask)
        self._apply(tenant, decided, name, machine)
        return _Again(decided, "", event.observed_us, moment.terms.profile.digest)

    def _failure(
        self, leaf: bytes, ask: Callable[[], Decided], observed_us: int, source: str, moment: Moment
    ) -> dict[str, int | str]:
        """The evidence of a failure: what was said is taken from the receipt, for nobody decided it; how often it was
        tried is the policy's. The machine is asked again too, but a defect may be mended by now.
        """
        self.found.failed += 1
        try:
            decided = ask()
            fsm = _fsm_of(decided)
            canonical.check_draft(decided.evidence, moment.now_us, observed_us, decided.event_id, source, fsm)
        except Exception:  # noqa: BLE001 - whatever a machine raises is what was looked for
            self.found.failed_again += 1
        assert self._policy is not None  # noqa: S101 - nothing is decided without
        evidence: dict[str, int | str] = {"attempts": self._policy.document.dead_letter_after}
        said = orjson.loads(leaf)["evidence"].get("error")
        if isinstance(said, str):
            evidence["error"] = said
        return evidence

    def _apply(self, tenant: _Tenant, decided: Decided, name: str, machine: _Machine | None) -> None:
        if decided.state is not None:
            if machine is None:
                governor = BY_NAME[decided.governor]
                tenant.machines[name] = _Machine(governor, decided.subject, decided.state, decided.deadline_us)
            else:
                machine.state = decided.state
                machine.deadline_us = decided.deadline_us
        if decided.header is not None:
            assert self._policy is not None  # noqa: S101 - nothing is decided without
            tenant.header = decided.header
            tenant.profile = self._policy.profiles[decided.header.profile]

    def _name(self, tenant: _Tenant, name: str) -> None:
        """A chain is of one name, but for that of all those who are not known."""
        if tenant.header.entitlement == "unknown":
            return
        if tenant.name:
            said = f"the chain of {tenant.name!r}, and the payload is of {name!r}"
            self._differs(tenant.pseudonym, Difference("tenant", tenant.pseudonym, said))
        else:
            tenant.name = name
            self.found.named.append(Named(name, tenant.pseudonym, self._index))


def _answer(ask: Callable[[], Decided]) -> Decided:
    try:
        return ask()
    except Exception as error:  # a machine may raise anything, and then decides nothing
        raise _NotWrittenError(f"the machine fails: {type(error).__name__}: {error}") from error


def _fsm_of(decided: Decided) -> Fsm:
    return Fsm(
        decided.event, decided.from_status, decided.governor, decided.subject, decided.to_status, decided.version
    )
