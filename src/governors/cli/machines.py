"""`governors machines`: the machines of this program as a document."""

import msgspec
import typer

from governors.cli.output import AsJson, print_json
from governors.machines.catalog import GOVERNORS
from governors.machines.diagram import describe, document


def machines(*, as_json: AsJson = False) -> None:
    """Print the machines as Markdown: a diagram of each, and the sentences of its rules.

    Example: governors machines --json
    """
    if as_json:
        print_json(msgspec.to_builtins([describe(governor) for governor in GOVERNORS]))
    else:
        typer.echo(document(), nl=False)
