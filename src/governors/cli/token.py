"""`governors token`: make a token, and the entry by which a token file knows it."""

import os
from typing import Annotated

import typer

from governors.auth.principal import ROLES
from governors.auth.tokens import TOKEN_BYTES, TokenFileError, Tokens, digest_of, new_token
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json


def token(
    name: Annotated[str, typer.Argument(help="Whose token it is: what receipts and logs will say.")],
    role: Annotated[list[str], typer.Option(help=f"What it may do: {', '.join(ROLES)}. Several times for several.")],
    tenant: Annotated[list[str] | None, typer.Option(help="Only for this tenant. Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a bearer token. It is shown once; the token file gets its digest alone.

    Put the entry under `tokens:` in the file that `auth.tokens_file` names. A running service notices within a second.
    Exit 1: an impossible name, role or tenant.

    Example: governors token billing-feed --role ingest --tenant acme
    """
    secret = new_token(os.urandom(TOKEN_BYTES))  # noqa: TID251 - a command line is a composition root too
    entry = [f"  - name: {name}", f"    sha256: {digest_of(secret)}", f"    roles: [{', '.join(role)}]"]
    if tenant:
        entry.append(f"    tenants: [{', '.join(tenant)}]")
    text = "\n".join(entry)
    try:
        Tokens.parse(f"tokens:\n{text}\n")
    except TokenFileError as error:
        fail(str(error).removeprefix("tokens[0]."), EXIT_BAD)
    if as_json:
        print_json({"token": secret, "entry": text})
    else:
        print(f"{secret}\n\n{text}")
