"""`governors ledger snapshot`: spare the next start the reading of the log."""

from pathlib import Path
from typing import Annotated

import typer

from governors.cli.output import AsJson, fail, print_json
from governors.snapshotter import make_snapshot
from ledger.errors import LedgerError


def snapshot(
    data_dir: Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="The data folder.")] = Path("data"),
    partition: Annotated[int, typer.Option(min=0, help="Which part of the log.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a snapshot, so that a start need not read the segments before it.

    The service has one made from time to time; this may run meanwhile. Only sealed segments are read, and nothing is
    changed in them. Exit 0: made, or there is nothing new to put into one. 2: it could not be made.

    Example: governors ledger snapshot --data-dir ./data
    """
    try:
        made = make_snapshot(data_dir, partition)
    except (LedgerError, OSError) as error:
        fail(f"no snapshot was made: {error}")
    if as_json:
        print_json({"snapshot": None if made is None else str(made)})
    else:
        print(made or "there is nothing new")
