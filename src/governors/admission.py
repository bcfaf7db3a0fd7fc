"""Admission: may this request of this tenant pass now? Answered from memory alone, in microseconds.

The runtime hands over each machine's rule whenever it changes; a request must pass all of its tenant's rules. What a
rule limits, the classes share in order: `critical` before `high` before `normal` before `low`, the lower giving way
first.

- A fraction is of all requests: each class passes what the classes above it left over, by the mix of classes seen
  lately. With a user named, a hash of tenant, hour and user decides, so that retries within the hour get the same
  answer while the fraction stays; the same hash counts for every class and rule, so that no request is refused where
  one of a lower class would have passed. Without a user, a class's requests pass at even distances, so that exactly
  its share does.
- A rate is a token bucket; a request takes its cost. The fraction of the demand that the rate comes to is shared out as
  above, so that mostly the same users pass within the hour. Who passes by that must leave standing the tokens that
  belong to the classes above it: the reserve is there when `critical` needs it. Who does not, passes all the same from
  a bucket that is fuller: what nobody before it asks for is not lost.

A rate is the whole service's: where several workers answer, each has its part of it (`share_among`). Fractions need no
sharing. What changed since a version can be read (`changes`), so that other workers can answer from a view of this.
"""

from collections.abc import KeysView, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from governors.admission_journal import Journal
from governors.machines.governor import ADMIT_ALL, FULL_PPM, SECOND_US, AdmitRule
from governors.numerics.fair_share import levels_ppm, waterfall_ppm

Class = Literal["critical", "high", "normal", "low"]
CLASSES: Final[tuple[Class, ...]] = ("critical", "high", "normal", "low")
CRITICAL: Final = 0
_RANKS: Final[Mapping[str, int]] = MappingProxyType({name: rank for rank, name in enumerate(CLASSES)})
KEY_SEPARATOR: Final = "\x1f"  # between a machine's governor and its subject

Problem = Literal["quota-exceeded", "temporary-reduced-capacity", "tenant-not-active", "unknown-tenant", "view-stale"]
# Spend is a quota; what the other governors hold back comes back when the service is well again.
_PROBLEMS: Final[Mapping[str, Problem]] = MappingProxyType({"cost_guard": "quota-exceeded"})

HOUR_US: Final = 3_600 * SECOND_US
HASH_BITS: Final = 64
_LOT_MASK: Final = 2**HASH_BITS - 1
# Multiples of the golden ratio spread evenly: jitter for callers that have no hash of their own.
_GOLDEN: Final = 0x9E37_79B9
_GOLDEN_LOT: Final = 0x9E37_79B9_7F4A_7C15

# Tokens are held in billionths: thousandths a second times microseconds.
TOKEN: Final = 1_000_000_000
# A bucket holds what its rate brings in this time, and this many tokens at least: a slow rate must fit one request.
BURST_US: Final = 2 * SECOND_US
BURST_TOKENS_MIN: Final = 5

MIX_EVERY: Final = 64  # requests between two looks at the mix of classes
MIX_MEMORY: Final = 1_024  # requests after which the older ones count half
# Shares follow the mix in steps this large: answers at a share's edge must not flicker within the hour.
SHARE_STEP_PPM: Final = 50_000
# What a rate comes to as a share of the demand varies more: looks at the mix over which it is averaged, and its steps.
DEMAND_MEMORY: Final = 16
RATE_SHARE_STEP_PPM: Final = 100_000
# Shares come to a little less than the rate: nobody who passes by lot lacks a token, and the rest go by when they ask.
LOTS_PPM: Final = 950_000

RETRY_FRACTION_S: Final = 10
RETRY_CLOSED_S: Final = 30
RETRY_RATE_S_MAX: Final = 60
RETRY_NOT_ACTIVE_S: Final = 300
RETRY_STALE_S: Final = 2


class Admitted(Struct, frozen=True, gc=False):
    """The request may pass: by its tenant's rules, for want of any, as one of a tenant that nobody knows, or because
    nobody has told for too long what holds and the policy is to fail open.
    """

    basis: Literal["rules", "unrestricted", "unknown_tenant", "view_stale"]


class Refused(Struct, frozen=True, gc=False):
    """The request may not pass now.

    `type` is the problem's type, `policy` the machine whose rule refused (`governor/subject`, or `tenant`), `reason`
    which part of it, with the rule's numbers; `detail` the tenant's status when it is not active. `retry_after_s` is
    spread, so that the refused do not return together.
    """

    type: Problem
    retry_after_s: int
    policy: str
    reason: Literal["critical_only", "fraction", "rate", "not_active", "unknown_tenant", "view_stale"]
    fraction_ppm: int | None = None
    rate_milli_per_s: int | None = None
    detail: str = ""


