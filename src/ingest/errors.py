"""What can be wrong with input, each error saying what the sender should do next."""

from enum import StrEnum


class Reason(StrEnum):
    """Why input was refused: stable words, for counters, problem types and scripts."""

    BAD_JSON = "bad_json"  # not JSON as RFC 8259 has it
    BAD_UTF8 = "bad_utf8"
    LONE_SURROGATE = "lone_surrogate"  # half a character, as in "\ud800": no UTF-8 exists for it
    NOT_FINITE = "not_finite"  # NaN, Infinity, or a number that no double holds, like 1e999
    TOO_DEEP = "too_deep"  # nested further than the limits allow
    TOO_LARGE = "too_large"
    DUPLICATE_FIELD = "duplicate_field"  # one name twice in one object: readers would differ on what it says
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    UNKNOWN_KIND = "unknown_kind"
    BAD_FIELD = "bad_field"  # the wrong type, shape or range
    FORBIDDEN_TENANT = "forbidden_tenant"  # whoever sent it may not speak for this tenant
    RATE_LIMITED = "rate_limited"  # more than its sender or its tenant may send now: it can come again later
    NO_TENANT = "no_tenant"  # no configured rule says whose it is
    FUTURE_TIME = "future_time"  # says that something happened later than this service's clock can believe

    EMPTY_BODY = "empty_body"
    INCOMPLETE_BODY = "incomplete_body"  # the sender hung up in the middle of it
    BATCH_TOO_LARGE = "batch_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"


class IngestError(Exception):
    """Root of everything this package raises."""


class SignalRejectedError(IngestError):
    """One signal cannot be read; the others of its batch can.

    `reason` is a stable word for counters (the decoders use those of Reason), `field` the path of the offending field
    in the wire form (`data.depth`), or "" when no single field is to blame.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.message = message


class BodyRejectedError(IngestError):
    """A body as a whole cannot be read: nothing in it was handled.

    `status` is the HTTP status that says so best (400, 413 or 415), `field` the path of the offending field, or "" when
    no single one is to blame.
    """

    def __init__(self, reason: str, status: int, message: str, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.message = message
        self.field = field


class SourceUnavailableError(IngestError):
    """The source cannot be reached now; retry after a backoff."""


class SourceRefusedError(IngestError):
    """The source answered, and the answer is no: retrying cannot help until an operator changes something.

    `vanished` is set where the named resource does not exist: somebody may be about to create it again.
    """

    def __init__(self, message: str, *, vanished: bool = False) -> None:
        super().__init__(message)
        self.vanished = vanished


class HandlerBusyError(IngestError):
    """Whoever handles batches can take none now: no message is to blame, all of them may come again later."""


class DeadLetterFullError(IngestError):
    """The dead letters take up all the room they may have: free some, the delivery stays with its source until then."""
