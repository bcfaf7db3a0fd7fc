"""`governors verify`: check receipts without trusting, or asking, whoever wrote them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from ledger import fsck
from ledger.errors import LedgerError

app = typer.Typer(help="Check receipts offline: exit 0 good, 1 bad, 2 could not check.", no_args_is_help=True)


@app.callback()
def verify() -> None:
    """Check receipts offline: exit 0 good, 1 bad, 2 could not check."""


@app.command()
def log(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The data folder, or the ledger folder in it.")],
    as_json: AsJson = False,
) -> None:
    """Check a whole log: every checksum, hash, chain, tree root, commitment and canonical form.

    Needs no key and no running service. Exit 0: all of it holds. 1: it does not, each place is named. 2: it could not
    be checked.

    Example: governors verify log ./data
    """
    try:
        report = fsck.verify_log(folder, _progress if sys.stderr.isatty() and not as_json else None)
    except (LedgerError, OSError) as error:
        fail(f"could not check: {error}")
    if as_json:
        print_json(report.as_dict())
    else:
        for note in report.notes:
            print(f"note: {note}")
        for wrong in report.errors:
            print(f"{wrong.kind}: partition {wrong.partition}, receipt {wrong.index}: {wrong.message}")
            print(f"    {wrong.file}, byte {wrong.offset}")
        for partition in report.partitions:
            print(f"partition {partition.partition}: {partition.size} receipts, root {partition.root}")
        size = f"{report.receipts} receipts of {report.tenants} tenants"
        rate = report.receipts / report.seconds if report.seconds > 0 else 0.0
        verdict = "good" if report.ok else f"BAD: {len(report.errors)} errors"
        print(f"{verdict}: {size} in {report.seconds:.2f} s ({rate:,.0f}/s)")
    if not report.ok:
        raise typer.Exit(EXIT_BAD)


def _progress(partition: int, receipts: int, segments_left: int) -> None:
    typer.echo(f"partition {partition}: {receipts:,} receipts, {segments_left} segments to go", err=True)