def refused_by(answer: Admitted | Refused) -> str:
    """The governor whose rule refused, `tenant` where none did, or "" if the request may pass."""
    return answer.policy.partition("/")[0] if isinstance(answer, Refused) else ""


class Viewed(Struct, frozen=True, gc=False):
    """An answer from a view of another worker's rules, which were so `age_ms` ago; None: they were never told."""

    answer: Admitted | Refused
    age_ms: int | None


class Standing(NamedTuple):
    """All that holds for a tenant: the status that has all its requests refused, and its machines' rules by key."""

    not_active: str | None
    rules: Mapping[str, AdmitRule]


class Changes(NamedTuple):
    """The tenants that changed after version `since` and up to `version`, each as it stands now, None where it was
    forgotten. `since` is 0 where all are told. With `more`, later ones are left out.
    """

    since: int
    version: int
    more: bool
    tenants: list[tuple[str, Standing | None]]


class GateView(Struct, frozen=True):
    """One machine's rule as it is applied; `shares_ppm` are the classes' shares of their own requests."""

    policy: str
    rule: AdmitRule
    shares_ppm: dict[str, int]


class TenantView(Struct, frozen=True):
    """How a tenant's requests are answered. `not_active` names the status that has all of them refused."""

    known: bool
    not_active: str | None
    gates: tuple[GateView, ...]


