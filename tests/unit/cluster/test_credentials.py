"""A worker is believed by what it says of itself in the store, and nobody else is."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from governors.auth.principal import Principal
from governors.cluster.credentials import LIFE_S, RENEW_S, ROLES, Credentials, make_key, public_part
from governors.cluster.workers import Beat, Member

NOON_US = 1_795_348_800_000_000
NAMES = ("a", "b", "c")
KEYS = {name: make_key(lambda count, name=name: name.encode() * count) for name in NAMES}  # type: ignore[misc]


def member(name: str, key: str | None = None) -> Member:
    said = public_part(KEYS[name]) if key is None else key
    return Member(Beat(name, f"http://{name}:8080", "01", 1, key=said), 0.0, True, 60.0)


class Cluster:
    """Workers that hear of each other, by clocks that the test moves."""

    def __init__(self, *members: Member) -> None:
        self.members = list(members)
        self.now_us = dict.fromkeys(NAMES, NOON_US)
        self.workers = {
            name: Credentials(name, KEYS[name], lambda: self.members, lambda name=name: self.now_us[name])  # type: ignore[misc]
            for name in NAMES
        }

    async def believes(self, asked: str, token: str) -> Principal | None:
        return await self.workers[asked].principal_of(token.encode())


def forge(key: Ed25519PrivateKey, kid: str = "a", algorithm: str = "EdDSA", **changes: Any) -> str:
    now_s = NOON_US // 1_000_000
    claims = {
        "iss": "governors-worker", "aud": "governors-workers", "sub": "a", "roles": ["ingest"], "iat": now_s,
        "exp": now_s + LIFE_S,
    }  # fmt: skip
    return jwt.encode({**claims, **changes}, key, algorithm, headers={"kid": kid})


async def test_a_worker_that_was_heard_of_is_known_and_may_do_what_workers_do() -> None:
    cluster = Cluster(member("a"), member("b"))
    found = await cluster.believes("b", cluster.workers["a"].token())
    assert found == Principal("a", frozenset(ROLES), None)


async def test_one_that_was_not_heard_of_or_said_no_key_is_nobody() -> None:
    cluster = Cluster(member("a"), member("b", key=""))
    assert await cluster.believes("a", cluster.workers["b"].token()) is None
    assert await cluster.believes("a", cluster.workers["c"].token()) is None
    cluster.members.append(member("c"))
    assert await cluster.believes("a", cluster.workers["c"].token()) is not None


@pytest.mark.parametrize("nonsense", ["nonsense", "AAAA", "=", "ä", "A" * 1_000])
async def test_a_worker_whose_key_cannot_be_read_is_nobody_and_takes_nobody_with_it(nonsense: str) -> None:
    cluster = Cluster(member("a"), member("b", key=nonsense))
    assert await cluster.believes("b", cluster.workers["a"].token()) is not None
    assert await cluster.believes("a", cluster.workers["b"].token()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "governors"},
        {"iss": "https://issuer.example"},
        {"exp": NOON_US // 1_000_000 - 61},
        {"iat": NOON_US // 1_000_000 + 61},
        {"sub": "b"},  # one worker does not speak for another
        {"sub": ""},
    ],
)
async def test_a_token_that_says_something_else_is_nobodys(changes: dict[str, Any]) -> None:
    cluster = Cluster(member("a"), member("b"))
    assert await cluster.believes("b", forge(KEYS["a"])) is not None
    assert await cluster.believes("b", forge(KEYS["a"], **changes)) is None


async def test_a_token_is_good_for_a_minute_and_a_new_one_is_made_before_that() -> None:
    cluster = Cluster(member("a"))
    first = cluster.workers["a"].token()
    cluster.now_us["a"] += RENEW_S * 1_000_000 - 1
    assert cluster.workers["a"].token() == first
    assert await cluster.believes("a", first) is not None
    cluster.now_us["a"] += 1
    assert cluster.workers["a"].token() != first
    cluster.now_us["b"] += 2 * LIFE_S * 1_000_000  # the clocks may differ by as much as the issuer's may
    assert await cluster.believes("b", first) is None


async def test_a_clock_that_goes_back_makes_a_new_token_that_is_taken() -> None:
    cluster = Cluster(member("a"))
    cluster.now_us["a"] += 600 * 1_000_000
    from_the_future = cluster.workers["a"].token()
    cluster.now_us["a"] = NOON_US
    assert await cluster.believes("b", from_the_future) is None
    assert await cluster.believes("b", cluster.workers["a"].token()) is not None


@given(seed=st.binary(min_size=32, max_size=32), kid=st.sampled_from(NAMES))
async def test_nobody_elses_key_will_do(seed: bytes, kid: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    is_its_own = public_part(key) == public_part(KEYS[kid])
    cluster = Cluster(*map(member, NAMES))
    assert (await cluster.believes("b", forge(key, kid, sub=kid)) is not None) == is_its_own


@given(seed=st.binary(min_size=32, max_size=32))
def test_the_public_part_says_all_of_the_key_and_nothing_else(seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    read = jwt.PyJWK({"kty": "OKP", "crv": "Ed25519", "x": public_part(key)}, "EdDSA")
    assert read.key.public_bytes_raw() == key.public_key().public_bytes_raw()


@given(st.integers(0, 10**6), st.sampled_from(range(256)))
async def test_a_token_that_was_changed_is_nobodys(place: int, byte: int) -> None:
    cluster = Cluster(member("a"))
    token = cluster.workers["a"].token().encode()
    at = place % token.rindex(b".")  # what is signed; the signature's own last character has bits to spare
    changed = token[:at] + bytes([byte]) + token[at + 1 :]
    assert (await cluster.workers["b"].principal_of(changed) is not None) == (changed == token)


async def test_a_worker_that_is_not_among_the_members_is_looked_for() -> None:
    looked: list[str] = []
    asked = Credentials("a", KEYS["a"], list, lambda: NOON_US, lambda: looked.append("a"))
    stranger = Credentials("b", KEYS["b"], list, lambda: NOON_US)
    assert await asked.principal_of(stranger.token().encode()) is None
    assert await asked.principal_of(b"no token") is None
    assert looked == ["a"]
