"""Object stores that several processes use: a folder, or our stand-in for Cloud Storage, which they reach by HTTP."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.sim_gcs import SimGcs

FOLDER = "folder"
GCS = "gcs"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where it is, and whether it has a key."""

    url: str
    has: Callable[[str], bool]


@contextmanager
def serve_bucket(kind: str, folder: Path) -> Iterator[Bucket]:
    """An empty one, for processes that are started meanwhile. `folder`: to be made, if that is the kind."""
    if kind == FOLDER:
        yield Bucket(folder.as_uri(), lambda key: (folder / key).exists())
        return
    with SimGcs("logs") as sim, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", sim.url)
        yield Bucket("gs://logs/ours", lambda key: f"ours/{key}" in sim.buckets["logs"])
