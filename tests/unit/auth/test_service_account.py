"""Whose word a push is believed on."""

from typing import Any

import pytest

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
