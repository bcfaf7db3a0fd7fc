"""What other workers hand on: `POST /v1/cluster/signals`, and operators' requests that a receipt is left of.

The body is a MessagePack array of the signals' own bytes. The answer is the length of what follows (u32, big endian), a
MessagePack array of their results as soon as those are durable here, and, where that was asked for, one byte more once
they are committed. Decided is what is here and nothing else: for a signal whose partition the worker does not have, the
result is nil; nothing was decided of it, and it is not handed on.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from governors.api.problem import ProblemError
from governors.api.service import OutcomeUnknownError, ServiceError, SignalError, SignalResult, Wait
from governors.tenants.operations import Operation
from ingest.decode.limits import DecodeLimits
from ingest.decode.message import decode_message
from ingest.errors import SignalRejectedError
from ingest.signals import Signal
from ledger.errors import LedgerError

PATH: Final = "/v1/cluster/signals"
OPERATIONS_PATH: Final = "/v1/cluster/operations"
BATCH_TYPE: Final = "application/msgpack"
RETRY_S: Final = 1.0
_WAITS: Final[dict[str, Wait]] = {"local": "local", "committed": "committed"}
# What was made of another system's message is larger than what a sender of ours may send.
_LIMITS: Final = DecodeLimits(signal_bytes_max=4 * 1024 * 1024, extra_bytes_max=4 * 1024 * 1024)
_REJECTED: Final = "rejected"

_encode = msgspec.msgpack.Encoder().encode
_read_batch = msgspec.msgpack.Decoder(list[bytes]).decode
_read_results = msgspec.msgpack.Decoder(list[SignalResult | None]).decode
_read_operation = msgspec.msgpack.Decoder(Operation).decode
_LENGTH_BYTES: Final = 4
RESULTS_BYTES_MAX: Final = 64 * 1024 * 1024
"""More than the results of any batch: whoever announces so much is no worker."""
NO_CONTENT: Final = 204
_COMMITTED: Final = b"\x01"


class HandedOn(NamedTuple):
    """What came of signals, None for those of partitions that are not here, and a wait until their receipts are
    committed by the logs that have them. No later one can say so: a partition that went and came back has others in
    their places. It raises ServiceError, LedgerError.
    """

    results: Sequence[SignalResult | None]
    committed: Callable[[], Awaitable[None]]


class DecidesHere(Protocol):
    """What this route needs."""

    async def submit_here(self, signals: Sequence[Signal]) -> "HandedOn":
        """Decide signals of partitions that are here. Raises NotAcceptingError where none of them is."""
        ...

    async def record_operation(self, operation: Operation) -> None:
        """Leave a receipt of what an operator asked of another worker. Raises ServiceError, LedgerError."""
        ...


def encode_batch(signals: Sequence[Signal]) -> bytes:
    """The body that says these signals."""
    return _encode([signal.payload for signal in signals])


encode_one_operation: Callable[[Operation], bytes] = _encode
"""The body that says what an operator asked of a worker which has no partition to leave the receipt in."""


def peer_operations_endpoint(here: DecidesHere) -> Callable[[Request], Awaitable[Response]]:
    """`POST /v1/cluster/operations`."""

    async def post_operation(request: Request) -> Response:
        body = await request.body()
        try:
            operation = _read_operation(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProblemError("unreadable-body", f"expected an operation in MessagePack: {error}") from error
        await here.record_operation(operation)
        return Response(status_code=NO_CONTENT)

    return post_operation


def peer_signals_endpoint(here: DecidesHere, clock_us: Callable[[], int]) -> Callable[[Request], Awaitable[Response]]:
    """The route's handler."""

    async def post_signals(request: Request) -> Response:
        wait = _WAITS.get(request.query_params.get("wait", ""))
        if wait is None:
            raise ProblemError("invalid-field", "expected local or committed", field="wait")
        body = await request.body()
        try:
            payloads = _read_batch(body)
        except msgspec.DecodeError as error:
            raise ProblemError("unreadable-body", f"expected a MessagePack array of byte strings: {error}") from error
        entries = _read(payloads, clock_us())
        handed_on = await here.submit_here([one for one in entries if isinstance(one, Signal)])
        decided = iter(handed_on.results)
        results: list[SignalResult | None] = [next(decided) if isinstance(one, Signal) else one for one in entries]
        return StreamingResponse(_frames(handed_on.committed, results, wait), media_type=BATCH_TYPE)

    return post_signals


async def _frames(
    committed: Callable[[], Awaitable[None]], results: Sequence[SignalResult | None], wait: Wait
) -> AsyncIterator[bytes]:
    data = _encode(results)
    yield len(data).to_bytes(_LENGTH_BYTES, "big") + data
    if wait == "committed":
        # Where it fails, the missing byte says so.
        with suppress(ServiceError, LedgerError):
            await committed()
            yield _COMMITTED


class ResultFrames:
    """An answer as it arrives. `results` is None until they are here."""

    def __init__(self) -> None:
        self.results: list[SignalResult | None] | None = None
        self.is_committed = False
        self._data = bytearray()

    def take(self, part: bytes) -> None:
        """More of it. Raises OutcomeUnknownError for what no worker says."""
        self._data += part
        if len(self._data) < _LENGTH_BYTES:
            return
        end = _LENGTH_BYTES + int.from_bytes(self._data[:_LENGTH_BYTES], "big")
        if end > RESULTS_BYTES_MAX:
            raise OutcomeUnknownError(f"an answer of {end} bytes", RETRY_S)
        if len(self._data) < end:
            return
        if self.results is None:
            try:
                self.results = _read_results(self._data[_LENGTH_BYTES:end])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise OutcomeUnknownError(f"an answer that cannot be read: {error}", RETRY_S) from error
        self.is_committed = self._data[end:] == _COMMITTED


def _read(payloads: Sequence[bytes], now_us: int) -> list[Signal | SignalResult]:
    entries: list[Signal | SignalResult] = []
    for payload in payloads:
        try:
            entries.append(decode_message(payload, {}, now_us, _LIMITS))
        except SignalRejectedError as error:
            # It was read where it came in: the clocks of the two differ, or their versions do.
            why = SignalError(error.reason, error.field, error.message)
            entries.append(SignalResult("", "", "", "", _REJECTED, "none", "", "", error.message, None, "local", why))
    return entries
