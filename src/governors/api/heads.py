"""What a request's head says before anybody is asked about it: where it leads, and what comes behind it. Pure.

Two who read one connection must see the same requests in it (RFC 9112, section 11.2): what a proxy in front may have
read in another way is not read here.
"""

import urllib.parse
from collections.abc import Sequence
from enum import Enum
from typing import Final

import httptools

# Of all headers, those that say whose a request is, where it ends, and what its client waits for.
_FRAMING: Final = frozenset({b"host", b"transfer-encoding", b"content-length", b"expect"})


class HeadTooLargeError(Exception):
    """A request's line and headers are longer than they may be."""


class AmbiguousError(Exception):
    """A head that can be read in two ways."""


class Behind(Enum):
    """What comes behind a head."""

    NOTHING = "the request is complete"
    BODY = "a body, which may be empty"
    ASKED_FOR = "a body, once its client has heard that it is welcome"


# By its class's name a member costs twenty times as much, which counts where every request passes.
NOTHING: Final = Behind.NOTHING
BODY: Final = Behind.BODY
ASKED_FOR: Final = Behind.ASKED_FOR


def check_head(url: bytes, headers: Sequence[tuple[bytes, bytes]], version: str, bytes_max: int | None) -> Behind:
    """What comes behind a head whose names are in small letters. `bytes_max` is None where its length is known to do.

    Raises HeadTooLargeError; and AmbiguousError where it is in doubt whose it is (RFC 9112, section 3.2) or where it
    ends (section 6.1; the parser has refused the rest of what can be said there).
    """
    if bytes_max is not None:
        size = len(url) + sum([len(name) + len(value) + 4 for name, value in headers])
        if size > bytes_max:
            raise HeadTooLargeError
    hosts, encodings, behind = 0, 0, NOTHING
    for name, value in headers:
        if name not in _FRAMING:
            continue
        if name == b"host":
            hosts += 1
        elif name == b"expect":
            if value.lower() == b"100-continue":
                behind = ASKED_FOR
        else:
            if name == b"transfer-encoding":
                encodings += 1 if value.lower() == b"chunked" else 2
            if value != b"0" and behind is NOTHING:
                behind = BODY
    if hosts > 1 or encodings > 1 or (hosts == 0 and version != "1.0"):
        raise AmbiguousError
    return behind


def read_target(url: bytes) -> tuple[str, bytes]:
    """A request target's path, with nothing left encoded in it, and its query.

    Raises httptools.HttpParserInvalidURLError, and UnicodeDecodeError where the path is not in ASCII.
    """
    path, _, query = url.partition(b"?")
    if not url.startswith(b"/") or b"#" in url:
        parsed = httptools.parse_url(url)
        path, query = parsed.path, parsed.query or b""
    text = path.decode("ascii")
    return urllib.parse.unquote(text) if "%" in text else text, query
