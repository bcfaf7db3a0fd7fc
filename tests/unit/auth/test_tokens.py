import hashlib

import pytest

from governors.auth.principal import LOCAL, ROLES, Principal
from governors.auth.tokens import TOKEN_BYTES, TokenFileError, Tokens, digest_of, new_token

NOW_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
TOKEN = new_token(bytes(range(TOKEN_BYTES)))


def one(**fields: str) -> str:
    entry = {"name": "feed", "sha256": digest_of(TOKEN), "roles": "[ingest]"} | fields
    lines = [f"{key}: {value}" for key, value in entry.items()]
    return "tokens:\n  - " + "\n    ".join(lines) + "\n"


def test_a_token_is_known_by_its_digest_alone() -> None:
    tokens = Tokens.parse(one(tenants="[acme, globex]"))

    principal = tokens.principal_of(TOKEN.encode(), NOW_US)

    assert principal == Principal("feed", frozenset({"ingest"}), frozenset({"acme", "globex"}))
    assert digest_of(TOKEN) == hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"gov_",
        TOKEN.encode()[:-1],
        TOKEN.encode() + b"A",
        TOKEN.encode().upper(),
        TOKEN.encode() + b"\n",
        b" " + TOKEN.encode(),
        digest_of(TOKEN).encode(),
        b"\xff" * 40,
        b"A" * 100_000,
    ],
)
def test_nothing_else_is_a_token(token: bytes) -> None:
    tokens = Tokens.parse(one())
    assert tokens.principal_of(token, NOW_US) is None
    assert tokens.principal_of(TOKEN.encode(), NOW_US) is not None
    assert tokens.principal_of(token, NOW_US) is None, "it was taken for the one that was shown before"


def test_a_token_is_the_same_principals_each_time_that_it_is_shown() -> None:
    tokens = Tokens.parse(one())
    assert len({id(tokens.principal_of(TOKEN.encode(), NOW_US)) for _ in range(3)}) == 1


def test_of_what_is_no_token_nothing_is_kept() -> None:
    tokens = Tokens.parse(one())
    for number in range(100):
        assert tokens.principal_of(f"gov_{number:032}".encode(), NOW_US) is None
    tokens.principal_of(TOKEN.encode(), NOW_US)
    assert len(tokens._shown) == 1


def test_a_token_ends_at_its_expiry_and_not_before() -> None:
    tokens = Tokens.parse(one(expires="2026-11-22T10:00:00Z"))

    assert tokens.principal_of(TOKEN.encode(), NOW_US - 1) is not None
    assert tokens.principal_of(TOKEN.encode(), NOW_US) is None


def test_two_tokens_of_one_name_hold_side_by_side_while_one_is_rotated() -> None:
    successor = new_token(bytes(TOKEN_BYTES))
    text = one() + f"  - {{name: feed, sha256: {digest_of(successor)}, roles: [ingest]}}\n"

    tokens = Tokens.parse(text)

    assert [tokens.principal_of(each.encode(), NOW_US) for each in (TOKEN, successor)] == [
        Principal("feed", frozenset({"ingest"}))
    ] * 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the file"),
        ("tokens: [", "not YAML"),
        ("tokens: []\nother: 1", "other"),
        (one(roles="[root]"), "roles"),
        (one(roles="[]"), "roles"),
        (one(sha256="abc"), "sha256"),
        (one(sha256=digest_of("")), "sha256"),
        (one(tenants="[]"), "tenants"),
        (one(tenants="['a/b']"), "tenants"),
        (one(expires="2026-11-22T10:00:00"), "expires"),
        (one(expires="tomorrow"), "expires"),
        (one(name="''"), "name"),
        (one(token="secret"), "token"),
        (one() + one().removeprefix("tokens:\n"), "tokens[1].sha256"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(text: str, place: str) -> None:
    with pytest.raises(TokenFileError, match=r".") as refused:
        Tokens.parse(text)

    assert place in str(refused.value)


def test_a_role_may_what_it_includes_and_nothing_more() -> None:
    may = {role: {other for other in ROLES if Principal("x", frozenset({role})).may(other)} for role in ROLES}

    assert may == {
        "ingest": {"ingest"},
        "admit": {"admit"},
        "read": {"read"},
        "operate": {"operate", "read"},
        "admin": set(ROLES),
    }


def test_without_a_scope_every_tenant_is_seen_and_with_one_only_those() -> None:
    assert LOCAL.sees("acme")
    assert Principal("x", frozenset(), frozenset({"acme"})).sees("acme")
    assert not Principal("x", frozenset(), frozenset({"acme"})).sees("globex")
    assert not Principal("x", frozenset(), frozenset()).sees("acme")


def test_new_tokens_carry_all_of_their_entropy() -> None:
    assert new_token(b"\0" * TOKEN_BYTES) != new_token(b"\0" * (TOKEN_BYTES - 1) + b"\1")
    assert new_token(b"\xff" * TOKEN_BYTES).startswith("gov_")
