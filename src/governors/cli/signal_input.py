"""What `send` was given, split into bodies that the service takes. Pure: bytes in, bodies out.

Every signal keeps the exact bytes that it was given as: its receipt commits to them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from ingest.decode import cloudevents

SIGNALS_MAX: Final = 1_000
BYTES_MAX: Final = 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINES: Final = "application/x-ndjson"
_ARRAY: Final = "application/json"
_JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Body(Struct, frozen=True):
    """One request's worth: signals as far as they can be told apart, else the whole text as one."""

    media_type: str
    signals: list[bytes]
    broken: bool = False

    @property
    def count(self) -> int:
        return len(self.signals)

    @property
    def content(self) -> bytes:
        if self.broken:
            return self.signals[0]
        return b"\n".join(self.signals) if self.media_type == _LINES else b"[" + b",".join(self.signals) + b"]"

    def only(self, positions: Sequence[int]) -> "Body":
        """The same with these signals alone."""
        return Body(self.media_type, [self.signals[position] for position in positions], self.broken)


class _Envelope(Struct):
    """What tells a CloudEvent from a signal."""

    specversion: Any = None


def bodies(given: bytes) -> Iterator[Body]:
    """One signal, an array or a line for each; CloudEvents likewise. Nothing for nothing but white space.

    What is no JSON is passed on as it is: the service says best what is wrong with it.
    """
    text = given.removeprefix(_BYTE_ORDER_MARK).strip()
    if not text:
        return
    signals = _whole(text)
    if signals is None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        is_broken_document = text.startswith(b"[") or _whole(lines[0]) is None
        if is_broken_document:
            yield Body(_ARRAY, [text], broken=True)
            return
        if _is_cloudevent(lines[0]):
            yield from _chunks(lines, cloudevents.BATCH_MEDIA_TYPE)
        else:
            yield from _chunks(lines, _LINES)
    elif signals and _is_cloudevent(signals[0]):
        yield from _chunks(signals, cloudevents.BATCH_MEDIA_TYPE)
    else:
        yield from _chunks(signals, _ARRAY)


def _whole(text: bytes) -> list[bytes] | None:
    """The signals of one JSON document; None where it is none."""
    try:
        if text.startswith(b"["):
            return [bytes(element) for element in msgspec.json.decode(text, type=list[Raw])]
        return [bytes(msgspec.json.decode(text, type=Raw))]
    except _JSON_ERRORS:
        return None


def _is_cloudevent(signal: bytes) -> bool:
    try:
        return msgspec.json.decode(signal, type=_Envelope).specversion is not None
    except _JSON_ERRORS:
        return False


def _chunks(signals: list[bytes], media_type: str) -> Iterator[Body]:
    chunk: list[bytes] = []
    size = 0
    for signal in signals:
        if chunk and (len(chunk) >= SIGNALS_MAX or size + len(signal) > BYTES_MAX):
            yield Body(media_type, chunk)
            chunk, size = [], 0
        chunk.append(signal)
        size += len(signal) + 1
    if chunk or not signals:
        yield Body(media_type, chunk)
