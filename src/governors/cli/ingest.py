"""`governors ingest`: how messages of other systems are read."""

import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from governors.cli.config import ConfigPath, load_settings
from governors.cli.message_input import Explained, explain
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from ingest.decode.tenants import Routing

app = typer.Typer(help="See how messages of other systems are read.", no_args_is_help=True)


@app.callback()
def ingest() -> None:
    """See how messages of other systems are read."""


@app.command(name="explain")
def explain_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The message, or several; - is standard input.")],
    config: ConfigPath = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of the message whose bare data FILE is. Several times for several."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a message would be read: its format, whose it is by which rule, and the signal that comes of it.

    FILE holds a Pub/Sub message (as it is pushed, as `gcloud pubsub subscriptions pull --format=json` prints it, or its
    data alone), a notification of Alertmanager, signals, or lines of a dead-letter file. Nothing is sent anywhere.

    Exit 0: all of it can be read. 1: something was rejected, and is named. 2: there was nothing to read.

    Example: governors ingest explain notification.json --config governors.yaml
    """
    routing = Routing(load_settings(config, {}).settings.ingest.routing)
    attributes = dict(_pair(text) for text in attribute or ())
    try:
        given = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}")
    now_us = time.time_ns() // 1000  # noqa: TID251 - a command line is a composition root too
    explained = explain(given, attributes, routing, now_us)
    if not explained:
        fail(f"{file} is empty")
    is_good = all(one.outcome != "rejected" for one in explained)
    if as_json:
        print_json({"ok": is_good, "messages": msgspec.to_builtins(explained)})
    else:
        for number, one in enumerate(explained, start=1):
            print(f"{number}  {told(one)}")
    if not is_good:
        raise typer.Exit(EXIT_BAD)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        fail(f"--attribute {text}: expected NAME=VALUE", EXIT_BAD)
    return name, value


def told(one: Explained) -> str:
    """One message's explanation for people."""
    if one.outcome == "rejected":
        place = f" at {one.field}" if one.field else ""
        return f"{one.form}: rejected, {one.reason}{place}: {one.why}"
    if one.signal is None:
        return f"{one.form}: no signal: {one.why}"
    rule = "as it says itself" if one.rule is None else f"by rule {one.rule} of ingest.routing"
    signal = one.signal
    lines = [
        f"{one.form}: {signal['kind']}",
        f"   tenant    {one.tenant}, {rule}",
        f"   subject   {signal['subject']}",
        f"   observed  {signal['observed_at']}",
        f"   id        {signal['id']} of {signal['source']}",
        f"   data      {msgspec.json.encode(signal['data']).decode()}",
    ]
    if one.assumed:
        lines.append(f"   assumed   {', '.join(one.assumed)}, which comes with a message from Pub/Sub")
    return "\n".join(lines)
