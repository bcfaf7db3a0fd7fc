"""Calls at a Kubernetes API server, each with a deadline, and what its answers mean for an action."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from governors.outbox.answers import retry_after_s
from governors.outbox.executors import Answer, Refused, TryAgain

CALL_S: Final = 5.0
"""For one call: what reads and patches one object takes milliseconds."""
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A Deployment keeps ten old ReplicaSets, of some kilobytes each."""
JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
FIELD_MANAGER: Final = "governors"
_MESSAGE_CHARS_MAX: Final = 300
# Of these it is not known whether a change was made; 503 comes before anything was looked at.
_UNKNOWN: Final = frozenset({500, 502, 504})


class CallFailedError(Exception):
    """A call brought no object. `answer` says what that means for the action, `status` is 0 without an answer."""

    def __init__(self, answer: Refused | TryAgain, status: int = 0) -> None:
        super().__init__(answer.detail)
        self.answer: Answer = answer
        self.status = status


class Access:
    """How to reach the API server. Both files are read for each attempt, for they are renewed; none is None."""

    def __init__(self, server: str, token_file: Path | None, ca_file: Path | None) -> None:
        self.server = server
        self._token_file = token_file
        self._ca_file = ca_file
        self._trust: tuple[str, ssl.SSLContext] | None = None
        """What the authorities' file said, and whom that means to trust: to make it anew takes a while."""

    def read(self) -> tuple[dict[str, str], ssl.SSLContext]:
        """Headers, and whom to trust. Raises OSError or ValueError (ssl.SSLError is an OSError)."""
        headers = {"user-agent": "governors", "accept": "application/json"}
        if self._token_file is not None:
            token = self._token_file.read_text(encoding="ascii").strip()
            if not token or not token.isprintable():
                raise ValueError(f"{self._token_file}: expected a token")
            headers["authorization"] = f"Bearer {token}"
        authorities = "" if self._ca_file is None else self._ca_file.read_text(encoding="utf-8")
        if self._trust is None or self._trust[0] != authorities:
            if self._ca_file is not None and not authorities:
                raise ValueError(f"{self._ca_file}: expected certificates")
            self._trust = authorities, ssl.create_default_context(cadata=authorities or None)
        return headers, self._trust[1]


class Session:
    """The calls of one attempt, on one connection."""

    def __init__(self, client: httpx.AsyncClient, clock_us: Callable[[], int]) -> None:
        self._client = client
        self._clock_us = clock_us

    async def get(self, path: str, **query: str) -> Any:
        """An object, or a list of them. Raises CallFailedError."""
        return await self._call(self._client.build_request("GET", path, params=query), changes=False)

    async def patch(self, path: str, patch: object, media_type: str) -> Any:
        """Change an object; what it is then. Raises CallFailedError."""
        request = self._client.build_request(
            "PATCH",
            path,
            params={"fieldManager": FIELD_MANAGER},
            headers={"content-type": media_type},
            content=msgspec.json.encode(patch),
        )
        return await self._call(request, changes=True)

    async def _call(self, request: httpx.Request, *, changes: bool) -> Any:
        doing = f"{request.method} {request.url.path}"
        try:
            async with asyncio.timeout(CALL_S):
                status, headers, body = await self._send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CallFailedError(TryAgain(f"{doing}: cannot be reached: {_said(error)}", maybe=False)) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise CallFailedError(TryAgain(f"{doing}: no answer: {_said(error)}", maybe=changes)) from error
        try:
            found = msgspec.json.decode(body)
        except msgspec.DecodeError:
            found = None
        if 200 <= status < 300:
            if isinstance(found, dict):
                return found
            raise CallFailedError(TryAgain(f"{doing}: its answer cannot be read", maybe=changes), status)
        message = str(found.get("message", "")) if isinstance(found, dict) else ""
        after_s = retry_after_s(headers.get("retry-after"), self._clock_us())
        raise CallFailedError(meaning(doing, status, message, after_s, changes=changes), status)

    async def _send(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        answer = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    return answer.status_code, answer.headers, b""
        finally:
            await answer.aclose()
        return answer.status_code, answer.headers, bytes(body)


@contextlib.asynccontextmanager
async def connected(
    server: str, headers: Mapping[str, str], trust: ssl.SSLContext, clock_us: Callable[[], int]
) -> AsyncIterator[Session]:
    """For one attempt. The headers and whom to trust are an Access's."""
    async with httpx.AsyncClient(
        base_url=server, headers=headers, verify=trust, timeout=CALL_S, follow_redirects=False, trust_env=False
    ) as client:
        yield Session(client, clock_us)


def meaning(doing: str, status: int, message: str, after_s: float | None, *, changes: bool) -> Refused | TryAgain:
    """What a status other than 2xx means for the action. `changes`: whether the call was to change something."""
    said = f"{doing}: {status}" + (f": {message[:_MESSAGE_CHARS_MAX]}" if message else "")
    if status == 401:
        # The token was renewed, or will be: it is read again.
        return TryAgain(said, maybe=False)
    if status == 409:
        return TryAgain(f"{said}: it has changed meanwhile", maybe=False, after_s=after_s, ails=False)
    if status in {408, 425, 429} or status >= 500:
        return TryAgain(said, maybe=changes and status in _UNKNOWN, after_s=after_s)
    return Refused(said)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
