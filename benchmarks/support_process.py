"""A server under measurement: a process of its own, ready when it says so over HTTP."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_S_MAX: Final = 300.0
STOP_S_MAX: Final = 60.0
_POLL_S: Final = 0.005


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Served:
    """Starts `command`, which must listen on `port`, and waits until `GET path` is answered with `status`.

    `ready_s` is how long that took; `rss_mb` what the process held then. Raises RuntimeError with the end of the
    process's output where it ends instead.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        path: str,
        *,
        log: Path,
        status: int = 200,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port
        self._log = log
        with log.open("wb") as output:
            begun_s = time.perf_counter()
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )
        try:
            while self._answers(path) != status:
                self._check(begun_s)
                time.sleep(_POLL_S)  # whether it answers is all that says when it is ready
        except BaseException:
            self.kill()
            raise
        self.ready_s = time.perf_counter() - begun_s
        self.rss_mb = rss_mb(self._process.pid)

    def get(self, path: str) -> bytes:
        """The body of an answer with status 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"GET {path}: {response.status}: {body[:500]!r}")
        return body

    def rss_mb_now(self) -> float:
        """What it holds now."""
        return rss_mb(self._process.pid)

    def cpu_s_now(self) -> float:
        """What it has spent so far of the processor, in seconds."""
        # After the name, which may have blanks: state is field 3, utime and stime are 14 and 15 (proc(5)).
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """SIGTERM, and wait; RuntimeError where it does not end well."""
        self._process.send_signal(signal.SIGTERM)
        if code := self._process.wait(STOP_S_MAX):
            raise RuntimeError(f"ended with status {code}:\n{self._tail()}")

    def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        self._process.kill()
        self._process.wait(STOP_S_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _answers(self, path: str) -> int:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10.0)
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return 0

    def _check(self, begun_s: float) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"ended with status {self._process.returncode}:\n{self._tail()}")
        if time.perf_counter() - begun_s > READY_S_MAX:
            raise RuntimeError(f"not ready after {READY_S_MAX} s:\n{self._tail()}")

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-4_000:]


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024 / 1e6
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")
