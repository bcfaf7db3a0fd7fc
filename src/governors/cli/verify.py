"""`governors verify`: check receipts without trusting, or asking, whoever wrote them."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from governors.cli.auditor import Auditor, NoRemember, Trust, Vkey
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from ledger import fsck
from ledger.errors import LedgerError, NoteInvalidError, ProofInvalidError
from ledger.format.checkpoint import Checkpoint
from ledger.format.proof import TlogProof
from ledger.verify import documents
from ledger.verify.documents import Consistency, Document, TenantBundle
from ledger.verify.judge import claimed_origin, judge
from ledger.verify.report import LogReport

app = typer.Typer(help="Check receipts offline: exit 0 good, 1 bad, 2 could not check.", no_args_is_help=True)

_TERMINAL_S: Final = 0.5
_ELSEWHERE_S: Final = 10.0

File = Annotated[Path, typer.Argument(metavar="FILE", help="The document; - for standard input.")]
Origin = Annotated[str | None, typer.Option(help="The log that it must be of. Default: any that a key is known for.")]
Older = Annotated[
    bool, typer.Option("--older", help="It is an old one: that its log has grown since is no sign of a rollback.")
]


@app.callback()
def verify() -> None:
    """Check receipts offline: exit 0 good, 1 bad, 2 could not check.

    The log's key comes from you: with --vkey the first time, from your trust file after that, which also remembers the
    newest checkpoint seen. A log that shows less later, or another history, is reported as rollback or fork.
    """


@app.command()
def log(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The data folder, or the ledger folder in it.")],
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the log is published. Default: the folder store in the data folder."),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where its checkpoints are, if elsewhere (store.control_url)."),
    ] = None,
    vkey: Vkey = None,
    trust: Trust = None,
    no_remember: NoRemember = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many processes share the work. Default: one for each processor.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a whole log: every checksum, hash, chain, tree root, commitment and canonical form.

    Where it is published, checkpoint, tiles and entry bundles are held against it; with a key, also who signed.

    Needs no running service, and no key for the rest. Exit 0: all of it holds. 1: it does not, each place is named. 2:
    it could not be checked.

    Example: governors verify log ./data
    """
    auditor = Auditor(vkey, trust, remember=not no_remember)
    count = processes or len(os.sched_getaffinity(0))
    progress = _Progress(as_json=as_json)
    try:
        report = fsck.verify_log(folder, progress, processes=count, store=store, control=control, recall=auditor.recall)
    except (LedgerError, OSError) as error:
        fail(f"could not check: {error}")
    for memory in report.learned:
        auditor.remember(memory)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_log(report)
    if not report.ok:
        raise typer.Exit(EXIT_BAD)


@app.command()
def proof(
    file: File,
    vkey: Vkey = None,
    origin: Origin = None,
    trust: Trust = None,
    no_remember: NoRemember = False,
    older: Older = False,
    as_json: AsJson = False,
) -> None:
    """Check a proof file (tlog-proof): that one receipt stands in the log, and what it says.

    Example: governors verify proof receipt.tlog-proof --vkey "$(cat log.vkey)"
    """
    _check(file, TlogProof, Auditor(vkey, trust, remember=not no_remember), origin, older=older, as_json=as_json)


@app.command()
def consistency(
    file: File,
    vkey: Vkey = None,
    origin: Origin = None,
    trust: Trust = None,
    no_remember: NoRemember = False,
    older: Older = False,
    as_json: AsJson = False,
) -> None:
    """Check a consistency proof: that the log has only grown.

    Example: governors verify consistency 1000-to-2000.json
    """
    _check(file, Consistency, Auditor(vkey, trust, remember=not no_remember), origin, older=older, as_json=as_json)


@app.command()
def tenant(
    file: File,
    vkey: Vkey = None,
    origin: Origin = None,
    trust: Trust = None,
    no_remember: NoRemember = False,
    older: Older = False,
    as_json: AsJson = False,
) -> None:
    """Check a tenant's bundle: its receipts, their chain, and how far they are shown to be complete.

    Example: governors verify tenant acme.bundle.json
    """
    _check(file, TenantBundle, Auditor(vkey, trust, remember=not no_remember), origin, older=older, as_json=as_json)


@app.command()
def bundle(
    file: File,
    vkey: Vkey = None,
    origin: Origin = None,
    trust: Trust = None,
    no_remember: NoRemember = False,
    older: Older = False,
    as_json: AsJson = False,
) -> None:
    """Check a document of any of these kinds: it says itself which it is.

    Example: governors verify bundle acme.bundle.json
    """
    _check(file, Document, Auditor(vkey, trust, remember=not no_remember), origin, older=older, as_json=as_json)


def _check(file: Path, kind: Any, auditor: Auditor, origin: str | None, *, older: bool, as_json: bool) -> None:
    """Judge a document, print the verdict, remember its checkpoint if it is good."""
    data = _read(file)
    try:
        document = documents.read_document(data)
        if not isinstance(document, kind):
            fail(f"could not check: {file} is another kind of document; `governors verify bundle` takes all of them")
        note = documents.note_of(document)
        claimed = claimed_origin(document)
        if origin is not None and claimed != origin:
            raise NoteInvalidError(f"a checkpoint of the log {claimed!r}, not of {origin!r}")
        # Which of the known logs it is of, the document may say; whether it is, the key tells.
        memory = auditor.expect(claimed)
        opened = memory.open(note)
        found, sentences, proven = judge(document, opened)
        learned = memory.learn(note, proven, older=older)
    except ProofInvalidError as error:
        if as_json:
            print_json({"ok": False, "file": str(file), "error": str(error)})
        else:
            print(f"BAD: {error}")
        raise typer.Exit(EXIT_BAD) from None
    notes = _doubts(learned.unproven(opened.size), opened)
    auditor.remember(learned)
    if as_json:
        tree = {"origin": opened.origin, "size": opened.size, "root": opened.root.hex()}
        print_json({"ok": True, "file": str(file), **tree, **found, "notes": notes})
        return
    for sentence in sentences:
        print(sentence)
    for note_ in notes:
        print(f"note: {note_}")
    print(f"good: {opened.origin}, signed at {opened.size} receipts, root {opened.root.hex()}")


def _doubts(unproven: list[int], opened: Checkpoint) -> list[str]:
    if not unproven:
        return []
    sizes = ", ".join(map(str, unproven))
    doubt = f"that this log of {opened.size} receipts continues the one seen before at {sizes} is not shown here"
    return [f"{doubt}: check a consistency proof from {unproven[-1]} to {opened.size}, or the whole log"]


def _read(file: Path) -> bytes:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"could not check: {file}: {error.strerror}")
    return data


def _print_log(report: LogReport) -> None:
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


class _Progress:
    """Says on standard error how far a long verification is: often on a terminal, now and then elsewhere; with --json
    each time a JSON document on a line of its own.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._every_s = _TERMINAL_S if sys.stderr.isatty() and not as_json else _ELSEWHERE_S
        self._told_s = time.monotonic()

    def __call__(self, partition: int, receipts: int, segments_left: int) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s < self._every_s:
            return
        self._told_s = now_s
        if self._as_json:
            told = {"event": "progress", "partition": partition, "receipts": receipts, "segments_left": segments_left}
            typer.echo(orjson.dumps(told), err=True)
        else:
            typer.echo(f"partition {partition}: {receipts:,} receipts, {segments_left} segments to go", err=True)
