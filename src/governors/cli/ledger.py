"""`governors ledger`: what a data folder's logs are called, who signs them and how far they go."""

from pathlib import Path
from typing import Annotated

import typer

from governors.cli.output import AsJson, fail, print_json
from governors.cli.snapshot import snapshot
from ledger.errors import LedgerError
from ledger.verify.describe import describe

app = typer.Typer(help="Look at the ledger in a data folder.", no_args_is_help=True)


@app.callback()
def ledger() -> None:
    """Look at the ledger in a data folder."""


app.command()(snapshot)


@app.command()
def info(
    data_dir: Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="The data folder.")] = Path("data"),
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the log is published. Default: the folder store in the data folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print each partition's origin, verifier key, size and root, and where its checkpoint and tiles are.

    Hand the verifier key to whoever shall verify, by a way that they trust. Works while the service runs. Exit 2: there
    is no ledger, or it cannot be read.

    Example: governors ledger info --data-dir ./data
    """
    try:
        found = describe(data_dir, store)
    except (LedgerError, OSError) as error:
        fail(str(error))
    partitions = [
        {"partition": one.partition, "origin": one.origin, "vkey": one.vkey, "size": one.size, "root": one.root.hex(),
         "tiles": str(one.tiles)}
        for one in found
    ]  # fmt: skip
    if as_json:
        print_json({"partitions": partitions})
        return
    for one in partitions:
        print(f"partition {one['partition']}: {one['origin']}, {one['size']} receipts, root {one['root']}")
        print(f"    verifier key  {one['vkey'] or 'none: it has not signed yet'}")
        print(f"    published in  {one['tiles']}")
