"""What a head says: where it leads, and what comes behind it."""

import urllib.parse

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from governors.api.heads import AmbiguousError, Behind, HeadTooLargeError, check_head, read_target

HOST = (b"host", b"governors")


@pytest.mark.parametrize(
    ("headers", "behind"),
    [
        ([], Behind.NOTHING),
        ([(b"content-length", b"0")], Behind.NOTHING),
        ([(b"content-length", b"1")], Behind.BODY),
        ([(b"transfer-encoding", b"chunked")], Behind.BODY),
        ([(b"transfer-encoding", b"Chunked")], Behind.BODY),
        ([(b"expect", b"100-Continue"), (b"content-length", b"1")], Behind.ASKED_FOR),
        ([(b"content-length", b"1"), (b"expect", b"100-continue")], Behind.ASKED_FOR),
        ([(b"content-length", b"0"), (b"expect", b"100-continue")], Behind.ASKED_FOR),
        ([(b"expect", b"something else")], Behind.NOTHING),
        ([(b"x-content-length", b"1")], Behind.NOTHING),
    ],
    ids=str,
)
def test_what_comes_behind_a_head(headers: list[tuple[bytes, bytes]], behind: Behind) -> None:
    assert check_head(b"/", [HOST, *headers], "1.1", None) is behind


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([], "1.1"),
        ([HOST, HOST], "1.1"),
        ([HOST, HOST], "1.0"),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], "1.1"),
        ([HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], "1.1"),
    ],
    ids=str,
)
def test_a_head_that_can_be_read_in_two_ways_is_not_read(headers: list[tuple[bytes, bytes]], version: str) -> None:
    with pytest.raises(AmbiguousError):
        check_head(b"/", headers, version, None)


def test_http_1_0_may_leave_out_whose_a_request_is() -> None:
    assert check_head(b"/", [], "1.0", None) is Behind.NOTHING


def test_a_head_is_as_long_as_its_line_and_its_headers_with_what_stands_between_them() -> None:
    length = len(b"/12345") + len(b"host: governors\r\n")
    check_head(b"/12345", [HOST], "1.1", length)
    with pytest.raises(HeadTooLargeError):
        check_head(b"/12345", [HOST], "1.1", length - 1)


class _Line:
    """What the parser makes of a request's line."""

    def __init__(self, url: bytes) -> None:
        self.url = b""
        httptools.HttpRequestParser(self).feed_data(b"GET " + url + b" HTTP/1.1\r\n\r\n")

    def on_url(self, url: bytes) -> None:
        self.url += url


def _as_uvicorn_does(url: bytes) -> tuple[str, bytes]:
    parsed = httptools.parse_url(url)
    return urllib.parse.unquote(parsed.path.decode("ascii")), parsed.query or b""


_CHARACTERS = st.one_of(st.sampled_from(b"/?#%:@&=.;v1+*"), st.integers(0x21, 0x7E), st.integers(0, 255))


@given(st.one_of(st.just(b""), st.just(b"/")), st.lists(_CHARACTERS, max_size=24).map(bytes))
@example(b"/", b"/governors/v1/admit")
@example(b"", b"http://governors/v1/admit?a")
@example(b"/", b"v1/admit??a#b")
@example(b"/", b"%2Fv1")
@example(b"", b"*")
def test_a_target_is_read_as_uvicorn_reads_it(begin: bytes, rest: bytes) -> None:
    try:
        url = _Line(begin + rest).url
    except httptools.HttpParserError:
        return
    try:
        expected = _as_uvicorn_does(url)
    except Exception as error:  # noqa: BLE001 - whatever it is
        with pytest.raises(type(error)):
            read_target(url)
    else:
        assert read_target(url) == expected