class Admission:
    """The rules of all tenants, and the answers.

    `unknown_open` says whether requests of an unknown tenant pass. `hash_key` (up to 64 bytes) makes users' luck
    unguessable; all workers need the same one to give the same answers.
    """

    def __init__(self, *, unknown_open: bool = False, hash_key: bytes = b"") -> None:
        self._unknown_open = unknown_open
        self._hash_key = hash_key
        self._unknown_refusals = 0
        # None: the tenant is known and was never restricted. Most are, and it costs them nothing.
        self._tenants: dict[str, _Tenant | None] = {}
        self._workers = 1
        # None until somebody wants to read it: a worker that is alone keeps none.
        self._journal: Journal | None = None

    def update(self, tenant: str, key: str, rule: AdmitRule | None) -> None:
        """Take over a machine's rule; None or a rule that admits all takes it away. Makes the tenant known."""
        if rule is None or rule == ADMIT_ALL:
            is_news = tenant not in self._tenants
            known = self._tenants.setdefault(tenant, None)
            if known is not None and known.gates.pop(key, None) is not None:
                is_news = True
        else:
            restricted = self._restricted(tenant)
            gate = restricted.gates.get(key)
            is_news = gate is None or gate.rule != rule
            if gate is None:
                restricted.gates[key] = _Gate(key, rule, restricted.mix, self._workers)
            else:
                gate.become(rule, restricted.mix, self._workers)
        if is_news and self._journal is not None:
            self._journal.note(tenant)

    def set_refused(self, tenant: str, why: str | None) -> None:
        """Refuse everything of a tenant that is not active (`why` is its status), or no longer. Makes it known."""
        is_news = tenant not in self._tenants
        known = self._tenants.setdefault(tenant, None) if why is None else self._restricted(tenant)
        if known is not None and known.not_active != why:
            known.not_active = why
            is_news = True
        if is_news and self._journal is not None:
            self._journal.note(tenant)

    def forget(self, tenant: str) -> None:
        """Make the tenant unknown."""
        if tenant in self._tenants:
            del self._tenants[tenant]
            if self._journal is not None:
                self._journal.note_forgotten(tenant)

    def share_among(self, workers: int) -> None:
        """From now on this is one of so many that answer for the same tenants, this one included: of each rate it lets
        its part pass.
        """
        if workers == self._workers:
            return
        self._workers = workers
        for known in self._tenants.values():
            if known is not None:
                for gate in known.gates.values():
                    gate.become(gate.rule, known.mix, workers)

    # For those who answer from a view of this

    def changes(self, since: int, weight_max: int) -> Changes:
        """What changed after version `since`; all that there is, where this cannot tell that: 0, a version that is not
        of this run, or one too long ago. A tenant weighs 1 and 1 for each rule; more than `weight_max` is left out, but
        never everything.
        """
        if self._journal is None:
            self._journal = Journal(self._tenants)
        version = since = self._journal.start(since)
        tenants: list[tuple[str, Standing | None]] = []
        weight = 0
        for tenant, then in self._journal.since(since):
            standing = self.standing(tenant)
            weight += 1 if standing is None else 1 + len(standing.rules)
            if weight > weight_max and tenants:
                return Changes(since, version, True, tenants)
            tenants.append((tenant, standing))
            version = then
        return Changes(since, self._journal.version, False, tenants)

    def standing(self, tenant: str) -> Standing | None:
        """What holds for a tenant; None where it is not known."""
        try:
            known = self._tenants[tenant]
        except KeyError:
            return None
        if known is None:
            return _NOTHING_HOLDS
        return Standing(known.not_active, {key: gate.rule for key, gate in known.gates.items()})

    def become(self, tenant: str, standing: Standing | None) -> None:
        """Have this hold for a tenant, and nothing else. What is remembered of its requests stays."""
        if standing is None:
            self.forget(tenant)
            return
        self.set_refused(tenant, standing.not_active)
        before = self._tenants[tenant]
        if before is not None:
            for key in before.gates.keys() - standing.rules.keys():
                self.update(tenant, key, None)
        for key, rule in standing.rules.items():
            self.update(tenant, key, rule)

    def known(self) -> KeysView[str]:
        """Every tenant that is known."""
        return self._tenants.keys()

    # Answers

    def admit(self, tenant: str, klass: str, user: str | None, cost: int, now_us: int) -> Admitted | Refused:
        """Answer for one request of `cost` tokens, and count it.

        Raises ValueError for a class that is none, or a cost under 1.
        """
        rank = _RANKS.get(klass)
        if rank is None:
            raise ValueError(f"class: expected one of {', '.join(CLASSES)}")
        if cost < 1:
            raise ValueError("cost: expected at least 1")
        try:
            known = self._tenants[tenant]
        except KeyError:
            return self._answer_unknown()
        if known is None:
            return _UNRESTRICTED
        if known.not_active is not None:
            return known.refuse_all()
        if not known.gates:
            return _UNRESTRICTED
        lot = None if user is None else self._lot(tenant, user, now_us)
        return known.admit(rank, lot, cost, now_us)

    def view(self, tenant: str) -> TenantView:
        """What would be answered, for people to read."""
        known = self._tenants.get(tenant)
        if known is None:
            return TenantView(known=tenant in self._tenants, not_active=None, gates=())
        gates = tuple(gate.view() for _, gate in sorted(known.gates.items()))
        return TenantView(known=True, not_active=known.not_active, gates=gates)

    def _restricted(self, tenant: str) -> "_Tenant":
        known = self._tenants.get(tenant)
        if known is None:
            known = self._tenants[tenant] = _Tenant()
        return known

    def _answer_unknown(self) -> Admitted | Refused:
        if self._unknown_open:
            return _UNKNOWN_ADMITTED
        self._unknown_refusals += 1
        retry_s = _spread(RETRY_NOT_ACTIVE_S, self._unknown_refusals * _GOLDEN)
        return Refused("unknown-tenant", retry_s, "tenant", "unknown_tenant")

    def _lot(self, tenant: str, user: str, now_us: int) -> int:
        """The user's lot this hour: a number under 2**64, the same for every class, rule and worker."""
        # No tenant's name and no hour has a NUL in it, so that no two triples read the same.
        text = f"{tenant}\0{now_us // HOUR_US}\0{user}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=HASH_BITS // 8, key=self._hash_key).digest(), "big")


_NOTHING_HOLDS: Final = Standing(None, MappingProxyType({}))
_UNRESTRICTED: Final = Admitted("unrestricted")
_BY_RULES: Final = Admitted("rules")
_UNKNOWN_ADMITTED: Final = Admitted("unknown_tenant")


