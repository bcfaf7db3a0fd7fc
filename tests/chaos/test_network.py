"""The network that faults are made in does what it says: what is lost one way still arrives the other way."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.network import Namespace, Network, why_no_network

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("", 9))
    print("bound", flush=True)
    while True:
        data, sender = server.recvfrom(100)
        print(data.decode(), flush=True)
        server.sendto(data, sender)
"""
ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(float(sys.argv[3]))
    try:
        client.sendto(sys.argv[2].encode(), (sys.argv[1], 9))
        print(client.recvfrom(100)[0].decode())
    except (TimeoutError, PermissionError):
        print("nothing")
"""
SOON_S = "10"
LOST_S = "0.3"


class Echo:
    """A server in a namespace of its own, and somebody in another who asks it."""

    def __init__(self, server: Namespace, client: Namespace) -> None:
        self.server = server
        self.client = client
        command = [*server.under, sys.executable, "-c", ECHO]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.heard() == "bound"

    def heard(self) -> str:
        """What it got next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str, timeout_s: str) -> str:
        """The answer, or "nothing"."""
        command = [*self.client.under, sys.executable, "-c", ASK, self.server.address, word, timeout_s]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.fixture
def echo() -> Iterator[Echo]:
    if why := why_no_network():
        pytest.skip(f"no network namespaces: {why}")
    with Network() as network:
        made = Echo(network.join(), network.join())
        yield made
        made.process.kill()
        made.process.communicate()


def test_what_is_cut_arrives_in_neither_direction_until_it_is_mended(echo: Echo) -> None:
    assert echo.ask("first", SOON_S) == "first" == echo.heard()
    echo.client.cut(echo.server.address)
    assert echo.ask("lost", LOST_S) == "nothing"
    echo.client.mend()
    assert echo.ask("second", SOON_S) == "second" == echo.heard(), "the one before never arrived"


def test_answers_are_lost_and_requests_are_not(echo: Echo) -> None:
    echo.client.lose(sent_by=(echo.server.address,))
    assert echo.ask("arrives", LOST_S) == "nothing"
    assert echo.heard() == "arrives"
