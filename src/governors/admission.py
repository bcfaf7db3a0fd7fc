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
"""

from collections.abc import Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct

from governors.machines.governor import ADMIT_ALL, FULL_PPM, SECOND_US, AdmitRule
from governors.numerics.fair_share import levels_ppm, waterfall_ppm

Class = Literal["critical", "high", "normal", "low"]
CLASSES: Final[tuple[Class, ...]] = ("critical", "high", "normal", "low")
CRITICAL: Final = 0
_RANKS: Final[Mapping[str, int]] = MappingProxyType({name: rank for rank, name in enumerate(CLASSES)})
KEY_SEPARATOR: Final = "\x1f"  # between a machine's governor and its subject

Problem = Literal["quota-exceeded", "temporary-reduced-capacity", "tenant-not-active", "unknown-tenant"]
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


class Admitted(Struct, frozen=True, gc=False):
    """The request may pass: by its tenant's rules, for want of any, or as one of a tenant that nobody knows."""

    basis: Literal["rules", "unrestricted", "unknown_tenant"]


class Refused(Struct, frozen=True, gc=False):
    """The request may not pass now.

    `type` is the problem's type, `policy` the machine whose rule refused (`governor/subject`, or `tenant`), `reason`
    which part of it, with the rule's numbers; `detail` the tenant's status when it is not active. `retry_after_s` is
    spread, so that the refused do not return together.
    """

    type: Problem
    retry_after_s: int
    policy: str
    reason: Literal["critical_only", "fraction", "rate", "not_active", "unknown_tenant"]
    fraction_ppm: int | None = None
    rate_milli_per_s: int | None = None
    detail: str = ""


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

    def update(self, tenant: str, key: str, rule: AdmitRule | None) -> None:
        """Take over a machine's rule; None or a rule that admits all takes it away. Makes the tenant known."""
        if rule is None or rule == ADMIT_ALL:
            known = self._tenants.setdefault(tenant, None)
            if known is not None:
                known.gates.pop(key, None)
            return
        gates = self._restricted(tenant).gates
        gate = gates.get(key)
        if gate is None:
            gates[key] = _Gate(key, rule, self._restricted(tenant).mix)
        else:
            gate.become(rule, self._restricted(tenant).mix)

    def set_refused(self, tenant: str, why: str | None) -> None:
        """Refuse everything of a tenant that is not active (`why` is its status), or no longer. Makes it known."""
        if why is not None:
            self._restricted(tenant).not_active = why
        elif (known := self._tenants.setdefault(tenant, None)) is not None:
            known.not_active = None

    def forget(self, tenant: str) -> None:
        """Make the tenant unknown."""
        self._tenants.pop(tenant, None)

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

    `demand_milli` and `rate_milli` are averages of what was asked for and what may pass, thousandths a second.
    """

    __slots__ = (
        "burst",
        "credit",
        "demand_milli",
        "filled_us",
        "levels",
        "lots",
        "policy",
        "problem",
        "rate_milli",
        "rule",
        "shares",
        "tokens",
    )

    def __init__(self, key: str, rule: AdmitRule, mix: list[int]) -> None:
        self.policy = key.replace(KEY_SEPARATOR, "/")
        self.problem = _PROBLEMS.get(key.partition(KEY_SEPARATOR)[0], "temporary-reduced-capacity")
        self.rule = rule
        self.shares = waterfall_ppm(rule.fraction_ppm, mix)
        # Half a request of credit to begin with: what passes is then the share rounded to the nearest.
        self.credit = [FULL_PPM // 2] * len(CLASSES)
        self.lots = [0] * len(CLASSES)
        self.demand_milli = self.rate_milli = 0
        self.burst = _burst(rule)
        self.levels = _levels(rule, self.burst)
        self.tokens = self._first_tokens()
        self.filled_us = 0

    def become(self, rule: AdmitRule, mix: list[int]) -> None:
        """Take on a new rule. Credit and tokens stay, or every change of a limit would let a burst through."""
        had_rate = self.rule.rate_milli_per_s is not None
        if rule.fraction_ppm != self.rule.fraction_ppm:
            self.shares = waterfall_ppm(rule.fraction_ppm, mix)
        self.rule = rule
        burst, self.burst = self.burst, _burst(rule)
        self.levels = _levels(rule, self.burst)
        # The bucket is as full as it was, so that whoever passed passes: more tokens never come of a smaller bucket.
        self.tokens = min(self.tokens, self.tokens * self.burst // burst) if had_rate else self._first_tokens()

    def follow(self, mix: list[int], demand_milli: int) -> None:
        """Let the classes' shares follow their mix, where it moved enough; with a rate, also what it comes to."""
        fraction_ppm, step_ppm = self.rule.fraction_ppm, SHARE_STEP_PPM
        rate_milli = self.rule.rate_milli_per_s
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
        rule = self.rule
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
        wait_s = max(missing, 0) // max(rule.rate_milli_per_s * SECOND_US, 1) + 1
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


def _burst(rule: AdmitRule) -> int:
    burst = (rule.rate_milli_per_s or 0) * BURST_US if rule.burst is None else rule.burst * TOKEN
    return max(burst, BURST_TOKENS_MIN * TOKEN)


def _levels(rule: AdmitRule, burst: int) -> list[int]:
    """The tokens that each class must leave: those that pass by their lot, then those that do not."""
    return [burst * level // FULL_PPM for level in levels_ppm(rule.critical_reserve_ppm, 2 * len(CLASSES))]


def _spread(base_s: int, jitter: int) -> int:
    """Between once and twice the base, in whole seconds."""
    return base_s + ((jitter & 0xFFFF_FFFF) * (base_s + 1) >> 32)
