"""`governors`: the entry point that gathers the commands."""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from typing import Final

import typer

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "serve:serve",
    "demo": "demo:demo",
    "send": "client:send",
    "tail": "client:tail",
    "tenants": "client:tenants",
    "receipts": "client:receipts",
    "override": "operate:override",
    "approvals": "operate:approvals",
    "approve": "operate:approve",
    "refuse": "operate:refuse",
    "emergency-stop": "operate:emergency_stop",
    "resume": "operate:resume",
    "policies": "operate:policies",
    "actions": "actions:actions",
    "retry": "actions:retry",
    "abandon": "actions:abandon",
    "drain": "drain:drain",
    "replay": "replay:replay",
    "loadtest": "loadtest:loadtest",
    "checklist": "checklist:checklist",
    "restore": "restore:restore",
    "token": "token:token",
    "machines": "machines:machines",
    "verify": "verify:app",
    "ledger": "ledger:app",
    "config": "config:app",
    "pubsub": "pubsub:app",
    "ingest": "ingest:app",
}
"""Each command, in the order of the help: a module beside this one, and the function or the group of commands in it."""


def command_line(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands. Each costs the time that its imports take."""
    app = typer.Typer(
        name="governors",
        help="Per-tenant governors whose every decision leaves a receipt that anybody can verify.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # else the lines of a help text break where they break in the source
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(importlib.import_module(f"governors.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def main() -> None:
    """Run the command line."""
    named = sys.argv[1:2]
    command_line(named if named and named[0] in COMMANDS else COMMANDS)()


def _version(value: bool) -> None:
    if value:
        print(importlib.metadata.version("governors"))
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Per-tenant governors whose every decision leaves a receipt that anybody can verify."""
