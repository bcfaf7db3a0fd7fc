"""`governors drain`: have a worker hand over everything that it has, as before its machine goes."""

import time
from typing import Annotated, Any, Final

import httpx
import typer

from governors.cli.client import DEFAULT_URL, Url, answer_of, service_at
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json

LOOK_S: Final = 0.5
PATH: Final = "/v1/cluster/drain"


def drain(
    url: Url = DEFAULT_URL,
    undo: Annotated[bool, typer.Option("--undo", help="Take part again.")] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, max=3_600, help="Seconds to wait until it has none.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Have the worker at --url hand over all its partitions, and take no more until --undo or its next start.

    Each goes to a worker that stands by for it, within a second or two; what nobody stands by for stays. The worker
    goes on answering meanwhile and afterwards: it hands on what it is asked. SIGTERM does the same before it ends.

    Exit 0: others have them all, or it takes part again. 1: they have not, or there is no other worker. 2: it could
    not be asked.

    Example: governors drain --url https://governors-0.example.com:8080
    """
    with service_at(url) as client:
        if undo:
            _tell(answer_of(client.delete(PATH)), as_json=as_json)
            return
        view = answer_of(client.post(PATH))
        give_up_s = time.monotonic() + wait_s
        while _left(view) and time.monotonic() < give_up_s:
            time.sleep(LOOK_S)
            view = _look(client) or view
    _tell(view, as_json=as_json)
    if _left(view):
        fail(f"after {wait_s:g} s not all partitions have another worker", EXIT_BAD)


def _look(client: httpx.Client) -> Any:
    """The cluster as the worker sees it; None where it could not say."""
    try:
        response = client.get("/v1/cluster")
    except httpx.TransportError:
        return None
    return answer_of(response) if response.is_success else None


def _owned(view: Any) -> list[int]:
    return [one["partition"] for one in view["partitions"] if one["owner"] == view["worker"]]


def _left(view: Any) -> list[int]:
    """Those that it has still, or that nobody has yet."""
    return [one["partition"] for one in view["partitions"] if one["owner"] in {view["worker"], None}]


def _tell(view: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    owned = ", ".join(map(str, _owned(view))) or "none"
    print(f"{view['worker']} has partitions: {owned}")
