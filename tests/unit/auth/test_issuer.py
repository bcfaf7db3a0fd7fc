import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from simulation.loop import SimLoop

from governors.auth.issuer import REFRESH_AGAIN_S, REFRESH_S, Issuer, fetch_file, fetch_url
from governors.auth.jwt import Trust

NOW_S = 1_795_341_600
TRUST = Trust(issuer="https://issuer.example", audience="governors")


class Provider:
    """An issuer with one key at a time; `asked` counts how often somebody wanted its keys."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.rotate("first")

    def rotate(self, kid: str) -> None:
        self._key, self._kid = ed25519.Ed25519PrivateKey.generate(), kid

    def token(self) -> bytes:
        claims = {"iss": TRUST.issuer, "aud": TRUST.audience, "sub": "alice", "exp": NOW_S + 300, "roles": ["read"]}
        return jwt.encode(claims, self._key, "EdDSA", headers={"kid": self._kid}).encode()

    async def fetch(self) -> bytes:
        self.asked += 1
        await asyncio.sleep(0.1)
        if self.down:
            raise httpx.ConnectError("refused")
        document: dict[str, Any] = jwt.get_algorithm_by_name("EdDSA").to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [document | {"kid": self._kid}]}).encode()


def issuer_of(provider: Provider, failures: list[str]) -> Issuer:
    return Issuer(TRUST, provider.fetch, lambda: NOW_S * 1_000_000, random.Random(7), failures.append)


def simulate(main: Any) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main)


def test_the_first_token_waits_for_the_keys_and_many_at_once_ask_once() -> None:
    provider = Provider()

    async def main() -> None:
        issuer = issuer_of(provider, [])
        found = await asyncio.gather(*(issuer.principal_of(provider.token()) for _ in range(100)))
        assert {one.name for one in found if one is not None} == {"alice"}
        assert provider.asked == 1

    simulate(main())


def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    provider = Provider()

    async def main() -> None:
        issuer = issuer_of(provider, [])
        assert await issuer.principal_of(provider.token())
        provider.rotate("second")
        assert await issuer.principal_of(provider.token()) is None, "asked a moment ago"
        await asyncio.sleep(REFRESH_AGAIN_S)
        assert await issuer.principal_of(provider.token())
        assert provider.asked == 2

    simulate(main())


def test_made_up_keys_do_not_make_us_ask_all_the_time() -> None:
    provider, stranger = Provider(), Provider()
    stranger.rotate("made up")

    async def main() -> None:
        issuer = issuer_of(provider, [])
        for _ in range(1_000):
            assert await issuer.principal_of(stranger.token()) is None
        assert provider.asked == 1
        assert await issuer.principal_of(provider.token())

    simulate(main())


def test_while_the_issuer_is_away_the_known_keys_hold_and_it_is_asked_ever_less_often() -> None:
    provider = Provider()
    failures: list[str] = []

    async def main() -> None:
        issuer = issuer_of(provider, failures)
        keeping = asyncio.create_task(issuer.run())
        await asyncio.sleep(1)
        provider.down = True
        await asyncio.sleep(REFRESH_S * 4)
        assert await issuer.principal_of(provider.token())
        assert 10 < len(failures) < 100
        provider.down = False
        provider.rotate("second")
        await asyncio.sleep(600)
        assert await issuer.principal_of(provider.token())
        keeping.cancel()

    simulate(main())
    assert "https://issuer.example" in failures[0]


async def test_keys_are_read_from_an_address_within_bounds() -> None:
    answers = {"/keys": httpx.Response(200, text="{}"), "/long": httpx.Response(200, content=b" " * 2_000_000)}
    answers["/moved"] = httpx.Response(302, headers={"Location": "/keys"})
    transport = httpx.MockTransport(lambda request: answers[request.url.path])

    def fetch(path: str) -> Any:
        return fetch_url(f"https://issuer.example{path}", transport)

    assert await fetch("/keys")() == b"{}"
    with pytest.raises(ValueError, match="bytes"):
        await fetch("/long")()
    with pytest.raises(httpx.HTTPStatusError):
        await fetch("/moved")()


async def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")

    assert await fetch_file(tmp_path / "keys.json")() == b"{}"
    with pytest.raises(OSError, match="No such file"):
        await fetch_file(tmp_path / "other.json")()
