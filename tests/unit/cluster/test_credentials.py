"""A worker is believed by what it says of itself in the store, and nobody else is."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from governors.auth.jwt import SKEW_S
from governors.auth.principal import Principal
from governors.cluster.credentials import LIFE_S, RENEW_S, ROLES, Credentials, make_key, public_part
from governors.cluster.workers import LIVE_S, Beat, Member, Workers

NAMES = ("a", "b", "c")
KEYS = {name: make_key(lambda count, name=name: name.encode() * count) for name in NAMES}  # type: ignore[misc]
BEGAN_S = {"a": 5_000.0, "b": 3.0, "c": 40_000_000.0}
"""What the monotonic clock of each says when the test begins: they have nothing to do with each other."""


class Cluster:
    """Workers that hear of each other at once. `now_s` have passed."""

    def __init__(self, *names: str, keys: dict[str, str] | None = None) -> None:
        self.now_s = 0.0
        self.clocks_s = dict(BEGAN_S)
        self.keys = {name: public_part(KEYS[name]) for name in NAMES} | (keys or {})
        self.beats: dict[str, tuple[Beat, float]] = {}
        for name in names:
            self.beat(name)
        self.workers = {
            name: Credentials(name, KEYS[name], self.members, lambda name=name: self.clock_s(name))  # type: ignore[misc]
            for name in NAMES
        }

    def clock_s(self, name: str) -> float:
        return self.clocks_s[name] + self.now_s

    def beat(self, name: str, heard_after_s: float = 0.0) -> None:
        said = Beat(name, f"http://{name}:8080", "01", 1, key=self.keys[name], clock_ms=int(self.clock_s(name) * 1_000))
        self.beats[name] = (said, self.now_s + heard_after_s)

    def members(self) -> list[Member]:
        """All of them were heard of before the test began."""
        return [
            Member(said, self.now_s - at_s, self.now_s - at_s <= LIVE_S, self.now_s + 60.0, goes_on=True)
            for said, at_s in self.beats.values()
        ]

    async def believes(self, asked: str, token: str) -> Principal | None:
        return await self.workers[asked].principal_of(token.encode())


def forge(key: Ed25519PrivateKey, kid: str = "a", algorithm: str = "EdDSA", **changes: Any) -> str:
    now_s = int(BEGAN_S[kid])
    claims = {
        "iss": "governors-worker", "aud": "governors-workers", "sub": "a", "roles": ["ingest"], "iat": now_s,
        "exp": now_s + LIFE_S,
    }  # fmt: skip
    return jwt.encode({**claims, **changes}, key, algorithm, headers={"kid": kid})


async def test_a_worker_that_was_heard_of_is_known_and_may_do_what_workers_do() -> None:
    cluster = Cluster("a", "b")
    found = await cluster.believes("b", cluster.workers["a"].token())
    assert found == Principal("a", frozenset(ROLES), None)


async def test_one_that_was_not_heard_of_or_said_no_key_is_nobody() -> None:
    cluster = Cluster("a", "b", keys={"b": ""})
    assert await cluster.believes("a", cluster.workers["b"].token()) is None
    assert await cluster.believes("a", cluster.workers["c"].token()) is None
    cluster.beat("c")
    assert await cluster.believes("a", cluster.workers["c"].token()) is not None


@pytest.mark.parametrize("nonsense", ["nonsense", "AAAA", "=", "ä", "A" * 1_000])
async def test_a_worker_whose_key_cannot_be_read_is_nobody_and_takes_nobody_with_it(nonsense: str) -> None:
    cluster = Cluster("a", "b", keys={"b": nonsense})
    assert await cluster.believes("b", cluster.workers["a"].token()) is not None
    assert await cluster.believes("a", cluster.workers["b"].token()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "governors"},
        {"iss": "https://issuer.example"},
        {"exp": int(BEGAN_S["a"]) - 61},
        {"iat": int(BEGAN_S["a"]) + 61},
        {"sub": "b"},  # one worker does not speak for another
        {"sub": ""},
    ],
)
async def test_a_token_that_says_something_else_is_nobodys(changes: dict[str, Any]) -> None:
    cluster = Cluster("a", "b")
    assert await cluster.believes("b", forge(KEYS["a"])) is not None
    assert await cluster.believes("b", forge(KEYS["a"], **changes)) is None


async def test_a_token_is_good_for_a_minute_and_a_new_one_is_made_before_that() -> None:
    cluster = Cluster("a")
    first = cluster.workers["a"].token()
    cluster.now_s = RENEW_S - 0.001
    assert cluster.workers["a"].token() == first
    assert await cluster.believes("b", first) is not None
    cluster.now_s = RENEW_S
    assert cluster.workers["a"].token() != first
    cluster.now_s = LIFE_S + SKEW_S
    assert await cluster.believes("b", first) is None


@pytest.mark.parametrize("heard_after_s", [0.0, 5.0, 55.0])
async def test_a_beat_that_takes_its_time_keeps_nobody_out(heard_after_s: float) -> None:
    cluster = Cluster("a")
    cluster.now_s = 100.0
    cluster.beat("a", heard_after_s)
    cluster.now_s += heard_after_s
    assert await cluster.believes("b", cluster.workers["a"].token()) is not None
    old = cluster.workers["a"].token()
    cluster.now_s += LIFE_S + SKEW_S + heard_after_s
    assert await cluster.believes("b", old) is None


@pytest.mark.parametrize("silent_s", [60.0, 3_600.0, 30 * 86_400.0])
async def test_while_no_beats_are_heard_new_tokens_are_believed_and_old_ones_are_not(silent_s: float) -> None:
    cluster = Cluster("a")
    old = cluster.workers["a"].token()
    cluster.now_s = LIFE_S + SKEW_S + silent_s
    assert await cluster.believes("b", cluster.workers["a"].token()) is not None
    assert await cluster.believes("b", old) is None


async def test_what_a_worker_left_that_ended_before_anybody_listened_is_worth_nothing() -> None:
    cluster = Cluster("a")
    said, _ = cluster.beats["a"]
    captured = cluster.workers["a"].token()
    listener = Workers()
    known = Credentials("b", KEYS["b"], lambda: listener.members(cluster.now_s), lambda: 0.0)
    cluster.now_s = 500.0
    listener.hear({"a": said}, cluster.now_s)
    cluster.now_s += LIVE_S + 0.1
    assert await known.principal_of(captured.encode()) is None
    listener.hear({"a": replace(said, number=2, clock_ms=int(cluster.clock_s("a") * 1_000))}, cluster.now_s)
    assert await known.principal_of(captured.encode()) is None, "it was alive after all, and the token is old"
    assert await known.principal_of(cluster.workers["a"].token().encode()) is not None
    cluster.now_s += 3 * LIVE_S  # its beats do not get through, and it goes on
    assert await known.principal_of(cluster.workers["a"].token().encode()) is not None


@pytest.mark.parametrize("suspended", ["a", "b"])
async def test_a_clock_that_stood_still_is_known_again_from_the_next_beat_on(suspended: str) -> None:
    cluster = Cluster("a")
    cluster.now_s = 3_600.0
    cluster.clocks_s[suspended] -= 3_600.0
    if suspended == "b":  # what it heard is as old to it as it was
        said, at_s = cluster.beats["a"]
        cluster.beats["a"] = (said, at_s + 3_600.0)
    assert await cluster.believes("b", cluster.workers["a"].token()) is None
    cluster.beat("a")
    assert await cluster.believes("b", cluster.workers["a"].token()) is not None


@given(seed=st.binary(min_size=32, max_size=32), kid=st.sampled_from(NAMES))
async def test_nobody_elses_key_will_do(seed: bytes, kid: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    is_its_own = public_part(key) == public_part(KEYS[kid])
    cluster = Cluster(*NAMES)
    assert (await cluster.believes("b", forge(key, kid, sub=kid)) is not None) == is_its_own


@given(seed=st.binary(min_size=32, max_size=32))
def test_the_public_part_says_all_of_the_key_and_nothing_else(seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    read = jwt.PyJWK({"kty": "OKP", "crv": "Ed25519", "x": public_part(key)}, "EdDSA")
    assert read.key.public_bytes_raw() == key.public_key().public_bytes_raw()


@given(st.integers(0, 10**6), st.sampled_from(range(256)))
async def test_a_token_that_was_changed_is_nobodys(place: int, byte: int) -> None:
    cluster = Cluster("a")
    token = cluster.workers["a"].token().encode()
    at = place % token.rindex(b".")  # what is signed; the signature's own last character has bits to spare
    changed = token[:at] + bytes([byte]) + token[at + 1 :]
    assert (await cluster.workers["b"].principal_of(changed) is not None) == (changed == token)


async def test_a_worker_that_is_not_among_the_members_is_looked_for() -> None:
    looked: list[str] = []
    asked = Credentials("a", KEYS["a"], list, lambda: 5.0, lambda: looked.append("a"))
    stranger = Credentials("b", KEYS["b"], list, lambda: 5.0)
    assert await asked.principal_of(stranger.token().encode()) is None
    assert await asked.principal_of(b"no token") is None
    assert looked == ["a"]
