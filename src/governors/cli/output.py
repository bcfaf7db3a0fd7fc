"""How commands speak: plain text for people, one JSON document with `--json`, exit codes for scripts."""

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer

EXIT_BAD: Final = 1  # it was checked, or asked, and the answer is no
EXIT_NOT_DONE: Final = 2  # it could not be checked or asked

AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]


def print_json(document: Any) -> None:
    """One document, indented on a terminal."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.write(orjson.dumps(document, option=option).decode() + "\n")
    sys.stdout.flush()


def fail(message: str, code: int = EXIT_NOT_DONE) -> NoReturn:
    """Say on standard error what is wrong, and end."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
