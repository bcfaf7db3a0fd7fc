"""Commands that talk to a running service: `send`, `tail`, `tenants`, `receipts`."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx
import orjson
import typer

from governors.cli.output import EXIT_BAD, EXIT_NOT_DONE, AsJson, fail, print_json, print_table
from governors.cli.signal_input import Body, bodies

TIMEOUT_S: Final = 40.0
"""Above the 30 s that the service gives a request, so that it is the service that says what took so long."""
CONNECT_S: Final = 5.0
SILENCE_S: Final = 60.0
"""The stream says every 15 s that it is still there."""
TOKEN_VARIABLE: Final = "GOVERNORS_TOKEN"  # noqa: S105 - the name of a variable, no token
"""Where the token is looked for: a command line can be read by every user of a machine, an environment cannot."""
DEFAULT_URL: Final = "http://127.0.0.1:8080"
Url = Annotated[str, typer.Option(envvar="GOVERNORS_URL", metavar="URL", help="Address of the service.")]


class Wait(StrEnum):
    """How durable receipts shall be before the answer."""

    LOCAL = "local"
    COMMITTED = "committed"


@contextmanager
def service_at(url: str) -> Iterator[httpx.Client]:
    """A client whose failures end the command with a sentence."""
    try:
        token = os.environ.get(TOKEN_VARIABLE, "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
        with httpx.Client(base_url=url, headers=headers, timeout=timeout) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error).rstrip(".") or type(error).__name__
        fail(f"{url} cannot be asked: {why}. Is the service running there?")


def answer_of(response: httpx.Response) -> Any:
    """The answer's document; ends the command where it is a problem."""
    try:
        document = orjson.loads(response.content)
        title = document["title"] if response.is_error else ""
    except (orjson.JSONDecodeError, KeyError, TypeError):
        fail(f"{response.url} answers as no such service does: HTTP {response.status_code}")
    if response.is_error:
        field = f" ({document['field']})" if document.get("field") else ""
        # A server's own trouble, or a moment's, says nothing about what was asked.
        code = EXIT_NOT_DONE if response.is_server_error else EXIT_BAD
        fail(f"{title}{field}: {document.get('detail', '')}", code)
    return document


def send(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="One signal, an array or a line for each; or CloudEvents. Default: stdin."),
    ] = None,
    url: Url = DEFAULT_URL,
    wait: Annotated[Wait, typer.Option(help="How durable the receipts shall be before the answer.")] = Wait.LOCAL,
    as_json: AsJson = False,
) -> None:
    """Send signals, and print what was decided about each.

    Many are sent in batches of 1,000, each printed as soon as it is answered. What comes too soon for the service's
    rate limits is sent again when it says.

    Exit 0: each has its outcome. 1: some were rejected, and say why. 2: the service could not be asked.

    Example: governors send signals.ndjson
    """
    sent, rejected = 0, 0
    results: list[dict[str, Any]] = []
    batches = list(bodies(_read(source)))
    total = sum(body.count for body in batches)
    with service_at(url) as client:
        for body in batches:
            answered = _post(client, body, wait)
            sent += body.count
            rejected += sum(result["outcome"] == "rejected" for result in answered)
            if as_json:
                results += answered
            else:
                for result in answered:
                    print(_sentence(result))
            if len(batches) > 1 and sys.stderr.isatty():
                typer.echo(f"{sent:,} of {total:,} signals answered", err=True)
    if as_json:
        print_json({"results": results})
    if rejected:
        raise typer.Exit(EXIT_BAD)


def _read(source: Path | None) -> bytes:
    if source is None or str(source) == "-":
        if sys.stdin.isatty():
            typer.echo("reading signals from the terminal; Ctrl-D ends them", err=True)
        given = sys.stdin.buffer.read()
    else:
        try:
            given = source.read_bytes()
        except OSError as error:
            fail(f"{source}: {error.strerror}")
    if not given.strip():
        fail("there is nothing to send: no signal was given")
    return given


def _post(client: httpx.Client, body: Body, wait: Wait) -> list[dict[str, Any]]:
    """What became of each signal of a body. What comes too soon is sent again when the service said."""
    results: dict[int, dict[str, Any]] = {}
    pending: Sequence[int] = range(body.count)
    while True:
        rest = body.only(pending)
        headers = {"content-type": rest.media_type}
        response = client.post("/v1/signals", content=rest.content, params={"wait": str(wait)}, headers=headers)
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            _rest_s(int(response.headers["retry-after"]), len(pending))
            continue
        answered: list[dict[str, Any]] = answer_of(response)["results"]
        late: dict[int, int] = {}
        for position, result in zip(pending, answered, strict=False):
            if (retry_s := result.get("error", {}).get("retry_after_s")) is not None:
                late[position] = retry_s
            results[position] = result
        if not late:
            # What could not be told apart here may have been several.
            return answered if body.broken else [results[position] for position in range(body.count)]
        pending = list(late)
        _rest_s(max(late.values()), len(late))


def _rest_s(seconds: int, signals: int) -> None:
    typer.echo(f"{signals:,} signals came too soon, and are sent again in {seconds} s", err=True)
    time.sleep(seconds)


