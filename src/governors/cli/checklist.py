"""`governors checklist`: the deployment checklist, looked at line by line."""

import asyncio
import importlib.metadata
import json
import os
import sys
import time
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from governors.checklist.place import Object, Place
from governors.checklist.plan import Answered, answer, lines_of
from governors.checklist.report import markdown, plain
from governors.checklist.verdict import CannotLookError, Status
from governors.cli.client import TOKEN_VARIABLE
from governors.cli.config import ConfigPath
from governors.cli.load_figures import Limits
from governors.cli.load_plan import Load
from governors.cli.load_run import LoadError
from governors.cli.loadtest import measure
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from ingest.signals import format_time

TIMEOUT: Final = httpx.Timeout(40.0, connect=5.0)
SAID: Final = {"pass": "passed", "fail": "failed", "skip": "skipped", "sign": "to be signed"}
LIMITS: Final = Limits(p99_ms=100.0, rss_mb=600.0, rss_growth_mb=100.0)


class Environment(StrEnum):
    """Which overlay."""

    STAGING = "staging"
    PRODUCTION = "production"


def checklist(
    phase: Annotated[
        int, typer.Option(min=1, max=4, help="1: before, 2: on staging, 3: on production, 4: a week later.")
    ],
    env: Annotated[Environment, typer.Option(help="Which environment.")],
    url: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A service; several times for several pods.")
    ] = None,
    checkout: Annotated[
        Path, typer.Option(metavar="DIR", help="The project's checkout, with deploy/ and docs/.")
    ] = Path(),
    config: ConfigPath = None,
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="A Prometheus that scrapes the service.")
    ] = None,
    project: Annotated[str, typer.Option(help="Google project. Default: its lines are skipped.")] = "",
    vkey: Annotated[str, typer.Option(metavar="KEY", help="The log's verifier key, to verify a receipt with.")] = "",
    load: Annotated[
        bool, typer.Option("--load", help="Send the load of 2.5: 100 tenants, 1,000 signals/s, 60 s.")
    ] = False,
    load_report: Annotated[Path | None, typer.Option(metavar="FILE", help="What loadtest --json has printed.")] = None,
    staging_report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What this printed with --json for phase 2 on staging.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the Markdown report is written.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at every line of the deployment checklist, and write the report that people sign.

    Each line is passed, failed, skipped with what it would need, or left to be signed by a person. Lines about a
    service send a few signals of the reserved tenant `checklist`: the token in GOVERNORS_TOKEN needs the role `admin`.

    Exit 0: no line failed. 1: some did. 2: it could not be begun.

    Example: governors checklist --phase 2 --env staging --url https://governors.governors-staging.svc:8443
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with ExitStack() as stack:
        try:
            services = tuple(
                stack.enter_context(httpx.Client(base_url=one, headers=headers, timeout=TIMEOUT)) for one in url or ()
            )
            watched = stack.enter_context(httpx.Client(base_url=prometheus, timeout=TIMEOUT)) if prometheus else None
        except httpx.InvalidURL as error:
            fail(str(error))
        place = Place(
            env=str(env),
            checkout=checkout,
            services=services,
            prometheus=watched,
            google=_google(stack) if project else None,
            project=project,
            vkey=vkey,
            config=config,
            staging_report=staging_report,
            load=_load(url, load_report, wanted=load and phase == 2),
            now_us=_now_us,
            sleep=time.sleep,
        )
        answered = []
        for line in lines_of(phase):
            answered.append(Answered(line, answer(line, place)))
            if not as_json:
                _tell(answered[-1])
    at, version = format_time(_now_us()).partition(".")[0].rstrip("Z") + "Z", importlib.metadata.version("governors")
    made = plain(answered, phase, str(env), at, version)
    if report is not None:
        try:
            report.write_text(markdown(made), encoding="utf-8")
        except OSError as error:
            fail(f"{report}: {error.strerror}")
    if as_json:
        print_json(made)
    else:
        counts = made["counts"]
        print("\n" + ", ".join(f"{counts[status]} {said}" for status, said in SAID.items()))
    if not made["ok"]:
        raise typer.Exit(EXIT_BAD)


def _load(urls: list[str] | None, report: Path | None, *, wanted: bool) -> Object | None:
    """The figures of a load: of a report, or of one that is sent now."""
    if report is not None:
        try:
            read: Object = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            fail(f"{report}: {error}")
        return read
    if not wanted:
        return None
    if not urls:
        fail("--load needs --url")
    run = os.urandom(4).hex()  # noqa: TID251 - the command line names the entropy, as the service's root does
    asked_for = Load(tenants=100, rate_per_s=1_000.0, seconds=60.0, connections=10, run=run, prefix="loadtest-")
    try:
        return asyncio.run(measure(urls[0], asked_for)).report(LIMITS)
    except (LoadError, httpx.HTTPError) as error:
        fail(f"the load cannot be sent: {error}")


def _google(stack: ExitStack) -> httpx.Client | None:
    """A client that asks in the name of whoever runs this; None without credentials."""
    from governors.checklist.looks_project import credentials_of  # noqa: PLC0415 - Google's library is slow to import

    try:
        credentials: Any = credentials_of()
    except CannotLookError:
        return None

    def sign(request: httpx.Request) -> None:
        import google.auth.transport.requests  # noqa: PLC0415 - as above

        if not credentials.valid:
            credentials.refresh(google.auth.transport.requests.Request())
        request.headers["Authorization"] = f"Bearer {credentials.token}"

    return stack.enter_context(httpx.Client(timeout=TIMEOUT, event_hooks={"request": [sign]}))


def _now_us() -> int:
    return time.time_ns() // 1_000  # noqa: TID251 - a command line is a composition root too


def _tell(one: Answered) -> None:
    colour = {Status.PASS: "green", Status.FAIL: "red", Status.SKIP: "yellow", Status.SIGN: "cyan"}[one.verdict.status]
    mark = typer.style(f"{one.verdict.status:<5}", fg=colour) if sys.stdout.isatty() else f"{one.verdict.status:<5}"
    print(f"{mark} {one.line.name:<8} {one.line.text}: {one.verdict.seen}", flush=True)
