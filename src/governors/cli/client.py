"""Commands that talk to a running service: `send`, `tail`, `tenants`, `receipts`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import orjson
import typer

from governors.cli.output import EXIT_BAD, fail, print_json, print_table

TIMEOUT_S: Final = 30.0
Url = Annotated[str, typer.Option(envvar="GOVERNORS_URL", help="Address of the service.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document (tail: one to a line).")]
DEFAULT_URL: Final = "http://127.0.0.1:8080"


@contextmanager
def _service(url: str) -> Iterator[httpx.Client]:
    """A client whose failures end the command with a sentence."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        try:
            yield client
        except httpx.HTTPError as error:
            fail(f"{url} cannot be asked: {error}")


def _answer(response: httpx.Response) -> Any:
    """The answer's document; ends the command where it is a problem."""
    document = orjson.loads(response.content)
    if response.is_error:
        field = f" ({document['field']})" if document.get("field") else ""
        fail(f"{document.get('title', response.status_code)}{field}: {document.get('detail', '')}", EXIT_BAD)
    return document


def send(
    source: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Signals: one, an array or NDJSON. - or none: stdin.")
    ] = None,
    url: Url = DEFAULT_URL,
    wait: Annotated[str, typer.Option(help="Answer when `local` durable, or when `committed`.")] = "local",
    as_json: AsJson = False,
) -> None:
    """Send signals and print what was decided.

    Ends with 1 where a signal was rejected.

    Example: governors send signals.ndjson
    """
    try:
        body = sys.stdin.buffer.read() if source is None or str(source) == "-" else source.read_bytes()
    except OSError as error:
        fail(f"{source}: {error.strerror}")
    media_type = "application/json" if _is_one_document(body) else "application/x-ndjson"
    with _service(url) as client:
        response = client.post("/v1/signals", content=body, params={"wait": wait}, headers={"content-type": media_type})
    results = _answer(response)["results"]
    if as_json:
        print_json({"results": results})
    else:
        for result in results:
            print(_sentence(result))
    if any(result["outcome"] == "rejected" for result in results):
        raise typer.Exit(EXIT_BAD)


def tail(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also decisions that changed nothing.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Print decisions as they are taken, until interrupted.

    Example: governors tail --tenant acme
    """
    params = {"all": "true"} if every else {}
    if tenant is not None:
        params["tenant"] = tenant
    with _service(url) as client, client.stream("GET", "/v1/stream", params=params, timeout=None) as response:
        if response.is_error:
            response.read()
            _answer(response)
        try:
            for line in response.iter_lines():
                if not line.startswith("data: "):
                    continue
                document = line.removeprefix("data: ")
                print(document if as_json else _sentence(orjson.loads(document)), flush=True)
        except KeyboardInterrupt:
            return


def tenants(
    tenant: Annotated[str | None, typer.Argument(help="One tenant, with its machines. Default: all.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the tenants, or show one with its machines and why they are where they are.

    Example: governors tenants acme
    """
    with _service(url) as client:
        if tenant is not None:
            one = _answer(client.get(f"/v1/tenants/{tenant}"))
            if as_json:
                print_json(one)
            else:
                _print_tenant(one)
            return
        listed = list(_pages(client, "/v1/tenants", "tenants"))
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

    Example: governors receipts acme --limit 20
    """
    with _service(url) as client:
        page = _answer(client.get(f"/v1/tenants/{tenant}/receipts", params={"after": after, "limit": limit}))
    if as_json:
        print_json(page)
        return
    rows = []
    for entry in page["receipts"]:
        receipt = entry["receipt"]
        fsm = receipt["fsm"]
        moved = fsm["to"] if fsm["from"] == fsm["to"] else f"{fsm['from']} -> {fsm['to']}"
        rows.append((str(entry["index"]), fsm["machine"], fsm["subject"], fsm["event"], receipt["decision"], moved))
    print_table(("INDEX", "MACHINE", "SUBJECT", "EVENT", "DECISION", "STATE"), rows)


def _pages(client: httpx.Client, path: str, key: str) -> Iterator[dict[str, Any]]:
    after: Any = None
    while True:
        page = _answer(client.get(path, params={} if after is None else {"after": after}))
        yield from page[key]
        after = page["next"]
        if after is None:
            return


def _is_one_document(body: bytes) -> bool:
    """Whether the body is one JSON document, an array or an object, and not a line for each."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def _sentence(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result.get('id') or '?'}: rejected: {result['error'].get('field', '')} {result['error']['detail']}"
    where = f"{result['tenant']} {result['governor']}/{result['subject']}"
    state, before = result["state"], result["previous_state"]
    moved = state if state == before else f"{before} -> {state}"
    return f"{result['receipt']}  {where}: {result['outcome']} {result['decision']}, {moved}: {result['reason']}"


def _print_tenant(one: dict[str, Any]) -> None:
    print(f"{one['tenant']}: {one['state']} (entitlement {one['entitlement']}, profile {one['profile']})")
    for machine in one["machines"]:
        print(f"  {machine['governor']}/{machine['subject']}: {machine['state']} since {machine['since']}")
        print(f"    {machine['reason']}")
        for action in machine["open_actions"]:
            print(f"    open action {action['id']}: {action['kind']}")