def tail(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also decisions that changed nothing.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Print decisions as they are taken, until interrupted.

    With --json one line for each. Exit 0: interrupted. 2: the service could not be asked, or went away.

    Example: governors tail --tenant acme
    """
    params = {"all": "true"} if every else {}
    if tenant is not None:
        params["tenant"] = tenant
    silence = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
    with service_at(url) as client, client.stream("GET", "/v1/stream", params=params, timeout=silence) as response:
        if response.is_error:
            response.read()
            answer_of(response)
        try:
            for line in response.iter_lines():
                if not line.startswith("data: "):
                    continue
                document = line.removeprefix("data: ")
                print(document if as_json else _sentence(orjson.loads(document)), flush=True)
        except KeyboardInterrupt:
            return
    fail("the service has ended the stream")


def tenants(
    tenant: Annotated[str | None, typer.Argument(help="One tenant, with its machines. Default: all.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the tenants, or show one with its machines and why they are where they are.

    Exit 1: the service does not know this tenant. 2: it could not be asked.

    Example: governors tenants acme
    """
    with service_at(url) as client:
        if tenant is not None:
            one = answer_of(client.get(f"/v1/tenants/{quote(tenant, safe='')}"))
            if as_json:
                print_json(one)
            else:
                _print_tenant(one)
            return
        listed = list(pages_of(client, "/v1/tenants", "tenants"))
    if as_json:
        print_json({"tenants": listed, "next": None})
    else:
        print_table(
            ("TENANT", "STATE", "ENTITLEMENT", "PROFILE"),
            [(row["tenant"], row["state"], row["entitlement"], row["profile"]) for row in listed],
        )


def receipts(
    tenant: Annotated[str, typer.Argument(help="Whose receipts.")],
    after: Annotated[int, typer.Option(help="Only those with a greater index.")] = -1,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 100,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List a tenant's receipts, oldest first.

    With --json each has its exact bytes as `leaf` (base64), over which its hash is made. Exit 1: the service does not
    know this tenant. 2: it could not be asked.

    Example: governors receipts acme --limit 20
    """
    with service_at(url) as client:
        page = answer_of(
            client.get(f"/v1/tenants/{quote(tenant, safe='')}/receipts", params={"after": after, "limit": limit})
        )
    if as_json:
        print_json(page)
        return
    rows = []
    for entry in page["receipts"]:
        receipt = entry["receipt"]
        fsm = receipt["fsm"]
        moved = fsm["to"] if fsm["from"] == fsm["to"] else f"{fsm['from']} -> {fsm['to']}"
        machine = (fsm["machine"], fsm["subject"], fsm["event"])
        rows.append((str(entry["index"]), *machine, receipt["outcome"], receipt["decision"], moved))
    print_table(("INDEX", "MACHINE", "SUBJECT", "EVENT", "OUTCOME", "DECISION", "STATE"), rows)
    if page["next"] is not None:
        typer.echo(f"there are more: --after {page['next']}", err=True)


def pages_of(client: httpx.Client, path: str, key: str) -> Iterator[dict[str, Any]]:
    """The entries of all pages of a list."""
    after: Any = None
    while True:
        page = answer_of(client.get(path, params={} if after is None else {"after": after}))
        yield from page[key]
        after = page["next"]
        if after is None:
            return


def _sentence(result: dict[str, Any]) -> str:
    name = result["id"] or ""
    if "error" in result:
        error = result["error"]
        field = f"{error['field']}: " if error["field"] else ""
        return f"{name or '(no id)'}  rejected: {field}{error['detail']}"
    where = f"{result['tenant']} {result['governor']}/{result['subject']}".rstrip("/")
    state, before = result["state"], result["previous_state"]
    moved = state if state == before else f"{before} -> {state}"
    what = " ".join(word for word in (result["outcome"], result["decision"]) if word != "none")
    told = ", ".join(part for part in (what, moved) if part)
    return f"{result['receipt']}  {where}: {told}: {result['reason']}"


def _print_tenant(one: dict[str, Any]) -> None:
    print(f"{one['tenant']}: {one['state']} (entitlement {one['entitlement']}, profile {one['profile']})")
    for machine in one["machines"]:
        blind = ", blind: its signals have stopped coming" if machine["blind"] else ""
        print(f"  {machine['governor']}/{machine['subject']}: {machine['state']} since {machine['since']}{blind}")
        print(f"    {machine['reason']}")
        if machine["deadline"] is not None:
            print(f"    acts by itself at {machine['deadline']}")
        if override := machine["override"]:
            print(
                f"    override {override['mode']} until {override['until']} by {override['by']}: {override['reason']}"
            )
        if withheld := machine["withheld"]:
            until = f" until {withheld['until']}" if withheld["until"] else ""
            print(f"    not asked for is {withheld['kind']}{until}: {withheld['why']}")
        for action in machine["open_actions"]:
            doubt = ", perhaps done" if action["doubtful"] else ""
            print(f"    open action {action['id']}: {action['kind']}, {action['attempts']} attempts in vain{doubt}")
