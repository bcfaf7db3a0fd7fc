"""`POST /v1/push/…`: messages that other systems send by themselves, from Pub/Sub and from Alertmanager.

Both senders try again for as long as they are told to, so a 2xx means that nothing of the message is needed any more:
what it told is committed, or lies with the dead letters because it can never be read. What can be taken later is
answered with 503. A body that is no message at all is put aside where Pub/Sub pushes it, which would bring it again;
whoever else sends one is told so with 4xx.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from governors.api.guard import Authenticate, principal_of
from governors.api.problem import ProblemError
from governors.api.rates import RateLimits
from governors.api.respond import json_response
from governors.api.service import NotAcceptingError, Service, SignalError, SignalResult, UnreadableResult
from governors.api.signals import reason_of, unicode_of
from governors.auth.principal import Principal
from governors.telemetry.metrics import Metrics
from ingest.dead_letter import DeadLetterSink
from ingest.decode.alertmanager import Entry, open_group
from ingest.decode.body import Rejected
from ingest.decode.limits import DecodeLimits
from ingest.decode.push import read_push
from ingest.decode.tenants import Facts, Routing
from ingest.errors import BodyRejectedError, DeadLetterFullError, Reason, SourceRefusedError, SourceUnavailableError
from ingest.signals import Signal
from ingest.source import Batch, DeadLetter, Disposition

PUBSUB: Final = "push"
ALERTMANAGER: Final = "alertmanager"
# A full disk does not empty itself within seconds.
RETRY_S: Final = 10.0
TOO_LARGE: Final = 413
# Alerts that are read before others have their turn: some 10 ms.
AT_ONCE: Final = 100

Endpoint = Callable[[Request], Awaitable[Response]]


class HandleMessages(Protocol):
    """What decides pushed messages: `ingest.source.Handle`, told what is known of them besides."""

    def __call__(self, batch: Batch, facts: Facts) -> Awaitable[Sequence[Disposition]]: ...


@dataclass(frozen=True, slots=True)
class PubSubDoor:
    """Pub/Sub's own way in: who may push, and who decides what is pushed."""

    authenticate: Authenticate
    handle: HandleMessages


@dataclass(frozen=True, slots=True)
class Pushes:
    """What the routes need besides the service. `pubsub` is None where nobody may push for Pub/Sub."""

    routing: Routing
    dead_letters: DeadLetterSink
    pubsub: PubSubDoor | None = None


class PushAnswer(Struct, frozen=True, omit_defaults=True):
    """What became of a pushed message: `taken`, or `dead_lettered` for the `reason` given."""

    outcome: str
    reason: str = ""
    detail: str = ""


class AlertsAnswer(Struct, frozen=True):
    """One entry for each alert, in order; `truncated_alerts` were left out by Alertmanager."""

    results: list[SignalResult | UnreadableResult]
    truncated_alerts: int


def pubsub_endpoint(
    door: PubSubDoor, dead_letters: DeadLetterSink, metrics: Metrics, limits: DecodeLimits, clock_us: Callable[[], int]
) -> Endpoint:
    """The route's handler: one message."""

    async def post_message(request: Request) -> Response:
        body = await _body(request, PUBSUB, metrics)
        now_us = clock_us()
        try:
            pushed = read_push(body, limits)
        except BodyRejectedError as refused:
            metrics.rejected(PUBSUB, refused.reason)
            if refused.status == TOO_LARGE:
                raise
            # Who got in here is Pub/Sub, and would bring it again and again.
            metrics.dead_lettered(refused.reason)
            return await put_aside(DeadLetter(refused.reason, refused.message), body, {}, now_us)
        message = pushed.message
        batch = Batch([message], now_us, len(message.payload))
        (disposition,) = await door.handle(batch, {"subscription": pushed.subscription} if pushed.subscription else {})
        if isinstance(disposition, DeadLetter):
            return await put_aside(disposition, message.payload, message.attributes, now_us)
        return json_response(PushAnswer("taken"))

    async def put_aside(letter: DeadLetter, payload: bytes, attributes: Mapping[str, str], now_us: int) -> Response:
        await _put_aside(dead_letters, letter.reason, letter.error, payload, attributes, now_us)
        return json_response(PushAnswer("dead_lettered", letter.reason, unicode_of(letter.error)))

    return post_message


def alertmanager_endpoint(
    service: Service,
    pushes: Pushes,
    metrics: Metrics,
    limits: DecodeLimits,
    clock_us: Callable[[], int],
    rates: RateLimits,
) -> Endpoint:
    """The route's handler: one notification, with however many alerts, which is taken in as a whole or not at all."""

    async def post_alerts(request: Request) -> Response:
        body = await _body(request, ALERTMANAGER, metrics)
        now_us = clock_us()
        try:
            group = open_group(body, limits)
        except BodyRejectedError as refused:
            metrics.rejected(ALERTMANAGER, refused.reason)
            raise
        entries: list[Entry] = []
        for entry in group.entries(pushes.routing, now_us, limits):
            entries.append(_in_scope(len(entries), entry, principal_of(request)))
            if len(entries) % AT_ONCE == 0:
                await asyncio.sleep(0)
        signals = [entry.outcome for entry in entries if isinstance(entry.outcome, Signal)]
        rates.charge_whole(principal_of(request), signals, len(entries))
        metrics.received(ALERTMANAGER, [signal.kind for signal in signals])
        if group.truncated:
            metrics.truncated(ALERTMANAGER, group.truncated)
        decided = iter(await service.submit(signals, "committed") if signals else ())
        results: list[SignalResult | UnreadableResult] = []
        for entry in entries:
            if isinstance(entry.outcome, Signal):
                results.append(next(decided))
                continue
            rejected = entry.outcome
            metrics.rejected(ALERTMANAGER, rejected.reason)
            metrics.dead_lettered(rejected.reason)
            detail = unicode_of(rejected.message)
            await _put_aside(
                pushes.dead_letters, rejected.reason, f"{rejected.field}: {detail}", entry.payload, {}, now_us
            )
            results.append(
                UnreadableResult(None, rejected.tenant, SignalError(rejected.reason, rejected.field, detail))
            )
        return json_response(AlertsAnswer(results, group.truncated))

    return post_alerts


async def _body(request: Request, source: str, metrics: Metrics) -> bytes:
    try:
        return await request.body()
    except ProblemError as refused:
        metrics.rejected(source, reason_of(refused))
        raise


def _in_scope(index: int, entry: Entry, principal: Principal) -> Entry:
    if isinstance(entry.outcome, Rejected) or principal.sees(entry.outcome.tenant):
        return entry
    return Entry(_forbidden(index, entry.outcome.tenant, principal), entry.payload)


def _forbidden(index: int, tenant: str, principal: Principal) -> Rejected:
    message = f"the token of {principal.name} is not for tenant {tenant}"
    return Rejected(index, None, tenant, Reason.FORBIDDEN_TENANT, "tenant", message)


async def _put_aside(
    dead_letters: DeadLetterSink, reason: str, error: str, payload: bytes, attributes: Mapping[str, str], now_us: int
) -> None:
    """Keep what can never be read. Where it cannot be kept, its sender must."""
    try:
        await dead_letters.put(
            reason=reason, tenant=None, payload=payload, attributes=attributes, error=error, now_us=now_us
        )
    except (DeadLetterFullError, SourceUnavailableError, SourceRefusedError, OSError) as failed:
        raise NotAcceptingError("what cannot be read could not be put aside either", RETRY_S) from failed
