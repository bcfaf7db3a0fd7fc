"""Hypothesis strategies for signals of every kind, shared by whoever needs some."""

import string

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ingest.decode.native import encode_native
from ingest.signals import (
    DEFAULT_SUBJECT,
    INTEGER_MAX,
    KINDS,
    LABELS_MAX,
    Alert,
    BudgetSet,
    CostDelta,
    CostSnapshot,
    DeployFinished,
    DeploySample,
    DeployStarted,
    EpochMicros,
    Micros,
    QueueSample,
    RollbackTarget,
    Signal,
    SignalData,
    TenantEntitlement,
    WorkDone,
)

RECEIVED_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
HOUR_US = 3_600_000_000

_ALPHANUMERIC = string.ascii_letters + string.digits
_UNSAFE = "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_SAFE_CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters=_UNSAFE)


def names(alphabet: str = _ALPHANUMERIC + "._:/@+-", length_max: int = 128) -> SearchStrategy[str]:
    rest = st.text(alphabet, max_size=length_max - 1)
    return st.builds(str.__add__, st.sampled_from(_ALPHANUMERIC), rest)


def texts(length_max: int = 256) -> SearchStrategy[str]:
    return st.text(_SAFE_CHARACTERS, min_size=1, max_size=length_max)


tenants = names(_ALPHANUMERIC + "._:@+-")
currencies = st.text(string.ascii_uppercase, min_size=3, max_size=3)
amounts = st.integers(-INTEGER_MAX, INTEGER_MAX).map(Micros)
past_times = st.integers(0, RECEIVED_US + HOUR_US).map(EpochMicros)
any_times = st.integers(0, INTEGER_MAX).map(EpochMicros)
counts = st.integers(0, INTEGER_MAX)
non_negatives = st.floats(0.0, 1e15)
windows_s = st.floats(0.0, 86_400.0, exclude_min=True)
labels = st.dictionaries(texts(128), st.text(_SAFE_CHARACTERS, max_size=256), max_size=min(LABELS_MAX, 5))
extras = st.dictionaries(
    st.text(_SAFE_CHARACTERS, max_size=20),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8"), max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@st.composite
def _deploy_samples(draw: st.DrawFn) -> DeploySample:
    requests = draw(counts)
    part = st.integers(0, requests)
    arm = draw(st.sampled_from(["canary", "baseline"]))
    return DeploySample(draw(names()), arm, requests, draw(part), draw(part), draw(windows_s))  # type: ignore[arg-type]


@st.composite
def _work_done(draw: st.DrawFn) -> WorkDone:
    count = draw(counts)
    return WorkDone(count, draw(st.integers(0, count)), draw(non_negatives), draw(non_negatives), draw(windows_s))


DATA_BY_KIND: dict[str, SearchStrategy[SignalData]] = {
    "cost.snapshot": st.builds(
        CostSnapshot, amounts, amounts, currencies, past_times, st.none() | amounts, st.none() | any_times
    ),
    "cost.delta": st.builds(CostDelta, amounts, currencies, past_times, st.none() | texts()),
    "budget.set": st.builds(
        BudgetSet, amounts, currencies, st.sampled_from(["day", "week", "month"]), st.none() | any_times
    ),
    "deploy.started": st.builds(
        DeployStarted, names(), names(), names(), st.none() | st.builds(RollbackTarget, names(), names(), names())
    ),
    "deploy.sample": _deploy_samples(),
    "deploy.finished": st.builds(DeployFinished, names(), st.sampled_from(["succeeded", "failed", "cancelled"])),
    "alert": st.builds(Alert, names(), st.sampled_from(["firing", "resolved"]), names(), texts(), st.none() | labels),
    "queue.sample": st.builds(QueueSample, counts, non_negatives, non_negatives, non_negatives),
    "work.done": _work_done(),
    "tenant.entitlement": st.builds(
        TenantEntitlement, st.sampled_from(["active", "suspended", "cancelled"]), st.none() | names()
    ),
}


@st.composite
def signals(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(KINDS)) -> Signal:
    """Any valid signal of these kinds, received at RECEIVED_US, its payload in the native form."""
    kind = draw(st.sampled_from(kinds))
    data = draw(DATA_BY_KIND[kind])
    signal_id, source, tenant = draw(texts()), draw(texts()), draw(tenants)
    subject = draw(st.just(DEFAULT_SUBJECT) | names())
    observed_us = int(draw(past_times))
    extra = draw(st.none() | extras)
    payload = encode_native(
        data,
        signal_id=signal_id,
        source=source,
        tenant=tenant,
        observed_us=observed_us,
        subject=subject,
        extra=extra,
    )
    return Signal(signal_id, source, tenant, kind, subject, observed_us, RECEIVED_US, data, payload, extra)
