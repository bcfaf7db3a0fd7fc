import json
from typing import Any

import pytest

from ingest.decode import native
from ingest.decode.limits import DecodeLimits
from ingest.decode.native import decode_native
from ingest.errors import SignalRejectedError
from ingest.signals import CostSnapshot, DeploySample, RollbackTarget

RECEIVED_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
ENVELOPE = {
    "id": "b-20261122-0007",
    "source": "billing",
    "tenant": "acme",
    "subject": "prod-budget",
    "observed_at": "2026-11-22T10:00:00Z",
}
DATA: dict[str, dict[str, Any]] = {
    "cost.snapshot": {
        "cost_amount": "910.25",
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": "2026-11-01T00:00:00Z",
    },
    "cost.delta": {"amount": "0.000125", "currency": "EUR", "usage_at": "2026-11-22T09:59:59.5+01:00"},
    "budget.set": {"budget_amount": "1000", "currency": "EUR", "interval": "month"},
    "deploy.started": {"deploy_id": "d-7", "revision": "web-8", "previous_revision": "web-7"},
    "deploy.sample": {
        "deploy_id": "d-7",
        "arm": "canary",
        "requests": 900,
        "errors": 3,
        "slow": 12,
        "window_s": 15,
    },
    "deploy.finished": {"deploy_id": "d-7", "result": "succeeded"},
    "alert": {"fingerprint": "f00", "status": "firing", "severity": "page", "name": "Error budget burns"},
    "queue.sample": {"depth": 15000, "oldest_age_s": 3.5, "in_rate_per_s": 120, "done_rate_per_s": 99.5},
    "work.done": {"count": 10, "errors": 1, "sojourn_min_ms": 2, "sojourn_p99_ms": 40.5, "window_s": 1},
    "tenant.entitlement": {"status": "active"},
}
OPTIONAL: dict[str, dict[str, Any]] = {
    "cost.snapshot": {"forecast_amount": "1200.50", "interval_end": "2026-12-01T00:00:00Z"},
    "cost.delta": {"request_id": "r-1"},
    "budget.set": {"interval_start": "2026-12-01T00:00:00Z"},
    "deploy.started": {"target": {"kind": "Deployment", "namespace": "shop", "name": "web"}},
    "alert": {"labels": {"service": "web", "zone": "b"}},
    "tenant.entitlement": {"profile": "premium"},
}


def wire(kind: str = "cost.snapshot", data: dict[str, Any] | None = None, **envelope: Any) -> bytes:
    fields = ENVELOPE | {"kind": kind, "data": DATA[kind] | (data or {})} | envelope
    return json.dumps(fields, ensure_ascii=False).encode()


def without(kind: str, name: str) -> bytes:
    return json.dumps(ENVELOPE | {"kind": kind, "data": {k: v for k, v in DATA[kind].items() if k != name}}).encode()


def rejected(payload: bytes, limits: DecodeLimits | None = None) -> SignalRejectedError:
    with pytest.raises(SignalRejectedError) as caught:
        decode_native(payload, RECEIVED_US, limits or DecodeLimits())
    return caught.value


def test_a_cost_snapshot_is_held_in_micros_beside_its_exact_bytes() -> None:
    payload = b" " + wire() + b"\n"
    signal = decode_native(payload, RECEIVED_US)
    assert (signal.id, signal.source, signal.tenant) == ("b-20261122-0007", "billing", "acme")
    assert (signal.kind, signal.subject) == ("cost.snapshot", "prod-budget")
    assert (signal.observed_us, signal.received_us) == (RECEIVED_US, RECEIVED_US)
    assert signal.payload == payload
    assert isinstance(signal.data, CostSnapshot)
    assert signal.data.cost_amount == 910_250_000
    assert signal.data.budget_amount == 1_000_000_000
    assert signal.data.interval_start == 1_793_491_200_000_000
    assert signal.data.forecast_amount is None


