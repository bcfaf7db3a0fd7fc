"""`governors replay`: take the decisions of a log again, without trusting, or asking, whoever took them."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from governors.cli.output import EXIT_BAD, EXIT_NOT_DONE, AsJson, fail, print_json
from governors.memory import prepare_memory, settle_memory
from governors.replay.findings import MISMATCHES_MAX
from governors.replay.folder import Report, replay_folder
from ledger.errors import LedgerError

UNKNOWN_SHOWN: Final = 20


def replay(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The data folder, or the ledger folder in it.")],
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many processes share the work. Default: one for each processor.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the log is published, with what stands for segments that were dropped. Default: the folder "
            "store in the data folder.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take every decision of a log again, from its payload, and compare the receipts byte for byte.

    Needs no key and no running service, and changes nothing. It shows that the decisions follow from the signals and
    the policies in the log; that the log itself is whole is what `governors verify log` shows.

    Exit 0: every receipt came out as it is stored. 1: some did not, each is named. 2: not all of it could be replayed.

    Example: governors replay ./data
    """
    prepare_memory()
    settle_memory()
    progress = _progress if sys.stderr.isatty() and not as_json else None
    try:
        report = replay_folder(folder, progress, processes=processes or len(os.sched_getaffinity(0)), store=store)
    except (LedgerError, OSError) as error:
        fail(f"could not replay: {error}")
    if as_json:
        print_json(report.as_dict())
    else:
        _tell(report)
    if report.mismatched:
        raise typer.Exit(EXIT_BAD)
    if not report.ok:
        raise typer.Exit(EXIT_NOT_DONE)


def _tell(report: Report) -> None:
    for one in report.partitions:
        for note in one.notes:
            print(f"note: {note}")
        for lost in one.unknown[:UNKNOWN_SHOWN]:
            print(f"not replayed: tenant {lost.tenant} from receipt {one.partition}:{lost.index} on: {lost.reason}")
        if len(one.unknown) > UNKNOWN_SHOWN:
            print(f"not replayed: {len(one.unknown) - UNKNOWN_SHOWN} more tenants")
        for found in one.mismatches:
            print(f"mismatch: receipt {one.partition}:{found.index} of tenant {found.tenant}")
            for difference in found.differences:
                print(f"    {difference.field}: {difference.stored!r}, recomputed {difference.recomputed!r}")
        if one.mismatched > MISMATCHES_MAX:
            print(f"mismatch: {one.mismatched - MISMATCHES_MAX} more receipts of partition {one.partition}")
    rate = report.receipts / report.seconds if report.seconds > 0 else 0.0
    if report.mismatched:
        verdict = f"BAD: {report.mismatched} receipts differ"
    else:
        verdict = "good: every receipt came out the same" if report.ok else "incomplete: what was replayed agrees"
    print(f"{verdict}; {report.receipts} receipts in {report.seconds:.2f} s ({rate:,.0f}/s)")


def _progress(partition: int, receipts: int, segments_left: int) -> None:
    typer.echo(f"partition {partition}: {receipts:,} receipts, {segments_left} segments to go", err=True)
