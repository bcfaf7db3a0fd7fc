"""`governors serve`: run the service until it is told to stop."""

import asyncio
import socket
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from governors.auth.tokens import TokenFileError
from governors.certificates import CertificateError
from governors.cli.config import ConfigPath, load_settings
from governors.cli.output import EXIT_BAD, fail
from governors.settings import SettingsError
from governors.supervision.errors import ChildStartError, IntensityExceededError
from ledger.errors import LedgerError


def serve(
    config: ConfigPath = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the ledger. Default: ./data")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for any free one. Default: 8080")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the log's partitions, for a machine of many cores.")
    ] = 1,
    shared_fd: Annotated[int | None, typer.Option(hidden=True, help="The listener of `--workers`, inherited.")] = None,
) -> None:
    """Serve signals, decisions and receipts.

    Writes one JSON line {"event": "ready", "url": …} among its logs once it is ready. SIGTERM and SIGINT stop it in
    order: what was answered is in the ledger. With --workers, several processes serve one address and divide a log of
    several partitions among them (8, where it is begun with them); one that ends is started again, and the others have
    its partitions meanwhile.

    Exit 0: stopped as it was told to. 1: it could not start, or could not go on.

    Example: governors serve --data-dir ./data --port 8080
    """
    # Other commands start without a web server and what it needs.
    from governors import app as service  # noqa: PLC0415

    effective = load_settings(config, {"data_dir": data_dir, "http.host": host, "http.port": port})
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if workers > 1:
                runner.run(service.serve_several(effective, workers, config))
            else:
                shared = None if shared_fd is None else socket.socket(fileno=shared_fd)
                runner.run(service.serve(effective, shared))
    except LedgerError as error:
        fail(f"ledger: {error}", EXIT_BAD)
    except SettingsError as error:
        fail("\n".join(f"configuration: {problem}" for problem in error.problems), EXIT_BAD)
    except IntensityExceededError as error:
        fail(f"{error}: {error.__cause__}", EXIT_BAD)
    except TokenFileError as error:
        fail(f"auth.tokens_file: {error}", EXIT_BAD)
    except CertificateError as error:
        fail(str(error), EXIT_BAD)
    except (ChildStartError, OSError) as error:
        fail(str(error.__cause__ or error), EXIT_BAD)
