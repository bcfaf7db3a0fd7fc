"""`governors config`: what is in force, and who said so."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from governors import settings
from governors.cli.output import EXIT_BAD, AsJson, print_json, print_table
from governors.machines.catalog import BY_NAME
from governors.policies import read_policies
from governors.policy_schema import policy_schema

app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
ConfigPath = Annotated[Path | None, typer.Option("--config", help="The YAML file. Default: none, for a first try.")]


def load_settings(config: Path | None, options: dict[str, Any]) -> settings.Effective:
    """Read the configuration from the file, the environment and `options`; end with every problem it has."""
    try:
        return _load(config, options)
    except settings.SettingsError as error:
        _tell(error)
        raise typer.Exit(EXIT_BAD) from error


def _load(config: Path | None, options: dict[str, Any]) -> settings.Effective:
    policies = {name: governor.policy for name, governor in BY_NAME.items()}
    return settings.load(config, os.environ, options, policies)


def _tell(error: settings.SettingsError) -> None:
    for problem in error.problems:
        typer.echo(f"configuration: {problem}", err=True)


@app.command()
def check(
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Print the effective configuration with the origin of each value; secrets are masked. Checks the policy files too.

    Ends with 1 and one line for each problem where the service would not start.

    Example: governors config check --config governors.yaml
    """
    try:
        effective = _load(config, {})
        read_policies(effective.settings.policies, effective.settings.profiles)
    except settings.SettingsError as error:
        if as_json:
            print_json({"ok": False, "problems": [problem._asdict() for problem in error.problems]})
        else:
            _tell(error)
        raise typer.Exit(EXIT_BAD) from error
    rows = [(row.key, msgspec.to_builtins(row.value, enc_hook=str), row.origin) for row in effective.rows]
    if as_json:
        print_json({"ok": True, "settings": [{"key": k, "value": v, "origin": o} for k, v, o in rows]})
    else:
        print_table(("KEY", "VALUE", "ORIGIN"), [(key, _plain(value), origin) for key, value, origin in rows])


@app.command("schema")
def print_schema(*, as_json: AsJson = False) -> None:  # noqa: ARG001 - it is JSON anyway
    """Print the JSON Schema of policy files, for editors.

    Example: governors config schema
    """
    typer.echo(policy_schema(), nl=False)


def _plain(value: Any) -> str:
    return "-" if value is None else str(value)
