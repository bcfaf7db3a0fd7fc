"""`governors`: the entry point that gathers the commands."""

import importlib.metadata

import typer

from governors.cli import (
    actions,
    checklist,
    client,
    config,
    demo,
    drain,
    ingest,
    ledger,
    loadtest,
    machines,
    operate,
    pubsub,
    replay,
    restore,
    serve,
    snapshot,
    token,
    verify,
)

app = typer.Typer(
    name="governors",
    help="Per-tenant governors whose every decision leaves a receipt that anybody can verify.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # else the lines of a help text break where they break in the source
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(importlib.metadata.version("governors"))
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Per-tenant governors whose every decision leaves a receipt that anybody can verify."""


app.command()(serve.serve)
app.command()(demo.demo)
app.command()(client.send)
app.command()(client.tail)
app.command()(client.tenants)
app.command()(client.receipts)
app.command()(operate.override)
app.command()(operate.approvals)
app.command()(operate.approve)
app.command()(operate.refuse)
app.command("emergency-stop")(operate.emergency_stop)
app.command()(operate.resume)
app.command()(operate.policies)
app.command()(actions.actions)
app.command()(actions.retry)
app.command()(actions.abandon)
app.command()(drain.drain)
app.command()(replay.replay)
app.command()(loadtest.loadtest)
app.command()(checklist.checklist)
app.command()(restore.restore)
app.command()(token.token)
app.command()(machines.machines)
app.add_typer(verify.app, name="verify")
ledger.app.command()(snapshot.snapshot)
app.add_typer(ledger.app, name="ledger")
app.add_typer(config.app, name="config")
app.add_typer(pubsub.app, name="pubsub")
app.add_typer(ingest.app, name="ingest")


def main() -> None:
    """Run the command line."""
    app()
