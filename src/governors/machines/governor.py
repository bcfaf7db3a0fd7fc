"""What the runtime needs to know of a governor: one record of pure functions for each of the three.

A core machine decides a *natural* status from what it sees. The status *in force* is that, seen through the overlays
(`overlays.py`); effects and admission follow the status in force.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from msgspec import Struct

from governors.fsm.table import Table, Verdict

FULL_PPM: Final = 1_000_000
SECOND_US: Final = 1_000_000


class Effect(Struct, frozen=True, gc=False):
    """What shall be true outside while a status is in force, as plain data: `throttle` to 400,000 ppm, say.

    Two equal effects are the same effect: it is carried out once, and undone or replaced when it changes.
    """

    kind: str
    params: dict[str, int | str] = {}


class AdmitRule(Struct, frozen=True, gc=False):
    """What admission answers for a tenant while a status is in force.

    `fraction_ppm` of requests pass or, where that is set, `rate_milli_per_s` of them, `burst` at once (None: what the
    rate brings in two seconds); `critical_only` lets only the class `critical` through; `critical_reserve_ppm` of the
    capacity is kept for it.
    """

    fraction_ppm: int = FULL_PPM
    rate_milli_per_s: int | None = None
    critical_only: bool = False
    critical_reserve_ppm: int = 0
    burst: int | None = None


ADMIT_ALL: Final = AdmitRule()


class Patience(NamedTuple):
    """How a core waits for the result of the action that it wants, where that may be withheld for long.

    `waits(state)`: whether it does now. `begun(state, policy, now_us)`: the state where the action is asked for after
    all. `vain(state, policy, now_us)`: what it decides where its time is over and the action was not asked for; its
    evidence gets `action` and `why`. `refused(state, policy, now_us)`: the same where a person refused it (`by`).
    """

    waits: Callable[[Any], bool]
    begun: Callable[[Any, Any, int], Any]
    vain: Callable[[Any, Any, int], Verdict[Any]]
    refused: Callable[[Any, Any, int], Verdict[Any]]


@dataclass(frozen=True, slots=True)
class Governor:
    """One kind of machine. All callables are pure.

    - `initial()`: the state before the first signal.
    - `deadline(state, policy)`: when the machine wants a Timeout, in µs, or None.
    - `effect(state, status, policy)`: what shall be true outside while `status` is in force, or None for nothing.
    - `admit(state, status, policy)`: the admission rule while `status` is in force.
    - `expected_period_us(state, policy)`: how often a signal is due; None while none is.
    - `undo`: the action that takes an effect back, by effect kind; kinds that are absent need none (a notice).
    - `released`: what each status becomes while an operator's `release` holds.
    - `severity`: orders statuses from harmless (0) to severe; a tenant's state is its worst machine's.
    - `stale_tolerance_us`: by signal type, how much older than the newest applied one a signal may be; types that are
      absent add up in any order.
    - `rules`: for each rule name the sentence that explains it, a format string over the evidence
      (`explain.py` has the formats).
    - `lasting`: kinds of its actions that are done once, and have no undo.
    - `patience`: how it waits for what is withheld; None where its core waits for no action.
    """

    name: str
    version: int
    status: type[StrEnum]
    state: type[Struct]
    policy: type[Struct]
    kinds: frozenset[type]
    table: Table
    initial: Callable[[], Any]
    deadline: Callable[[Any, Any], int | None]
    effect: Callable[[Any, Any, Any], Effect | None]
    admit: Callable[[Any, Any, Any], AdmitRule]
    expected_period_us: Callable[[Any, Any], int | None]
    undo: Mapping[str, str]
    released: Mapping[Any, Any]
    severity: Mapping[Any, int]
    stale_tolerance_us: Mapping[type, int]
    rules: Mapping[str, str]
    lasting: frozenset[str] = frozenset()
    patience: Patience | None = None
