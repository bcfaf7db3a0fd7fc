"""`governors demo`: an hour of five tenants, played through a real service at high speed."""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from governors.cli.output import EXIT_BAD, AsJson, fail
from ledger.errors import LedgerError

SPEED_DEFAULT: Final = 180.0
SEED_DEFAULT: Final = 7


def demo(
    speed: Annotated[
        float, typer.Option(min=2.0, metavar="TIMES", help="Times as fast as life: at 180 the hour takes 20 s.")
    ] = SPEED_DEFAULT,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as it goes, some seconds.")] = False,
    seed: Annotated[int, typer.Option(help="Which hour: the same seed plays the same one.")] = SEED_DEFAULT,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the ledger in this folder, which must be empty or new.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Also every adjustment of a limit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Play an hour of five tenants and tell what was decided, and why.

    A training job runs away with the budget, a sale floods a queue, a deploy goes wrong beside one that does not, one
    tenant has not paid, and one is left in peace. The service is a real one, with a ledger of its own in a temporary
    folder and a clock that runs fast; it is asked over HTTP on a free port of this machine. What the tenants do is
    generated from the seed and obeys what is decided. With --json: a line for each event, then a summary.

    Exit 0: the hour came out as it must, and every receipt was verified. 1: it did not. 2: it could not be played.

    Example: governors demo --speed 360 --keep ./demo-data
    """
    # Other commands start without a web server and what it needs.
    from governors.cli.demo_story import JsonTeller, Teller, TextTeller  # noqa: PLC0415
    from governors.demo.play import Play  # noqa: PLC0415
    from governors.demo.stage import StageError  # noqa: PLC0415
    from governors.telemetry.logs import configure_logging  # noqa: PLC0415

    configure_logging("error", "auto", sys.stderr)
    teller: Teller = JsonTeller() if as_json else TextTeller(every=every)
    play = Play(seed, teller.tell, _pace(None if fast else speed, teller.show))
    try:
        with _folder(keep) as folder, teller.telling(play):
            summary = asyncio.run(play.run(folder))
    except (LedgerError, StageError, OSError) as error:
        fail(f"the hour could not be played: {error}")
    teller.end(summary if keep is not None else msgspec.structs.replace(summary, folder=None))
    if not summary.ok:
        raise typer.Exit(EXIT_BAD)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="governors-demo-") as folder:
            yield Path(folder)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        fail(f"{keep} is not empty: the hour needs a ledger of its own")
    yield keep


def _pace(speed: float | None, show: Callable[[int], None]) -> Callable[[int], Awaitable[None]]:
    """Waits until the hour may go on; None: at once."""
    began_s: float | None = None

    async def pace(second: int) -> None:
        nonlocal began_s
        show(second)
        loop = asyncio.get_running_loop()
        began_s = loop.time() if began_s is None else began_s
        if speed is not None:
            await asyncio.sleep(max(0.0, began_s + second / speed - loop.time()))

    return pace