def test_a_signal_without_subject_concerns_the_default_one() -> None:
    fields = {name: value for name, value in ENVELOPE.items() if name != "subject"}
    for subject in ({}, {"subject": None}, {"subject": "default"}):
        payload = json.dumps(fields | subject | {"kind": "deploy.sample", "data": DATA["deploy.sample"]}).encode()
        assert decode_native(payload, RECEIVED_US).subject == "default"


def test_integers_are_taken_where_numbers_are_expected() -> None:
    data = decode_native(wire("deploy.sample"), RECEIVED_US).data
    assert isinstance(data, DeploySample)
    assert data.window_s == 15.0


def test_a_deploy_names_what_to_roll_back() -> None:
    data = decode_native(wire("deploy.started", OPTIONAL["deploy.started"]), RECEIVED_US).data
    assert getattr(data, "target", None) == RollbackTarget("Deployment", "shop", "web")


def test_extra_is_the_senders_own() -> None:
    extra = {"trace": "00-ab", "tags": ["a", {"b": None}], "n": 1.5, "big": 2**64, "ü": "\n"}
    assert decode_native(wire(extra=extra), RECEIVED_US).extra == extra
    assert decode_native(wire(extra=None), RECEIVED_US).extra is None
    assert decode_native(wire(extra={}), RECEIVED_US).extra == {}


def test_a_long_integer_in_extra_is_taken_with_escapes_beside_it_or_without() -> None:
    for text in ("plain", "esc\n"):
        extra = {"n": 10**400, "t": text}
        assert decode_native(wire(extra=extra), RECEIVED_US).extra == extra


@pytest.mark.parametrize("extra", [None, {"trace": "00-ab", "tags": ["a", {"b": None}], "n": {}}])
@pytest.mark.parametrize("options", [{}, OPTIONAL])
@pytest.mark.parametrize("kind", DATA)
def test_no_second_look_is_needed_at_a_plain_signal(
    kind: str, options: dict[str, Any], extra: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(payload: bytes) -> None:
        pytest.fail(f"the slow reader was asked about {payload!r}")

    monkeypatch.setattr(native, "check_names", look)
    envelope = {} if extra is None else {"extra": extra}
    assert decode_native(wire(kind, options.get(kind), **envelope), RECEIVED_US).kind == kind


def test_no_second_look_is_needed_where_characters_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "check_names", lambda _payload: pytest.fail("the slow reader was asked"))
    payload = wire("alert", {"name": 'say "no" \u2192 caf\u00e9'}, source="a+b").replace(b"a+b", b"a\\/b")
    payload = payload.replace("→".encode(), b"\\u2192")
    signal = decode_native(payload, RECEIVED_US)
    assert getattr(signal.data, "name", None) == 'say "no" \u2192 caf\u00e9'
    assert signal.source == "a/b"


@pytest.mark.parametrize("kind", OPTIONAL)
def test_null_is_the_same_as_absent_for_optional_fields(kind: str) -> None:
    nulls = dict.fromkeys(OPTIONAL[kind])
    assert decode_native(wire(kind, nulls), RECEIVED_US).data == decode_native(wire(kind), RECEIVED_US).data


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, fields in DATA.items() for name in fields])
def test_each_required_field_is_missed_by_name(kind: str, name: str) -> None:
    error = rejected(without(kind, name))
    assert (error.reason, error.field) == ("missing_field", f"data.{name}")


@pytest.mark.parametrize("name", ["id", "source", "tenant", "kind", "observed_at", "data"])
def test_each_required_field_of_the_envelope_is_missed_by_name(name: str) -> None:
    fields = ENVELOPE | {"kind": "deploy.sample", "data": DATA["deploy.sample"]}
    error = rejected(json.dumps({k: v for k, v in fields.items() if k != name}).encode())
    assert (error.reason, error.field) == ("missing_field", name)


