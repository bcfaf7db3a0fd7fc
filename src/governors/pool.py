"""Several workers on one machine, as one service: they share a listener and divide the log's partitions among them.

The mechanism is that of workers on several machines: the store in the data folder (or the one that is configured) is
where they hear of each other, and a worker that ends is taken over from. This process only starts them, and starts
again those that end.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import orjson
import structlog

from governors.custody import Custodian
from governors.listener import listen, url_of
from governors.settings import Effective, Settings
from governors.supervision.child import Child, Start, Started
from governors.supervision.supervisor import Supervisor
from governors.telemetry.logs import configure_logging
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE, STORE_FOLDER
from ledger.identity_object import read_identity
from ledger.signing import SIGNING_KEY_FILE
from ledger.store.opening import open_store

PARTITIONS: Final = 8
"""Of a log that is begun by several workers: enough for as many processes as a machine will ever run of them."""
START_S: Final = 120.0
STOP_S: Final = 60.0
LINE_BYTES_MAX: Final = 1024 * 1024
_HEARD: Final = frozenset({"ready", "standby"})


class WorkerEndedError(Exception):
    """A worker ended by itself."""


async def serve(
    effective: Effective,
    workers: int,
    config: Path | None,
    *,
    clock_us: Callable[[], int],
    entropy: Callable[[int], bytes],
) -> None:
    """Run so many workers until SIGTERM or SIGINT. Raises what a worker's start does, IntensityExceededError."""
    settings = effective.settings
    configure_logging(settings.log.level, settings.log.format)
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - a coroutine always has its task
    loop = asyncio.get_running_loop()
    with contextlib.closing(listen(settings.http.host, settings.http.port)) as listener:
        settings = await _begin_log(settings, clock_us, entropy)
        pool = _Pool(settings, listener, config, workers)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, main.cancel)
        loop.add_signal_handler(signal.SIGHUP, pool.tell, signal.SIGHUP)
        with contextlib.suppress(asyncio.CancelledError):
            await pool.run()


async def _begin_log(settings: Settings, clock_us: Callable[[], int], entropy: Callable[[int], bytes]) -> Settings:
    """Make sure that there is a log, with its keys, which all of them can then write; the settings for that."""
    url = settings.store.url or (settings.data_dir.absolute() / STORE_FOLDER).as_uri()
    rng = random.Random(entropy(16))
    cluster = settings.cluster
    if cluster.partitions is None and not (settings.data_dir / LEDGER_FOLDER / ORIGIN_FILE).exists():
        store = await asyncio.to_thread(open_store, url, settings.store.control_url)
        is_new = await read_identity(store, rng) is None
        await store.close()
        if is_new:
            cluster = msgspec.structs.replace(cluster, partitions=PARTITIONS)
    store_settings = msgspec.structs.replace(settings.store, url=url)
    settings = msgspec.structs.replace(settings, store=store_settings, cluster=cluster)
    custodian = await Custodian.open(settings, clock_us=clock_us, entropy=entropy, rng=rng, owner=socket.gethostname())
    await custodian.close()
    return settings


class _Pool:
    def __init__(self, settings: Settings, listener: socket.socket, config: Path | None, workers: int) -> None:
        self._settings = settings
        self._listener = listener
        self._config = config
        self._log = structlog.get_logger("governors")
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._heard: set[int] = set()
        self._count = workers
        self._is_ready = False
        self._supervisor = Supervisor(
            "workers",
            children=[
                Child(f"worker-{number}", self._life_of(number), start_s=START_S, shutdown_s=STOP_S)
                for number in range(workers)
            ],
            intensity=5,
            period_s=60.0,
        )

    async def run(self) -> None:
        """Until cancelled. Raises IntensityExceededError, ChildStartError."""
        tree = asyncio.create_task(self._supervisor.run(lambda: None), name="workers")
        try:
            await asyncio.shield(tree)
        finally:
            # All at once: nobody need take over from one that ends what another is about to leave.
            self.tell(signal.SIGTERM)
            tree.cancel()
            await asyncio.wait({tree})

    def tell(self, number: signal.Signals) -> None:
        """Pass a signal on to all of them."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _life_of(self, number: int) -> Start:
        async def live(started: Started) -> None:
            process = await asyncio.create_subprocess_exec(
                *self._command(number),
                env={**os.environ, **self._environment()},
                stdin=asyncio.subprocess.PIPE,  # its end tells of ours, whatever ended us
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES_MAX,
                pass_fds=[self._listener.fileno()],
            )
            self._processes[number] = process
            try:
                await self._relay(process, lambda: self._answers(number, started))
                raise WorkerEndedError(f"worker {number} ended with exit code {await process.wait()}")
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.terminate()
                    await self._see_out(process)
                del self._processes[number]

        return live

    async def _see_out(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(STOP_S - 5.0):
                await self._relay(process, lambda: None)
        except TimeoutError:
            process.kill()
        await process.wait()

    async def _relay(self, process: asyncio.subprocess.Process, on_answering: Callable[[], None]) -> None:
        """Pass on what it logs, until it ends."""
        assert process.stdout is not None  # noqa: S101 - it was asked for
        while line := await process.stdout.readline():
            if line.startswith(b'{"event":') and orjson.loads(line).get("event") in _HEARD:
                on_answering()
                continue
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def _answers(self, number: int, started: Started) -> None:
        started()
        self._heard.add(number)
        if len(self._heard) == self._count and not self._is_ready:
            self._is_ready = True
            self._say_ready()

    def _say_ready(self) -> None:
        settings = self._settings
        host, port = self._listener.getsockname()[:2]
        url = url_of(host, port, encrypted=settings.tls is not None)
        line = {
            "event": "ready", "url": url, "data_dir": str(settings.data_dir), "workers": self._count,
            "severity": "INFO", "message": f"{self._count} workers on {url}, data in {settings.data_dir}",
        }  # fmt: skip
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()

    def _command(self, number: int) -> list[str]:
        data_dir = self._settings.data_dir
        # The first has the folder itself: what a single worker left there is gone on with.
        own = data_dir if number == 0 else data_dir / f"worker-{number}"
        config = [] if self._config is None else ["--config", str(self._config)]
        shared = str(self._listener.fileno())
        host = ["--host", self._settings.http.host]
        return [
            *(sys.executable, "-m", "governors", "serve", *config, *host, "--data-dir", str(own)),
            *("--shared-fd", shared),
        ]

    def _environment(self) -> dict[str, str]:
        """What all of them have in common, whatever the configuration says."""
        settings = self._settings
        key = settings.ledger.signing_key or settings.data_dir.absolute() / LEDGER_FOLDER / SIGNING_KEY_FILE
        assert settings.store.url is not None  # noqa: S101 - _begin_log() has set it
        return {"GOVERNORS_STORE__URL": settings.store.url, "GOVERNORS_LEDGER__SIGNING_KEY": str(key)}
