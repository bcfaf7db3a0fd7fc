"""A network of this machine's own: a bridge, and a namespace for each process that joins, whose packets can be lost.

Needs root, and the commands ip (iproute2) and nft (nftables). What is lost is lost in silence, as behind a broken
switch: nobody is told that a connection ended.
"""

import os
import shutil
import subprocess
from functools import cache
from types import TracebackType
from typing import Final, Self

COMMANDS: Final = ("ip", "nft", "unshare")
TRIED: Final = "ip link add name left type veth peer name right && ip link add name both type bridge && nft list tables"
ADDRESSES: Final = {"store": 2, "pubsub": 3}
"""Last octets of the bridge's addresses that services are reached at; workers have those from `FIRST_WORKER` on."""
FIRST_WORKER: Final = 11


@cache
def why_no_network() -> str:
    """What keeps this machine from having one; "" where nothing does."""
    if os.geteuid() != 0:
        return "it takes root"
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        assert os.environ.get("CI") != "true", f"CI must have {missing}"
        return f"no {', '.join(missing)} on the PATH"
    tried = subprocess.run(["unshare", "-n", "sh", "-c", TRIED], capture_output=True, text=True, check=False)
    return f"the kernel does not let us: {tried.stderr.strip()}" if tried.returncode else ""


class Namespace:
    """Where one process lives; `address` is where others reach it. `under` is the command that puts a process there."""

    def __init__(self, name: str, address: str) -> None:
        self.address = address
        self._name = name
        self.under = ("ip", "netns", "exec", name)

    def lose(self, *, sent_to: tuple[str, ...] = (), sent_by: tuple[str, ...] = ()) -> None:
        """From now on lose what it sends to these addresses, and what these send to it; nothing else."""
        rules = [f"add rule inet faults out ip daddr {one} drop" for one in sent_to]
        rules += [f"add rule inet faults in ip saddr {one} drop" for one in sent_by]
        chains = [
            "add table inet faults",
            "delete table inet faults",
            "add table inet faults",
            "add chain inet faults in { type filter hook input priority 0; }",
            "add chain inet faults out { type filter hook output priority 0; }",
        ]
        self._run("nft", "\n".join([*chains, *rules]))

    def cut(self, *addresses: str) -> None:
        """Lose everything in both directions."""
        self.lose(sent_to=addresses, sent_by=addresses)

    def mend(self) -> None:
        """Lose nothing."""
        self.lose()

    def _run(self, *command: str) -> None:
        _run(*self.under, *command)


class Network:
    """`with Network() as network:`; whatever joined is taken down with it."""

    def __init__(self) -> None:
        # Of several that run tests at once each has its own.
        self._number = os.getpid() % 65_536
        self._bridge = f"gov{self._number}"
        self._joined: list[tuple[str, str]] = []

    def address_of(self, service: str) -> str:
        """Of a service outside, to listen on: "store" or "pubsub"."""
        return self._address(ADDRESSES[service])

    def __enter__(self) -> Self:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        for last in (1, *ADDRESSES.values()):
            _run("ip", "addr", "add", f"{self._address(last)}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for cable, space in self._joined:
            _run("ip", "link", "del", cable)  # at once; with its namespace it goes some time later
            _run("ip", "netns", "del", space)
        _run("ip", "link", "del", self._bridge)

    def join(self) -> Namespace:
        """One more."""
        number = len(self._joined)
        space, cable = f"{self._bridge}-{number}", f"gv{self._number}-{number}"
        address = self._address(FIRST_WORKER + number)
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._joined.append((cable, space))
        _run("ip", "link", "set", cable, "master", self._bridge, "up")
        _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", space, "link", "set", device, "up")
        return Namespace(space, address)

    def _address(self, last: int) -> str:
        return f"10.{192 + self._number // 4_096}.{self._number % 256}.{last}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
