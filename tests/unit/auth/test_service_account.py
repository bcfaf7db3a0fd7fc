"""Whose word a push is believed on."""

import asyncio
import json
import random
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from simulation.loop import SimLoop

from governors.auth.issuer import REFRESH_AGAIN_S, Issuer
from governors.auth.jwt import TokenInvalidError, Trust
from governors.auth.principal import Principal
from governors.auth.service_account import GOOGLE, service_account_of

EMAIL = "push@my-project.iam.gserviceaccount.com"
TRUST = Trust(GOOGLE, "https://governors.example/v1/push/pubsub")
CLAIMS = {"sub": "113774264463038321964", "email": EMAIL, "email_verified": True}


def test_a_verified_account_that_was_configured_may_send_in_for_every_tenant_and_no_more() -> None:
    principal = service_account_of([EMAIL])(CLAIMS, TRUST)
    assert principal == Principal(EMAIL, frozenset({"ingest"}))
    assert not any(principal.may(role) for role in ("read", "operate", "admin", "admit"))


@pytest.mark.parametrize(
    "changes",
    [
        {"email": "push@another-project.iam.gserviceaccount.com"},
        {"email": EMAIL.upper()},
        {"email": None},
        {"email": [EMAIL]},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": 1},
        {"email_verified": None},
        {"roles": ["admin"], "email": "x"},
    ],
)
def test_nobody_else_pushes(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalidError):
        service_account_of([EMAIL])(CLAIMS | changes, TRUST)


def test_a_claim_of_roles_makes_no_difference() -> None:
    assert not service_account_of([EMAIL])(CLAIMS | {"roles": ["admin"]}, TRUST).may("admin")


def test_without_accounts_nobody_pushes() -> None:
    with pytest.raises(TokenInvalidError):
        service_account_of([])(CLAIMS, TRUST)


def test_when_google_begins_to_sign_with_a_new_key_it_is_learned_of() -> None:
    keys = {kid: rsa.generate_private_key(public_exponent=65_537, key_size=2_048) for kid in ("old", "new")}
    published = ["old"]
    now_s = 1_795_341_600

    async def fetch() -> bytes:
        found = []
        for kid in published:
            public: dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(keys[kid].public_key(), as_dict=True)
            found.append(public | {"kid": kid, "use": "sig", "alg": "RS256"})
        return json.dumps({"keys": found}).encode()

    def token(kid: str, **changes: Any) -> bytes:
        claims = CLAIMS | {"iss": GOOGLE, "aud": TRUST.audience, "exp": now_s + 3_600, "iat": now_s} | changes
        return jwt.encode(claims, keys[kid], "RS256", headers={"kid": kid}).encode()

    async def main() -> None:
        clock_us, speaks_for = (lambda: now_s * 1_000_000), service_account_of([EMAIL])
        issuer = Issuer(TRUST, fetch, clock_us, random.Random(7), lambda problem: None, speaks_for)
        found = await issuer.principal_of(token("old"))
        assert found is not None
        assert found.name == EMAIL
        assert await issuer.principal_of(token("old", email="x@y.z")) is None
        published[:] = ["old", "new"]
        await asyncio.sleep(REFRESH_AGAIN_S)
        assert await issuer.principal_of(token("new")) == found
        assert await issuer.principal_of(token("old")) == found, "its tokens live on for an hour"

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())
