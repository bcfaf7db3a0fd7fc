"""Google's Pub/Sub emulator, where it can be had: java and the jar of the Cloud SDK.

The jar is the one that PUBSUB_EMULATOR_JAR names, else the one of the SDK that `gcloud` belongs to.
"""

import os
import shutil
import socket
import subprocess
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_READY_S_MAX: Final = 60.0
SMALL: Final = "-XX:+UseSerialGC"
"""A collector that needs least of a machine, and stops everything for seconds once gigabytes are held."""
STEADY: Final = "-XX:+UseG1GC"
"""One that works beside the program, for a run so long that the other's stops would be measured as ours."""


class EmulatorMissingError(Exception):
    """This machine has no emulator; the message says what is missing."""


@cache
def find_jar() -> Path:
    """The emulator's jar; EmulatorMissingError where there is none, or no java to run it."""
    if shutil.which("java") is None:
        raise EmulatorMissingError("no java on the PATH")
    if named := os.environ.get("PUBSUB_EMULATOR_JAR"):
        if not Path(named).is_file():
            raise EmulatorMissingError(f"PUBSUB_EMULATOR_JAR={named}: no such file")
        return Path(named)
    if shutil.which("gcloud") is None:
        raise EmulatorMissingError("no PUBSUB_EMULATOR_JAR, and no gcloud to ask where one is")
    root = subprocess.run(
        ["gcloud", "info", "--format=value(installation.sdk_root)"], check=True, capture_output=True, text=True
    ).stdout.strip()
    jars = sorted(Path(root, "platform/pubsub-emulator/lib").glob("*.jar"))
    if not jars:
        raise EmulatorMissingError(f"no emulator in {root}: `gcloud components install pubsub-emulator`")
    return jars[-1]


class PubSubEmulator:
    """One emulator process. It forgets everything when it stops; `start` again listens on the same port.

    `collector` is java's option for its own.
    """

    def __init__(self, collector: str = SMALL) -> None:
        self._collector = collector
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers, which takes a second or two."""
        self._process = subprocess.Popen(
            ["java", self._collector, "-jar", str(find_jar()), "--host=127.0.0.1", f"--port={self._port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up_s = time.monotonic() + _READY_S_MAX
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"the emulator ended with status {self._process.returncode}")
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"the emulator did not answer within {_READY_S_MAX} s")
            time.sleep(0.05)  # its port is all that says when it is ready

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1.0):
                return True
        except OSError:
            return False
