"""The keys of an issuer, fetched, kept and fetched again: what stands between a JSON Web Token and a principal."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from governors.auth.jwt import KeySet, TokenInvalidError, Trust, UnknownKeyError, principal_of, verify
from governors.auth.principal import Principal

REFRESH_S: Final = 3_600.0
# An unknown key id asks for the keys at once, but whoever makes ids up must not make us ask all the time.
REFRESH_AGAIN_S: Final = 30.0
RETRY_MIN_S, RETRY_MAX_S = 1.0, 300.0
FETCH_S: Final = 5.0
DOCUMENT_BYTES_MAX: Final = 1024 * 1024

Fetch = Callable[[], Awaitable[bytes]]
OnFailure = Callable[[str], None]
SpeaksFor = Callable[[Mapping[str, Any], Trust], Principal]
"""Whom verified claims speak for; raises TokenInvalidError where that is nobody."""


class KeysUnavailableError(Exception):
    """The issuer's keys cannot be had now. Those that are known go on being used."""


class Issuer:
    """Whose JSON Web Token one is, by the keys known now. Without any yet, nobody's."""

    def __init__(
        self,
        trust: Trust,
        fetch: Fetch,
        clock_us: Callable[[], int],
        rng: random.Random,
        on_failure: OnFailure,
        speaks_for: SpeaksFor = principal_of,
    ) -> None:
        self._trust = trust
        self._speaks_for = speaks_for
        self._fetch = fetch
        self._clock_us = clock_us
        self._rng = rng
        self._on_failure = on_failure
        self._keys: KeySet | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_s = float("-inf")

    async def principal_of(self, token: bytes) -> Principal | None:
        """Whose token it is. A key that is not known yet is asked for first."""
        try:
            return self._verify(token)
        except UnknownKeyError:
            await self._refresh_soon()
        except TokenInvalidError:
            return None
        try:
            return self._verify(token)
        except TokenInvalidError:
            return None

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        failures = 0
        while True:
            try:
                await self._refresh()
            except KeysUnavailableError as error:
                self._on_failure(str(error))
                pause_s = min(RETRY_MIN_S * 2**failures, RETRY_MAX_S)
                failures = min(failures + 1, 16)
            else:
                pause_s, failures = REFRESH_S, 0
            await asyncio.sleep(pause_s * (0.5 + self._rng.random() / 2))

    def _verify(self, token: bytes) -> Principal:
        if self._keys is None:
            raise UnknownKeyError("the issuer's keys are not known yet")
        return self._speaks_for(verify(token, self._keys, self._trust, self._clock_us()), self._trust)

    async def _refresh_soon(self) -> None:
        """Fetch once for all who wait, unless that was done a moment ago."""
        if self._fetching is None:
            if asyncio.get_running_loop().time() - self._fetched_s < REFRESH_AGAIN_S:
                return
            self._fetching = asyncio.create_task(self._refresh_quietly(), name="issuer-keys")
        await asyncio.shield(self._fetching)

    async def _refresh_quietly(self) -> None:
        try:
            await self._refresh()
        except KeysUnavailableError as error:
            self._on_failure(str(error))
        finally:
            self._fetching = None

    async def _refresh(self) -> None:
        self._fetched_s = asyncio.get_running_loop().time()
        try:
            document = await self._fetch()
            self._keys = KeySet.parse(orjson.loads(document))
        except (OSError, httpx.HTTPError, TimeoutError, ValueError) as error:
            raise KeysUnavailableError(f"the keys of {self._trust.issuer}: {type(error).__name__} {error}") from error


def fetch_url(url: str, transport: httpx.AsyncBaseTransport | None = None) -> Fetch:
    """Fetch a JWK set. Raises httpx.HTTPError, TimeoutError, ValueError for one that is too long."""

    async def fetch() -> bytes:
        # A client for each: it is asked once an hour.
        async with (
            asyncio.timeout(FETCH_S),
            httpx.AsyncClient(transport=transport, follow_redirects=False) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > DOCUMENT_BYTES_MAX:
                    raise ValueError(f"more than {DOCUMENT_BYTES_MAX} bytes")
            return body

    return fetch


def fetch_file(path: Path) -> Fetch:
    """Read a JWK set that somebody else puts there. Raises OSError."""

    async def fetch() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return fetch
