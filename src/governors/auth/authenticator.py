"""Who a token belongs to, from whichever of the two sources knows it; and the tasks that keep the sources fresh."""

from governors.auth.issuer import Issuer
from governors.auth.principal import Principal
from governors.auth.token_file import TokenFile


class Authenticator:
    """At least one source. A token file is asked first: it answers without waiting."""

    def __init__(self, tokens: TokenFile | None, issuer: Issuer | None) -> None:
        self._tokens = tokens
        self._issuer = issuer

    async def principal_of(self, token: bytes) -> Principal | None:
        """Whose token it is, None if it is nobody's."""
        if self._tokens is not None and (principal := self._tokens.principal_of(token)) is not None:
            return principal
        return None if self._issuer is None else await self._issuer.principal_of(token)
