"""What can be wrong with input, each error saying what the sender should do next."""


class IngestError(Exception):
    """Root of everything this package raises."""


class SignalRejectedError(IngestError):
    """One signal cannot be read; the others of its batch can.

    `reason` is a stable word for counters (`bad_json`, `bad_field`, `unknown_kind`, `future_time`, …), `field` the
    path of the offending field in the wire form (`data.depth`), or "" when no single field is to blame.
    """

    def __init__(self, reason: str, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.message = message


class BodyRejectedError(IngestError):
    """A body as a whole cannot be read: nothing in it was handled.

    `status` is the HTTP status that says so best (400, 413 or 415).
    """

    def __init__(self, reason: str, status: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.message = message


class SourceUnavailableError(IngestError):
    """The source cannot be reached now; retry after a backoff."""


class SourceRefusedError(IngestError):
    """The source answered, and the answer is no: retrying cannot help until an operator changes something.

    `vanished` is set where the named resource does not exist: somebody may be about to create it again.
    """

    def __init__(self, message: str, *, vanished: bool = False) -> None:
        super().__init__(message)
        self.vanished = vanished


class DeadLetterFullError(IngestError):
    """The dead letters take up all the room they may have: free some, the delivery stays with its source until then."""
