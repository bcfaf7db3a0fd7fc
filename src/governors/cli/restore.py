"""`governors restore`: a whole log back from its object store alone."""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Annotated

import typer

from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from ledger import fsck
from ledger.errors import LedgerError, StoreRefusedError, StoreUnavailableError
from ledger.identity import STORE_FOLDER
from ledger.restore import RestoredPartition
from ledger.restore import restore as restore_log
from ledger.signing import SIGNING_KEY_FILE
from ledger.store.opening import open_store


def restore(
    store: Annotated[str, typer.Argument(metavar="STORE", help="gs://bucket/prefix, file:///folder, or a folder.")],
    data_dir: Annotated[Path, typer.Argument(metavar="DIR", help="Data folder to make; it may not hold another log.")],
    control: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Where heads and checkpoints are, if elsewhere (store.control_url)."),
    ] = None,
    vkey: Annotated[
        str | None, typer.Option(help="Verifier key that must have signed the log. Default: the store's own word.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Restore a log from its object store onto a disk that has nothing of it, and verify every receipt.

    Brings back everything but the signing key, which no store has: put `ledger/signing.key` there from your backup
    before you serve, or a new key is made and verifiers have to be told of it. Run again, it goes on where it was.

    Exit 0: restored, all of it holds. 1: the store does not hold the log that was signed. 2: it could not be tried.

    Example: governors restore gs://my-bucket/governors ./data --control gs://my-bucket-control/governors
    """
    try:
        restored = asyncio.run(_restore(_url_of(store), control and _url_of(control), data_dir, vkey))
    except (StoreUnavailableError, StoreRefusedError, OSError) as error:
        fail(f"could not restore: {error}")
    except LedgerError as error:
        fail(f"not restored: {error}", EXIT_BAD)
    report = fsck.verify_log(data_dir, _verified if sys.stderr.isatty() and not as_json else None)
    roots = {one.partition: (one.size, one.root) for one in report.partitions}
    ok = report.ok and all(roots.get(one.partition) == (one.size, one.root.hex()) for one in restored)
    if as_json:
        print_json({"ok": ok, "partitions": [_plain(one) for one in restored], "report": report.as_dict()})
    else:
        for one in restored:
            print(f"partition {one.partition}: {one.size} receipts, root {one.root.hex()}")
            print(f"    signed by {one.vkey}" + ("" if vkey else " (by the store's own word: compare it)"))
        for wrong in report.errors:
            print(f"{wrong.kind}: partition {wrong.partition}, receipt {wrong.index}: {wrong.message}")
        if not (data_dir / "ledger" / SIGNING_KEY_FILE).exists():
            print(f"note: {data_dir / 'ledger' / SIGNING_KEY_FILE} has to come from your backup")
        print("restored and verified" if ok else "BAD: what was restored is not what was signed")
    if not ok:
        raise typer.Exit(EXIT_BAD)


def _url_of(store: str) -> str:
    return store if "://" in store else Path(store).absolute().as_uri()


async def _restore(url: str, control_url: str | None, data_dir: Path, vkey: str | None) -> list[RestoredPartition]:
    store = open_store(url, control_url)
    copy = open_store((data_dir / STORE_FOLDER).absolute().as_uri())
    rng = random.Random(os.urandom(16))  # noqa: TID251 - the command line names the entropy, as the service's root does
    try:
        return await restore_log(
            store, data_dir, rng=rng, vkey=vkey, copy=copy, on_progress=_fetched if sys.stderr.isatty() else None
        )
    finally:
        await copy.close()
        await store.close()


def _plain(one: RestoredPartition) -> dict[str, object]:
    return {
        "partition": one.partition, "origin": one.origin, "size": one.size, "root": one.root.hex(),
        "fetched_bytes": one.fetched, "vkey": one.vkey,
    }  # fmt: skip


def _fetched(receipts_left: int, fetched_bytes: int) -> None:
    typer.echo(f"fetched {fetched_bytes / 1e6:,.1f} MB, {receipts_left:,} receipts to go", err=True)


def _verified(partition: int, receipts: int, segments_left: int) -> None:
    typer.echo(f"partition {partition}: {receipts:,} receipts verified, {segments_left} segments to go", err=True)
