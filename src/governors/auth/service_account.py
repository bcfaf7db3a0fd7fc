"""Who pushes for Google Pub/Sub: the service account that its tokens name. Pure.

Source: https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions. The token is an OpenID Connect token of
Google's for an audience of our choice. Anybody with a Google account can have one made for that audience, so what
counts is the account: `email`, which Google must have verified, has to be one that was configured.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from governors.auth.jwt import TokenInvalidError, Trust
from governors.auth.principal import Principal

GOOGLE: Final = "https://accounts.google.com"


def service_account_of(accounts: Iterable[str]) -> Callable[[Mapping[str, Any], Trust], Principal]:
    """How verified claims become the principal of one of these accounts: one that sends in, for whatever tenant."""
    known = frozenset(accounts)

    def speaks_for(claims: Mapping[str, Any], _trust: Trust) -> Principal:
        email = claims.get("email")
        # The text "true" is not the assertion: some issuers of other tokens write it so.
        if not isinstance(email, str) or email not in known or claims.get("email_verified") is not True:
            raise TokenInvalidError("it is of no service account that pushes to us")
        return Principal(email, frozenset({"ingest"}))

    return speaks_for
