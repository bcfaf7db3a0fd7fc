"""`POST /v1/signals`: signals in, one outcome for each out. The hot route: no pydantic, one pass over the body."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from governors.api.guard import principal_of
from governors.api.problem import ProblemError
from governors.api.rates import RateLimits, Throttled
from governors.api.respond import json_response
from governors.api.service import Service, SignalError, SignalResult, UnreadableResult, Wait
from governors.auth.principal import Principal
from governors.telemetry.metrics import Metrics
from ingest.decode import cloudevents_binary
from ingest.decode.body import Rejected, read_body
from ingest.decode.limits import DecodeLimits
from ingest.errors import BodyRejectedError, Reason
from ingest.signals import Signal

SOURCE: Final = "http"
WAITS: Final[dict[str, Wait]] = {"local": "local", "committed": "committed"}

Result = SignalResult | UnreadableResult
Endpoint = Callable[[Request], Awaitable[Response]]


def signals_endpoint(
    service: Service, metrics: Metrics, limits: DecodeLimits, clock_us: Callable[[], int], rates: RateLimits
) -> Endpoint:
    """The route's handler. Every refusal raises a counter, of a body as of a signal."""

    async def post_signals(request: Request) -> Response:
        principal = principal_of(request)
        try:
            rates.before_body(principal)
            wait = _wait(request)
            body = await request.body()
            # Received means in hand: a slow sender's time is not ours.
            entries = _in_scope(_read(request, body, clock_us(), limits), principal)
            charged = rates.charge(principal, entries)
        except (ProblemError, BodyRejectedError) as refused:
            metrics.rejected(SOURCE, reason_of(refused))
            if isinstance(refused, BodyRejectedError):
                rates.unreadable(principal)
            raise
        signals = _count(metrics, charged.entries)
        decided = iter(await service.submit(signals, wait) if signals else ())
        results = [next(decided) if isinstance(entry, Signal) else _unreadable(entry) for entry in charged.entries]
        if len(results) == 1 and _is_single(request, body):
            return _single(results[0], charged.headers)
        return json_response({"results": results}, headers=charged.headers)

    return post_signals


def _read(request: Request, body: bytes, now_us: int, limits: DecodeLimits) -> list[Signal | Rejected]:
    content_type = request.headers.get("content-type", "")
    if cloudevents_binary.is_binary(content_type, request.headers):
        return [cloudevents_binary.read_event(request.headers.items(), content_type, body, now_us, limits)]
    return read_body(content_type, body, now_us, limits)


def _wait(request: Request) -> Wait:
    """How durable the answer shall be. A misspelt parameter must not quietly come to mean less durable."""
    for name in request.query_params:
        if name != "wait":
            raise ProblemError("invalid-field", "unknown parameter; expected wait", field=name)
    wait = WAITS.get(request.query_params.get("wait", "local"))
    if wait is None:
        raise ProblemError("invalid-field", "expected local or committed", field="wait")
    return wait


def reason_of(refused: ProblemError | BodyRejectedError) -> str:
    """The word that counters have for a refusal."""
    if isinstance(refused, BodyRejectedError):
        return refused.reason
    return str(refused.members.get("reason", Reason.BAD_FIELD))


def _in_scope(entries: list[Signal | Rejected], principal: Principal) -> list[Signal | Rejected]:
    """A signal about a tenant that is out of scope is rejected; its neighbours are handled."""
    if principal.tenants is None:
        return entries
    return [
        entry if isinstance(entry, Rejected) or principal.sees(entry.tenant) else _forbid(number, entry, principal)
        for number, entry in enumerate(entries)
    ]


def _forbid(number: int, signal: Signal, principal: Principal) -> Rejected:
    message = f"the token of {principal.name} is not for tenant {signal.tenant}"
    return Rejected(number, signal.id, signal.tenant, Reason.FORBIDDEN_TENANT, "tenant", message)


def _count(metrics: Metrics, entries: Sequence[Signal | Rejected | Throttled]) -> list[Signal]:
    signals = [entry for entry in entries if isinstance(entry, Signal)]
    metrics.received(SOURCE, [signal.kind for signal in signals])
    if len(signals) < len(entries):
        for entry in entries:
            if not isinstance(entry, Signal):
                metrics.rejected(SOURCE, entry.reason if isinstance(entry, Rejected) else Reason.RATE_LIMITED)
    return signals


def _unreadable(entry: Rejected | Throttled) -> UnreadableResult:
    if isinstance(entry, Throttled):
        late = SignalError(Reason.RATE_LIMITED, "", entry.detail, entry.retry_after_s)
        return UnreadableResult(entry.signal.id, entry.signal.tenant, late)
    error = SignalError(entry.reason, unicode_of(entry.field), unicode_of(entry.message))
    return UnreadableResult(None if entry.id is None else unicode_of(entry.id), entry.tenant, error)


def unicode_of(text: str) -> str:
    """What is repeated of a bad signal may hold half a character, which no answer can: it must not cost the batch."""
    return text.encode("utf-8", "replace").decode()


def _is_single(request: Request, body: bytes) -> bool:
    """Whether one signal was sent as such, not as a batch of one: then its rejection is the request's."""
    media_type = request.headers.get("content-type", "")
    if cloudevents_binary.is_binary(media_type, request.headers):
        return True
    return "ndjson" not in media_type and "jsonl" not in media_type and body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"["


def _single(result: Result, headers: dict[str, str]) -> Response:
    if result.error is None:
        return json_response({"results": [result]}, headers=headers)
    if result.error.reason == Reason.FORBIDDEN_TENANT:
        raise ProblemError("forbidden", result.error.detail, field=result.error.field)
    receipt = {"receipt": result.receipt} if isinstance(result, SignalResult) else {}
    raise ProblemError(
        "signal-rejected",
        result.error.detail,
        field=result.error.field,
        members={"reason": result.error.reason, "id": result.id, **receipt},
    )
