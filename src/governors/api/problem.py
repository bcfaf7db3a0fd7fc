"""Errors as RFC 9457 problem documents. The one place where an error gets its HTTP status."""

import math
import random
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from governors.api.service import InvalidFieldError, NotAcceptingError, NotFoundError, OutcomeUnknownError
from ingest.errors import BodyRejectedError
from ledger.errors import (
    LeaseLostError,
    LedgerClosedError,
    LedgerFailedError,
    PushbackError,
    ReceiptDroppedError,
    ReceiptNotFoundError,
    WriterFencedError,
)

MEDIA_TYPE: Final = "application/problem+json"
URN: Final = "urn:governors:problem:"
RESTART_S: Final = 5.0


class ProblemType(NamedTuple):
    """What every problem of a type has in common."""

    status: int
    title: str


TYPES: Final[Mapping[str, ProblemType]] = {
    "unreadable-body": ProblemType(400, "The body cannot be read"),
    "bad-request": ProblemType(400, "The request cannot be understood"),
    "unauthenticated": ProblemType(401, "Nobody valid asks"),
    "forbidden": ProblemType(403, "Whoever asks may not have this"),
    "not-found": ProblemType(404, "There is no such thing"),
    "method-not-allowed": ProblemType(405, "This route does not take this method"),
    "request-timeout": ProblemType(408, "The body did not arrive in time"),
    "receipt-dropped": ProblemType(410, "The receipt is kept no more"),
    "body-too-large": ProblemType(413, "The body is too large"),
    "batch-too-large": ProblemType(413, "The body has too many signals"),
    "unsupported-media-type": ProblemType(415, "The body is in no form that is read here"),
    "signal-rejected": ProblemType(422, "The signal was rejected"),
    "invalid-field": ProblemType(422, "A field has a value that it cannot have"),
    # Names and members as draft-ietf-httpapi-ratelimit-headers has them.
    "quota-exceeded": ProblemType(429, "A quota does not admit this request now"),
    "temporary-reduced-capacity": ProblemType(429, "The tenant's backlog does not admit this request"),
    "abnormal-usage-detected": ProblemType(429, "Unusual use of the tenant does not admit this request"),
    "tenant-not-active": ProblemType(429, "The tenant is not active"),
    "unknown-tenant": ProblemType(429, "The tenant is not known"),
    "view-stale": ProblemType(429, "What holds for the tenant is not known here now"),
    "headers-too-large": ProblemType(431, "The request's line and headers are too large"),
    "internal": ProblemType(500, "The service failed on this request"),
    "not-accepting": ProblemType(503, "Nothing is accepted now"),
    "pushback": ProblemType(503, "More is waiting than can be carried"),
    "outcome-unknown": ProblemType(503, "The answer did not come in time"),
    "too-many-connections": ProblemType(503, "No connection is free"),
    "not-ready": ProblemType(503, "The service is not ready"),
    "not-healthy": ProblemType(503, "A part of the service is gone for good"),
}
# FastAPI answers 400 where it cannot read a body, and only there.
_BY_STATUS: Final = {400: "unreadable-body", 404: "not-found", 405: "method-not-allowed", 413: "body-too-large"}
_BODY_REASONS: Final = {"batch_too_large": "batch-too-large", "unsupported_media_type": "unsupported-media-type"}
_UNREAD: Final[frozenset[int]] = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
_BODY_STATUSES: Final = {413: "body-too-large", 415: "unsupported-media-type"}


class ProblemError(HTTPException):
    """An answer that is a problem. `name` is one of TYPES, `field` the field to blame, `members` go in as they are.

    An HTTPException, because FastAPI lets those alone pass through its reading of bodies.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(TYPES[name].status, detail, dict(headers or {}))
        self.name = name
        self.field = field
        self.retry_after_s = retry_after_s
        self.members = members or {}


def problem_of(error: Exception) -> ProblemError:
    """What an error means to the caller. Errors that nobody foresaw say nothing of themselves: the log has them."""
    match error:
        case ProblemError():
            return error
        case NotAcceptingError():
            return ProblemError("not-accepting", str(error), retry_after_s=error.retry_after_s)
        case OutcomeUnknownError():
            return ProblemError("outcome-unknown", str(error), retry_after_s=error.retry_after_s)
        case PushbackError():
            return ProblemError("pushback", str(error), retry_after_s=error.retry_after_s)
        case LeaseLostError() | WriterFencedError():
            detail = "another writer may have the log by now: send it again"
            return ProblemError("not-accepting", detail, retry_after_s=RESTART_S)
        case LedgerClosedError() | LedgerFailedError():
            return ProblemError("not-accepting", "the ledger takes nothing more", retry_after_s=RESTART_S)
        case ReceiptDroppedError():
            return ProblemError("receipt-dropped", str(error), members={"kept_from": error.kept_from})
        case NotFoundError() | ReceiptNotFoundError():
            return ProblemError("not-found", str(error))
        case InvalidFieldError():
            return ProblemError("invalid-field", str(error), field=error.field)
        case BodyRejectedError():
            name = _BODY_REASONS.get(error.reason) or _BODY_STATUSES.get(error.status, "unreadable-body")
            return ProblemError(name, error.message, field=error.field or None, members={"reason": error.reason})
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            name = _BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "bad-request")
            return ProblemError(name, error.detail, headers=error.headers)
        case _:
            return ProblemError("internal", "an unexpected error; the service's log has its cause")


def render(problem: ProblemError, rng: random.Random, status: int | None = None) -> Response:
    """The document, with its headers. Retry-After is spread out, so that those sent away do not come back at once.
    `status`: another one than the type's own.
    """
    kind = TYPES[problem.name]
    status = status or kind.status
    headers = dict(problem.headers or {})
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(spread(problem.retry_after_s, rng))
    if kind.status in _UNREAD:
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return Response(_body_of(problem, status), status, headers, MEDIA_TYPE)


def _body_of(problem: ProblemError, status: int) -> bytes:
    document: dict[str, Any] = {
        "type": URN + problem.name,
        "title": TYPES[problem.name].title,
        "status": status,
        "detail": problem.detail,
    }
    if problem.field is not None:
        document["field"] = problem.field
    return _encode({**problem.members, **document})


def spread(seconds: float, rng: random.Random) -> int:
    """Whole seconds, at least one and at least `seconds`, up to half as much again."""
    return max(1, math.ceil(seconds * (1 + rng.random() / 2)))


def _of_validation(error: RequestValidationError) -> ProblemError:
    first = error.errors()[0]
    where, *path = (str(part) for part in first["loc"])
    message = str(first["msg"])
    if first["type"] == "value_error":
        message = message.removeprefix("Value error, ")  # our own words, from a model's validator
    elif first["type"] == "json_invalid" or (where == "body" and not path):
        return ProblemError("unreadable-body", f"expected one JSON object as application/json: {message}")
    return ProblemError("invalid-field", message, field=".".join(path) or None)


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:  # a lone surrogate that a caller sent and that a message repeats
        text = {key: _clean(value) for key, value in document.items()}
        return orjson.dumps(text)


def _clean(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
