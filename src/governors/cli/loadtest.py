"""`governors loadtest`: a load of many tenants on a service, measured and held against limits."""

import asyncio
import contextlib
import os
import random
import sys
import time
from typing import Annotated, Any, Final

import httpx
import typer

from governors.cli.client import DEFAULT_URL, TOKEN_VARIABLE, Url, Wait
from governors.cli.load_figures import Figures, Limits
from governors.cli.load_plan import Load
from governors.cli.load_run import GIVE_UP_S, LoadError, LoadRun, client_of
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json, print_table

PROGRESS_S: Final = 1.0
PROGRESS_S_FILE: Final = 10.0


def loadtest(
    url: Url = DEFAULT_URL,
    tenants: Annotated[int, typer.Option(min=1, max=9_999, help="Tenants.")] = 100,
    rate: Annotated[float, typer.Option(min=0.1, max=1e6, help="Signals a second, of all tenants together.")] = 1_000.0,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long.")] = 60.0,
    connections: Annotated[int, typer.Option(min=1, max=200, help="Connections, each with some tenants.")] = 10,
    wait: Annotated[Wait, typer.Option(help="How durable receipts shall be before the answer.")] = Wait.LOCAL,
    p99_ms: Annotated[float, typer.Option(help="Limit: milliseconds for 99 of 100 answers.")] = 100.0,
    rss_mb: Annotated[float, typer.Option(help="Limit: resident memory of the service.")] = 600.0,
    rss_growth_mb: Annotated[float, typer.Option(help="Limit: how much memory may grow after warming up.")] = 100.0,
    give_up: Annotated[float, typer.Option(help="Seconds for which a request is sent again.")] = GIVE_UP_S,
    prefix: Annotated[str, typer.Option(help="Beginning of the tenants' names.")] = "loadtest-",
    as_json: AsJson = False,
) -> None:
    """Send a load, and hold what comes of it against limits.

    The time of an answer counts from when its signals were due, also where a slow answer held them up. What is not
    answered is sent again under the same id. At the end every signal is looked for among the receipts: lost is what was
    not answered or has none, a duplicate is what was decided twice. A machine that is lost takes along what it had
    answered with `local` durability and not committed yet; with --wait committed nothing may be lost by that either.

    Decisions about these tenants are real ones, with receipts, and with actions where some are configured. The token
    needs the roles `ingest` and `read`, and `admin` where the tenants are to be made.

    Exit 0: within all limits. 1: past one, which is named. 2: the test could not be made.

    Example: governors loadtest --tenants 100 --rate 1000 --seconds 60
    """
    run = os.urandom(4).hex()  # noqa: TID251 - the command line names the entropy, as the service's root does
    load = Load(tenants, rate, seconds, connections, run, prefix)
    try:
        figures = asyncio.run(measure(url, load, give_up, wait))
    except (LoadError, httpx.HTTPError, httpx.InvalidURL) as error:
        fail(f"{url}: {error}")
    except ExceptionGroup as error:
        fail(f"{url}: {_first(error)}")
    report = figures.report(Limits(p99_ms, rss_mb, rss_growth_mb))
    if as_json:
        print_json(report)
    else:
        _print(report)
    if not report["ok"]:
        raise typer.Exit(EXIT_BAD)


async def measure(url: str, load: Load, give_up_s: float = GIVE_UP_S, wait: Wait = Wait.LOCAL) -> Figures:
    """Send it, tell how far it is, and look back. Raises LoadError."""
    rng = random.Random(load.run)
    async with client_of(url, os.environ.get(TOKEN_VARIABLE, ""), load.lanes) as client:
        one = LoadRun(client, load, _now_us, rng, give_up_s, str(wait))
        await one.prepare()
        telling = asyncio.create_task(_tell(one.figures, load))
        try:
            await one.send()
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling
        await one.look_back()
        return one.figures


def _now_us() -> int:
    return time.time_ns() // 1_000  # noqa: TID251 - a command line is a composition root too


async def _tell(figures: Figures, load: Load) -> None:
    """Progress, in place on a terminal and as lines in a file."""
    is_terminal = sys.stderr.isatty()
    begun_s = asyncio.get_running_loop().time()
    while True:
        await asyncio.sleep(PROGRESS_S if is_terminal else PROGRESS_S_FILE)
        elapsed_s = asyncio.get_running_loop().time() - begun_s
        memory = f", {figures.rss_mb[-1]:.0f} MB" if figures.rss_mb else ""
        line = (
            f"{elapsed_s:.0f} of {load.seconds:.0f} s: {figures.answered:,} of {load.total:,} answered, "
            f"p99 {figures.quantile_ms(0.99)} ms, {figures.again} sent again{memory}"
        )
        sys.stderr.write(f"\r{line:<100}" if is_terminal else line + "\n")
        sys.stderr.flush()


def _first(group: ExceptionGroup) -> BaseException:
    one: BaseException = group
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


def _print(report: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    limits = report["limits"]
    rows = [
        ("signals a second", f"{report['reached_per_s']:,}", f"{limits['rate_per_s']:,} or more"),
        ("sent, answered", f"{report['sent']:,}, {report['answered']:,}", ""),
        ("lost", f"{report['lost']:,}", "0"),
        ("decided twice", f"{report['duplicates']:,}", "0"),
        ("p50 ms", f"{report['p50_ms']}", ""),
        ("p99 ms", f"{report['p99_ms']}", f"{limits['p99_ms']:g}"),
        ("p99.9 ms", f"{report['p999_ms']}", ""),
        ("sender late, p99 ms", f"{report['sender_late_p99_ms']}", ""),
    ]
    if report["rss_mb_start"] is not None:
        grown = report["rss_mb_end"] - report["rss_mb_start"]
        rows.append(("memory MB", f"{report['rss_mb_end']}", f"{limits['rss_mb']:g}"))
        rows.append(("grown by MB", f"{grown:.1f}", f"{limits['rss_growth_mb']:g}"))
    print_table(("", "MEASURED", "LIMIT"), rows)
    for governor, states in report["states"].items():
        print(f"{governor}: {', '.join(states)}")
    if not report["receipts_checked"]:
        print("receipts were not looked at: the token may not read them")
    for sentence in report["past"]:
        print(f"past its limit: {sentence}")
    print("within all limits" if report["ok"] else "past its limits")
