"""A real `governors serve` process, started as a user would start it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

START_S = 60.0
STOP_S = 60.0


class ServiceProcess:
    """Starts on a free port and waits for the ready line; `url` is where it listens. With `event="standby"` it is
    enough that it waits for the log.

    `under`: a command that runs the service by exec, so that the process is the service's own.
    """

    def __init__(
        self,
        data_dir: Path,
        *args: str,
        env: dict[str, str] | None = None,
        entry: str | None = None,
        under: Sequence[str] = (),
        event: str = "ready",
    ) -> None:
        self.data_dir = data_dir
        command = [*under, sys.executable, "-c", entry] if entry else [*under, sys.executable, "-m", "governors"]
        self._process = subprocess.Popen(
            [*command, "serve", "--data-dir", str(data_dir), "--port", "0", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            text=True,
        )
        self.log: deque[str] = deque(maxlen=2_000)
        self._event = event
        self._ready = threading.Event()
        self._ready_line: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_S) or not self._ready_line:
            self.kill()
            raise AssertionError("the service did not get ready:\n" + "\n".join(self.log))

    @property
    def url(self) -> str:
        return str(self._ready_line["url"])

    @property
    def receipts_at_start(self) -> int:
        return int(self._ready_line["receipts"])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL: nothing of it gets a chance."""
        self._process.kill()
        self._process.wait(STOP_S)
        self._reader.join(STOP_S)

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it ended by itself."""
        code = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_S)
        self._reader.join(STOP_S)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.log.append(line.rstrip("\n"))
                if not self._ready_line and f'"{self._event}"' in line:
                    entry = json.loads(line)
                    if entry.get("event") == self._event:
                        self._ready_line = entry
                        self._ready.set()
        self._ready.set()


def receipts_by_event(client: httpx.Client, tenant: str) -> dict[str, str]:
    """The ids of all of a tenant's receipts, by the ids of the signals that they are about."""
    found: dict[str, str] = {}
    after: int | None = -1
    while after is not None:
        page = client.get(f"/v1/tenants/{tenant}/receipts", params={"after": after, "limit": 1_000}).json()
        found.update({one["receipt"]["event_id"]: one["id"] for one in page["receipts"]})
        after = page["next"]
    return found


async def decided_ids(client: httpx.AsyncClient) -> set[str]:
    """The id of every signal of the first 1,000 tenants that has a receipt, as the service tells it."""
    found: set[str] = set()
    tenants = (await client.get("/v1/tenants", params={"limit": 1_000})).json()["tenants"]
    for tenant in tenants:
        after: int | None = -1
        while after is not None:
            params = {"after": after, "limit": 1_000}
            page = (await client.get(f"/v1/tenants/{tenant['tenant']}/receipts", params=params)).json()
            found.update(entry["receipt"]["event_id"] for entry in page["receipts"])
            after = page["next"]
    return found