class _Tenant:
    """A tenant that is restricted, or was: its rules, and the mix of classes seen while it was."""

    __slots__ = ("asked", "gates", "looked_us", "mix", "not_active", "refusals", "seen")

    def __init__(self) -> None:
        self.gates: dict[str, _Gate] = {}
        self.mix = [0] * len(CLASSES)
        self.seen = 0
        self.asked = 0
        self.looked_us = 0
        self.not_active: str | None = None
        self.refusals = 0

    def admit(self, rank: int, lot: int | None, cost: int, now_us: int) -> Admitted | Refused:
        self._count(rank, cost, now_us)
        # All rules are asked before any is drawn on: what one refuses must cost nothing at the others.
        refusing: _Gate | None = None
        for gate in self.gates.values():
            if not gate.lets_pass(rank, lot, cost, now_us) and refusing is None:
                refusing = gate
        if refusing is None:
            for gate in self.gates.values():
                gate.draw(rank, lot, cost)
            return _BY_RULES
        return refusing.refuse(rank, cost, self._next_jitter() if lot is None else lot)

    def refuse_all(self) -> Refused:
        retry_s = _spread(RETRY_NOT_ACTIVE_S, self._next_jitter())
        return Refused("tenant-not-active", retry_s, "tenant", "not_active", detail=self.not_active or "")

    def _next_jitter(self) -> int:
        self.refusals += 1
        return self.refusals * _GOLDEN

    def _count(self, rank: int, cost: int, now_us: int) -> None:
        self.mix[rank] += 1
        self.seen += 1
        self.asked += cost
        if self.seen % MIX_EVERY:
            return
        elapsed_us = now_us - self.looked_us if self.looked_us else 0
        demand_milli = self.asked * TOKEN // elapsed_us if elapsed_us > 0 else 0
        self.asked, self.looked_us = 0, now_us
        if sum(self.mix) >= MIX_MEMORY:
            self.mix = [count // 2 for count in self.mix]
        for gate in self.gates.values():
            gate.follow(self.mix, demand_milli)


class _Gate:
    """One machine's rule with what it must remember: shares, credit towards the next request, tokens.

    `rule` is what was decided for the whole service, `part` what this worker lets pass of it. `demand_milli` and
    `rate_milli` are averages of what was asked for here and what may pass here, thousandths a second.
    """

    __slots__ = (
        "burst",
        "credit",
        "demand_milli",
        "filled_us",
        "levels",
        "lots",
        "part",
        "policy",
        "problem",
        "rate_milli",
        "rule",
        "shares",
        "tokens",
    )

    def __init__(self, key: str, rule: AdmitRule, mix: list[int], workers: int) -> None:
        self.policy = key.replace(KEY_SEPARATOR, "/")
        self.problem = _PROBLEMS.get(key.partition(KEY_SEPARATOR)[0], "temporary-reduced-capacity")
        self.rule = rule
        self.part = _part(rule, workers)
        self.shares = waterfall_ppm(rule.fraction_ppm, mix)
        # Half a request of credit to begin with: what passes is then the share rounded to the nearest.
        self.credit = [FULL_PPM // 2] * len(CLASSES)
        self.lots = [0] * len(CLASSES)
        self.demand_milli = self.rate_milli = 0
        self.burst = _burst(self.part)
        self.levels = _levels(rule, self.burst)
        self.tokens = self._first_tokens()
        self.filled_us = 0

    def become(self, rule: AdmitRule, mix: list[int], workers: int) -> None:
        """Take on a new rule. Credit and tokens stay, or every change of a limit would let a burst through."""
        had_rate = self.rule.rate_milli_per_s is not None
        if rule.fraction_ppm != self.rule.fraction_ppm:
            self.shares = waterfall_ppm(rule.fraction_ppm, mix)
        self.rule = rule
        self.part = _part(rule, workers)
        burst, self.burst = self.burst, _burst(self.part)
        self.levels = _levels(rule, self.burst)
        # The bucket is as full as it was, so that whoever passed passes: more tokens never come of a smaller bucket.
        self.tokens = min(self.tokens, self.tokens * self.burst // burst) if had_rate else self._first_tokens()

    def follow(self, mix: list[int], demand_milli: int) -> None:
        """Let the classes' shares follow their mix, where it moved enough; with a rate, also what it comes to."""
        fraction_ppm, step_ppm = self.part.fraction_ppm, SHARE_STEP_PPM
        rate_milli = self.part.rate_milli_per_s
        if rate_milli is not None and demand_milli:
            if not self.demand_milli:
                self.demand_milli, self.rate_milli = demand_milli, rate_milli
            self.demand_milli += (demand_milli - self.demand_milli) // DEMAND_MEMORY
            self.rate_milli += (rate_milli - self.rate_milli) // DEMAND_MEMORY
            fraction_ppm = min(fraction_ppm, self.rate_milli * LOTS_PPM // max(self.demand_milli, 1))
            step_ppm = RATE_SHARE_STEP_PPM
        shares = waterfall_ppm(fraction_ppm, mix)
        if any(abs(new - old) >= step_ppm for new, old in zip(shares, self.shares, strict=True)):
            self.shares = shares

    def lets_pass(self, rank: int, lot: int | None, cost: int, now_us: int) -> bool:
        rule = self.part
        if rule.critical_only:
            return rank == CRITICAL
        rate_milli = rule.rate_milli_per_s
        if rate_milli is not None:
            if now_us > self.filled_us:
                if self.filled_us:
                    self.tokens = min(self.tokens + (now_us - self.filled_us) * rate_milli, self.burst)
                self.filled_us = now_us
            if lot is None:
                # Multiples of the golden ratio: shares of any size are met at even distances.
                lot = self.lots[rank] = (self.lots[rank] + _GOLDEN_LOT) & _LOT_MASK
            return self.tokens >= self._needed(rank, lot, cost)
        passes = True
        if rule.fraction_ppm < FULL_PPM:
            share_ppm = self.shares[rank]
            if lot is None:
                self.credit[rank] = min(self.credit[rank] + share_ppm, 2 * FULL_PPM)
                passes = self.credit[rank] >= FULL_PPM
            else:
                passes = lot * FULL_PPM >> HASH_BITS < share_ppm
        return passes

    def draw(self, rank: int, lot: int | None, cost: int) -> None:
        """Take what an admitted request costs."""
        if self.rule.critical_only:
            return
        if self.rule.rate_milli_per_s is not None:
            self.tokens -= cost * TOKEN
        elif lot is None and self.rule.fraction_ppm < FULL_PPM:
            self.credit[rank] -= FULL_PPM

    def refuse(self, rank: int, cost: int, jitter: int) -> Refused:
        rule = self.rule
        problem, policy = self.problem, self.policy
        if rule.critical_only:
            return Refused(problem, _spread(RETRY_CLOSED_S, jitter), policy, "critical_only")
        missing = self._needed(rank, 0, cost) - self.tokens
        if rule.rate_milli_per_s is None:
            retry_s = _spread(RETRY_FRACTION_S, jitter)
            return Refused(problem, retry_s, policy, "fraction", fraction_ppm=rule.fraction_ppm)
        wait_s = max(missing, 0) // max((self.part.rate_milli_per_s or 0) * SECOND_US, 1) + 1
        retry_s = _spread(min(wait_s, RETRY_RATE_S_MAX), jitter)
        return Refused(problem, retry_s, policy, "rate", rate_milli_per_s=rule.rate_milli_per_s)

    def view(self) -> GateView:
        shares: dict[str, int] = dict(zip(CLASSES, self.shares, strict=True))
        if self.rule.critical_only:
            shares = {name: FULL_PPM * (rank == CRITICAL) for rank, name in enumerate(CLASSES)}
        return GateView(self.policy, self.rule, shares)

    def _needed(self, rank: int, lot: int, cost: int) -> int:
        """Tokens that must be there; a cost beyond what fits above the level waits for a full bucket, and then owes."""
        level = self.levels[rank if lot * FULL_PPM >> HASH_BITS < self.shares[rank] else rank + len(CLASSES)]
        return level + min(cost * TOKEN, self.burst - level)

    def _first_tokens(self) -> int:
        """A valve restricts because too much came in already: its bucket begins with the reserve alone."""
        return self.burst if self.rule.burst is None else self.levels[1]


def refuse_stale(number: int) -> Refused:
    """Of one whose tenant nobody has told of for too long; `number` tells those who are refused apart."""
    return Refused("view-stale", _spread(RETRY_STALE_S, number * _GOLDEN), "tenant", "view_stale")


def _part(rule: AdmitRule, workers: int) -> AdmitRule:
    """What one of so many workers lets pass of a rule; a rate that is not nothing has some for each."""
    if workers == 1 or rule.rate_milli_per_s is None:
        return rule
    rate_milli = max(rule.rate_milli_per_s // workers, min(rule.rate_milli_per_s, 1))
    return replace(rule, rate_milli_per_s=rate_milli, burst=None if rule.burst is None else rule.burst // workers)


def _burst(rule: AdmitRule) -> int:
    burst = (rule.rate_milli_per_s or 0) * BURST_US if rule.burst is None else rule.burst * TOKEN
    return max(burst, BURST_TOKENS_MIN * TOKEN)


def _levels(rule: AdmitRule, burst: int) -> list[int]:
    """The tokens that each class must leave: those that pass by their lot, then those that do not."""
    return [burst * level // FULL_PPM for level in levels_ppm(rule.critical_reserve_ppm, 2 * len(CLASSES))]


def _spread(base_s: int, jitter: int) -> int:
    """Between once and twice the base, in whole seconds."""
    return base_s + ((jitter & 0xFFFF_FFFF) * (base_s + 1) >> 32)
