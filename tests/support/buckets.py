"""Object stores that several processes use: a folder, or our stand-in for Cloud Storage, which they reach by HTTP."""

import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import pytest
from support.sim_gcs import SimGcs
from support.stores import check_preconditions, gcs_store, make_bucket

FOLDER = "folder"
GCS = "gcs"
LOCKED = "locked"
"""Of two buckets the one that has what is written once lets nothing of it go."""
PAGE: Final = 1_000
"""Keys on one page of a list, as the service has it."""
START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where it is, and whether it has a key."""

    url: str
    has: Callable[[str], bool]
    control_url: str | None = None


@contextmanager
def serve_bucket(kind: str, folder: Path) -> Iterator[Bucket]:
    """An empty one, for processes that are started meanwhile. `folder`: to be made, if that is the kind."""
    if kind == FOLDER:
        yield Bucket(folder.as_uri(), lambda key: (folder / key).exists())
        return
    keeps_s = {"logs": float("inf")} if kind == LOCKED else {}
    with SimGcs("logs", "control", keeps_s=keeps_s) as sim, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", sim.url)
        control_url = "gs://control/ours" if kind == LOCKED else None
        yield Bucket("gs://logs/ours", lambda key: f"ours/{key}" in sim.buckets["logs"], control_url)


@dataclass(frozen=True, slots=True)
class StoreProcess:
    """A stand-in for Cloud Storage in a process of its own, at `url`."""

    url: str
    pid: int


@asynccontextmanager
async def serve_named_or_gcs(bucket: str) -> AsyncIterator[str]:
    """Where the emulator is that STORAGE_EMULATOR_HOST names, else a stand-in of our own. Preconditions are seen to
    bite first: on a server where they do not, nothing that is tested means anything.
    """
    named = os.environ.get("STORAGE_EMULATOR_HOST")
    with nullcontext(named) if named else _own_url(bucket) as url:
        assert url is not None
        if named:
            make_bucket(url, bucket, lenient=True)
        prefix = f"checks-{os.urandom(4).hex()}"
        await check_preconditions(lambda: gcs_store(url, prefix, bucket=bucket))
        yield url


@contextmanager
def _own_url(bucket: str) -> Iterator[str]:
    with serve_gcs(bucket) as gcs:
        yield gcs.url


@contextmanager
def serve_gcs(bucket: str) -> Iterator[StoreProcess]:
    """One that takes no time of whoever loads or measures. It keeps everything in memory."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve_gcs, args=(theirs, bucket), name="gcs", daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.poll(START_S), "it does not start"
        assert process.pid is not None
        yield StoreProcess(ours.recv(), process.pid)
    finally:
        ours.close()
        process.join(START_S)


def _serve_gcs(pipe: Connection, bucket: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this says when it ends
    with SimGcs(bucket, page=PAGE) as gcs, suppress(EOFError):
        pipe.send(gcs.url)
        pipe.recv()