BAD_JSON = {
    "empty": b"",
    "blank": b"  ",
    "cut off": wire()[:-20],
    "trailing comma": wire()[:-1] + b",}",
    "two values": wire() + b"{}",
    "raw control character": wire(id="a_b").replace(b"a_b", b"a\x01b"),
    "byte order mark": b"\xef\xbb\xbf" + wire(),
    "leading zero": wire("deploy.sample").replace(b": 900", b": 0900"),
    "single quotes": b"{'id': 'a'}",
}


@pytest.mark.parametrize("payload", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_what_is_no_json_is_bad_json(payload: bytes) -> None:
    error = rejected(payload)
    assert (error.reason, error.field) == ("bad_json", "")


BAD_SIGNALS: dict[str, tuple[bytes, str, str]] = {
    "not an object": (b"[]", "bad_field", ""),
    "a string": (b'"signal"', "bad_field", ""),
    "latin-1 in the envelope": (wire(id="caf_").replace(b"caf_", b"caf\xe9"), "bad_utf8", ""),
    "latin-1 in data": (wire("alert", {"name": "caf_"}).replace(b"caf_", b"caf\xe9"), "bad_utf8", ""),
    "latin-1 in extra": (wire(extra={"a": "caf_"}).replace(b"caf_", b"caf\xe9"), "bad_utf8", ""),
    "surrogates as utf-8": (wire(id="x_x").replace(b"_", b"\xed\xa0\x80"), "bad_utf8", ""),
    "NaN": (wire("queue.sample", {"depth": float("nan")}), "not_finite", "data.depth"),
    "Infinity": (wire("queue.sample", {"oldest_age_s": float("inf")}), "not_finite", "data.oldest_age_s"),
    "minus Infinity": (wire("queue.sample", {"in_rate_per_s": float("-inf")}), "not_finite", "data.in_rate_per_s"),
    "1e999": (
        wire("queue.sample", {"oldest_age_s": 7}).replace(b": 7,", b": 1e999,"),
        "not_finite",
        "data.oldest_age_s",
    ),
    "NaN as an amount": (wire(data={"cost_amount": float("nan")}), "not_finite", "data.cost_amount"),
    "NaN as a string amount": (wire(data={"cost_amount": "NaN"}), "bad_field", "data.cost_amount"),
    "NaN in extra": (wire(extra={"a": {"b": float("nan")}}), "not_finite", "extra.a.b"),
    "1e999 in extra": (wire(extra={"a": 7}).replace(b"7}", b"1e999}"), "not_finite", "extra"),
    "unknown kind": (wire(kind="deploy.sample").replace(b"deploy.sample", b"deploy.simple"), "unknown_kind", "kind"),
    "kind is no string": (wire(kind="alert").replace(b'"alert"', b"7"), "bad_field", "kind"),
    "an hour and a second ahead": (wire(observed_at="2026-11-22T11:00:01Z"), "future_time", "observed_at"),
    "a period ahead": (wire(data={"interval_start": "2026-12-01T00:00:00Z"}), "future_time", "data.interval_start"),
    "usage ahead": (wire("cost.delta", {"usage_at": "2026-11-22T11:00:01Z"}), "future_time", "data.usage_at"),
    "time without an offset": (wire(observed_at="2026-11-22T10:00:00"), "bad_field", "observed_at"),
    "epoch seconds": (wire(observed_at=1795341600), "bad_field", "observed_at"),
    "a date": (wire(observed_at="2026-11-22"), "bad_field", "observed_at"),
    "30 February": (wire(observed_at="2026-02-30T00:00:00Z"), "bad_field", "observed_at"),
    "before 1970": (wire(observed_at="1969-12-31T23:59:59Z"), "bad_field", "observed_at"),
    "year 1": (wire(observed_at="0001-01-01T00:00:00+23:59"), "bad_field", "observed_at"),
    "year 9999": (wire(data={"interval_end": "9999-12-31T23:59:59Z"}), "bad_field", "data.interval_end"),
    "period without an offset": (
        wire(data={"interval_start": "2026-11-01T00:00:00"}),
        "bad_field",
        "data.interval_start",
    ),
    "period with an escaped escape": (
        wire(data={"interval_start": "2026-11-01T00:00:0\\u0030Z"}),
        "bad_field",
        "data.interval_start",
    ),
    "period in quotes": (wire(data={"interval_start": '"2026-11-01T00:00:00Z"'}), "bad_field", "data.interval_start"),
    "period with a blank": (wire(data={"interval_start": "2026-11-01T00:00:00Z "}), "bad_field", "data.interval_start"),
    "period as a number": (wire(data={"interval_start": 0}), "bad_field", "data.interval_start"),
    "empty id": (wire(id=""), "bad_field", "id"),
    "long id": (wire(id="i" * 257), "bad_field", "id"),
    "id is a number": (wire(id=7), "bad_field", "id"),
    "id is null": (wire(id=None), "bad_field", "id"),
    "NUL in the id": (wire(id="a\x00b"), "bad_field", "id"),
    "newline in the id": (wire(id="a\nb"), "bad_field", "id"),
    "DEL in the id": (wire(id="a\x7fb"), "bad_field", "id"),
    "C1 control in the source": (wire(source="a\x85b"), "bad_field", "source"),
    "right-to-left override in the source": (wire(source="a\u202eb"), "bad_field", "source"),
    "line separator in an alert's name": (wire("alert", {"name": "a\u2028b"}), "bad_field", "data.name"),
    "NUL in a request id": (wire("cost.delta", {"request_id": "a\x00"}), "bad_field", "data.request_id"),
    "newline in a label": (wire("alert", {"labels": {"a": "b\n"}}), "bad_field", "data.labels.a"),
    "surrogate in the id": (wire(id="+").replace(b"+", b"\\ud800"), "lone_surrogate", "id"),
    "low surrogate in data": (
        wire("alert", {"name": "+"}).replace(b"+", b"\\udc00 at last"),
        "lone_surrogate",
        "data.name",
    ),
    "surrogate in extra": (wire(extra={"a": ["+"]}).replace(b"+", b"\\udfff\\ud800"), "lone_surrogate", "extra.a"),
    "surrogate in a name in extra": (
        wire(extra={"a": {"+": 1}}).replace(b"+", b"\\udfff"),
        "lone_surrogate",
        "extra.a",
    ),
    "empty tenant": (wire(tenant=""), "bad_field", "tenant"),
    "tenant with a slash": (wire(tenant="a/b"), "bad_field", "tenant"),
    "tenant with a newline at its end": (wire(tenant="acme\n"), "bad_field", "tenant"),
    "tenant beyond ASCII": (wire(tenant="ácme"), "bad_field", "tenant"),
    "tenant too long": (wire(tenant="t" * 129), "bad_field", "tenant"),
    "subject with a space": (wire(subject="a b"), "bad_field", "subject"),
    "empty subject": (wire(subject=""), "bad_field", "subject"),
    "deploy id beginning with a dot": (wire("deploy.sample", {"deploy_id": ".x"}), "bad_field", "data.deploy_id"),
    "deploy id with a newline": (wire("deploy.finished", {"deploy_id": "x\n"}), "bad_field", "data.deploy_id"),
    "unknown field": (wire(cost=1), "unknown_field", "cost"),
    "unknown field in data": (wire(data={"cost": 1}), "unknown_field", "data.cost"),
    "unknown field in the target": (
        wire("deploy.started", {"target": {"kind": "a", "namespace": "b", "name": "c", "uid": "d"}}),
        "unknown_field",
        "data.target.uid",
    ),
    "target without a name": (
        wire("deploy.started", {"target": {"kind": "a", "namespace": "b"}}),
        "missing_field",
        "data.target.name",
    ),
    "data is an array": (
        wire(data=None).replace(b'"data": {', b'"data": [{').replace(b"}}", b"}]}"),
        "bad_field",
        "data",
    ),
    "amount as a number": (wire(data={"cost_amount": 910.25}), "bad_field", "data.cost_amount"),
    "amount with a comma": (wire(data={"cost_amount": "910,25"}), "bad_field", "data.cost_amount"),
    "amount with an exponent": (wire(data={"cost_amount": "9e2"}), "bad_field", "data.cost_amount"),
    "amount with a plus": (wire(data={"cost_amount": "+9.00"}), "bad_field", "data.cost_amount"),
    "amount in other digits": (wire(data={"cost_amount": "\u0669.\u0669"}), "bad_field", "data.cost_amount"),
    "amount with superscripts": (wire(data={"cost_amount": "9.²"}), "bad_field", "data.cost_amount"),
    "amount with an underscore": (wire(data={"cost_amount": "1_0.00"}), "bad_field", "data.cost_amount"),
    "amount with a space": (wire(data={"cost_amount": " 1.00"}), "bad_field", "data.cost_amount"),
    "amount without digits after the point": (wire(data={"cost_amount": "1."}), "bad_field", "data.cost_amount"),
    "amount too large": (wire(data={"cost_amount": "9007199254.740992"}), "bad_field", "data.cost_amount"),
    "amount is empty": (wire(data={"cost_amount": ""}), "bad_field", "data.cost_amount"),
    "currency in small letters": (wire(data={"currency": "usd"}), "bad_field", "data.currency"),
    "currency of two letters": (wire(data={"currency": "US"}), "bad_field", "data.currency"),
    "currency sign": (wire("budget.set", {"currency": "€"}), "bad_field", "data.currency"),
    "interval": (wire("budget.set", {"interval": "year"}), "bad_field", "data.interval"),
    "2**53": (wire("queue.sample", {"depth": 2**53}), "bad_field", "data.depth"),
    "five thousand digits": (
        wire("queue.sample", {"depth": 7}).replace(b": 7", b": " + b"9" * 5000),
        "bad_field",
        "data.depth",
    ),
    "five thousand digits in extra": (
        wire(extra={"a": 7}).replace(b": 7}", b": " + b"9" * 5000 + b"}"),
        "bad_field",
        "extra",
    ),
    "negative depth": (wire("queue.sample", {"depth": -1}), "bad_field", "data.depth"),
    "fractional depth": (wire("queue.sample", {"depth": 1.5}), "bad_field", "data.depth"),
    "depth as a string": (wire("queue.sample", {"depth": "1"}), "bad_field", "data.depth"),
    "depth is true": (wire("queue.sample", {"depth": True}), "bad_field", "data.depth"),
    "negative age": (wire("queue.sample", {"oldest_age_s": -0.5}), "bad_field", "data.oldest_age_s"),
    "window of no length": (wire("deploy.sample", {"window_s": 0}), "bad_field", "data.window_s"),
    "window over a day": (wire("work.done", {"window_s": 86_401}), "bad_field", "data.window_s"),
    "more errors than requests": (wire("deploy.sample", {"errors": 901}), "bad_field", "data.errors"),
    "more slow than requests": (wire("deploy.sample", {"slow": 901}), "bad_field", "data.slow"),
    "more errors than work": (wire("work.done", {"errors": 11}), "bad_field", "data.errors"),
    "an arm of another name": (wire("deploy.sample", {"arm": "control"}), "bad_field", "data.arm"),
    "too many labels": (wire("alert", {"labels": {f"l{n}": "" for n in range(65)}}), "bad_field", "data.labels"),
    "a label's long value": (wire("alert", {"labels": {"a": "b" * 1025}}), "bad_field", "data.labels"),
    "a label's empty name": (wire("alert", {"labels": {"": "b"}}), "bad_field", "data.labels"),
    "a label that is a number": (wire("alert", {"labels": {"a": 1}}), "bad_field", "data.labels"),
    "extra is an array": (wire(extra=[]), "bad_field", "extra"),
    "large extra": (wire(extra={"a": "b" * 8192}), "too_large", "extra"),
    "large signal": (wire(extra={"a": "b" * 65_536}), "too_large", ""),
}


@pytest.mark.parametrize(("payload", "reason", "field"), BAD_SIGNALS.values(), ids=BAD_SIGNALS.keys())
def test_a_bad_signal_is_rejected_with_its_reason_and_field(payload: bytes, reason: str, field: str) -> None:
    error = rejected(payload)
    assert (error.reason, error.field) == (reason, field)
    assert error.message


DUPLICATES: dict[str, tuple[bytes, str]] = {
    "beside an escaped quote": (wire(source='a"b')[:-1] + b', "tenant": "evil"}', "tenant"),
    "made up for by escaped quotes": (
        wire(source='a"b"')[:-1] + b', "extra": {"a": 1, "a": 2}}',
        "extra.a",
    ),
    "hidden behind escaped backslashes": (
        wire(source="a\\")[:-1] + b', "extra": {"a": "\\\\", "a": "\\\\"}}',
        "extra.a",
    ),
    "the same tenant twice": (wire()[:-1] + b', "tenant": "acme"}', "tenant"),
    "another tenant": (wire()[:-1] + b', "tenant": "evil"}', "tenant"),
    "another tenant before": (b'{"tenant": "evil", ' + wire()[1:], "tenant"),
    "another kind before": (b'{"kind": "alert", ' + wire()[1:], "kind"),
    "an unknown kind before": (b'{"kind": "alarm", ' + wire()[1:], "kind"),
    "data of another shape before": (b'{"data": [], ' + wire()[1:], "data"),
    "as often as strings are absent": (
        wire(subject=None).replace(b'"subject": null, ', b"")[:-1] + b', "tenant": "acme"}',
        "tenant",
    ),
    "an escaped name": (wire()[:-1] + b', "t\\u0065nant": "evil"}', "tenant"),
    "data twice": (wire()[:-1] + b', "data": ' + json.dumps(DATA["cost.snapshot"]).encode() + b"}", "data"),
    "an amount twice": (wire().replace(b'"data": {', b'"data": {"cost_amount": "1.00", '), "data.cost_amount"),
    "a count twice": (wire("queue.sample").replace(b'"data": {', b'"data": {"depth": 1, '), "data.depth"),
    "a name in the target": (
        wire("deploy.started", OPTIONAL["deploy.started"]).replace(b'"kind": "D', b'"kind": "X", "kind": "D'),
        "data.target.kind",
    ),
    "a label twice": (
        wire("alert", {"labels": {"a": "b"}}).replace(b'"a": "b"', b'"a": "c", "a": "b"'),
        "data.labels.a",
    ),
    "in extra": (wire(extra={"a": {"b": 1}}).replace(b'{"b": 1', b'{"b": 0, "b": 1'), "extra.a.b"),
    "null then a value": (
        wire("cost.delta", {"request_id": "r"}).replace(b'"request', b'"request_id": null, "request', 1),
        "data.request_id",
    ),
    "a value then null": (wire()[:-1] + b', "subject": null}', "subject"),
}


@pytest.mark.parametrize(("payload", "field"), DUPLICATES.values(), ids=DUPLICATES.keys())
def test_a_name_given_twice_is_refused_wherever_it_stands(payload: bytes, field: str) -> None:
    error = rejected(payload)
    assert (error.reason, error.field) == ("duplicate_field", field)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_bombs_are_too_deep(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    for depth in (20, 900, 10_000):
        bomb = opening * depth + b"1" + closing * depth
        payload = wire(extra={"a": "_"}).replace(b'"_"', bomb)
        error = rejected(payload, DecodeLimits(signal_bytes_max=2**20, extra_bytes_max=2**20))
        assert error.reason == "too_deep"


@pytest.mark.parametrize("field", ["data", "extra"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a b\\"]":'])
def test_a_depth_bomb_is_named_by_its_field(opening: bytes, field: str) -> None:
    payload = wire(id='[{"\\').removesuffix(b"}") + b', "%s": %s' % (field.encode(), opening * 3_000)
    error = rejected(payload, DecodeLimits(signal_bytes_max=2**20))
    assert (error.reason, error.field) == ("too_deep", field)


def test_an_unclosed_depth_bomb_is_rejected() -> None:
    limits = DecodeLimits(signal_bytes_max=2**20)
    for place in (b'"910.25"', b'"_"'):
        payload = wire(extra={"a": "_"}).replace(place, b"[" * 100_000)
        assert rejected(payload, limits).reason == "too_deep"
    in_id = wire().replace(b'"b-20261122-0007"', b"[" * 100_000)
    assert (rejected(in_id, limits).reason, rejected(in_id, limits).field) == ("bad_field", "id")
    assert rejected(b"[" * 100_000, limits).reason == "bad_field"


def test_extra_may_be_as_deep_as_the_limit_says() -> None:
    def nested(depth: int) -> Any:
        return {} if depth == 1 else {"a": nested(depth - 1)}

    assert decode_native(wire(extra=nested(16)), RECEIVED_US).extra == nested(16)
    assert rejected(wire(extra=nested(17))).field == "extra"


def test_a_time_exactly_an_hour_ahead_is_taken() -> None:
    signal = decode_native(wire(observed_at="2026-11-22T11:00:00Z"), RECEIVED_US)
    assert signal.observed_us == RECEIVED_US + 3_600_000_000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2026-11-22T10:00:00.000001Z", 1),
        ("2026-11-22T09:59:59.999999Z", -1),
        ("2026-11-22T15:30:00.25+05:30", 250_000),
        ("2026-11-22T02:00:00-08:00", 0),
        ("2026-11-22T10:00:00.1234564Z", 123_456),
    ],
)
def test_times_are_exact_to_the_microsecond(text: str, micros: int) -> None:
    assert decode_native(wire(observed_at=text), RECEIVED_US).observed_us == RECEIVED_US + micros


def test_a_negative_budget_is_for_the_machine_to_judge() -> None:
    data = decode_native(wire(data={"budget_amount": "-1.5"}), RECEIVED_US).data
    assert isinstance(data, CostSnapshot)
    assert data.budget_amount == -1_500_000


def test_messages_say_what_was_expected() -> None:
    assert "decimal string" in rejected(wire(data={"cost_amount": 910.25})).message
    assert "canary, baseline" in rejected(wire("deploy.sample", {"arm": "x"})).message
    assert "day, week, month" in rejected(wire("budget.set", {"interval": "x"})).message
    assert "three capital letters" in rejected(wire(data={"currency": "usd"})).message
    assert "three capital letters" in rejected(wire("budget.set", {"currency": "usd"})).message
    assert "RFC 3339" in rejected(wire(observed_at="now")).message
    assert "RFC 3339" in rejected(wire(data={"interval_start": "now"})).message
    assert "queue.sample" in rejected(wire().replace(b"cost.snapshot", b"cost.snap")).message
    assert "letters" in rejected(wire("deploy.finished", {"deploy_id": "-"})).message
    assert "letters" in rejected(wire("deploy.sample", {"deploy_id": "-"})).message


def test_what_a_sender_wrote_reaches_messages_and_fields_harmless_and_short() -> None:
    error = rejected(wire(seven=7).replace(b"seven", b"bad\\n\\u202e" + b"x" * 1000))
    assert error.reason == "unknown_field"
    assert error.field.startswith("bad??xx")
    assert len(error.field) == 200
    error = rejected(wire().replace(b"cost.snapshot", b"\\n" * 2000))
    assert error.reason == "unknown_kind"
    assert "\n" not in error.message
    assert len(error.message) <= 300
