"""TLS as it is deployed: a real process, files that are replaced under it as Kubernetes does it."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.certificates import Authority, Issued, replace, serial_of
from support.service import ServiceProcess

AUTHORITY, CLIENTS = Authority(), Authority("another authority")
pytestmark = pytest.mark.slow


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def settings(folder: Path) -> dict[str, str]:
    return {"GOVERNORS_TLS__CERTIFICATE": str(folder / "tls.crt"), "GOVERNORS_TLS__KEY": str(folder / "tls.key")}


class Secret:
    """A Kubernetes secret on the disk: links to a folder that is replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(Path("..data") / name)

    def rotate(self, issued: Issued) -> None:
        self._number += 1
        (self.folder / f"..{self._number}").mkdir()
        issued.put(self.folder / f"..{self._number}")
        (self.folder / "..next").symlink_to(f"..{self._number}")
        (self.folder / "..next").replace(self.folder / "..data")


def shown(process: ServiceProcess) -> int:
    """The number of the certificate that a new connection is shown."""
    with client_socket(process, AUTHORITY.trust()) as encrypted:
        certificate = encrypted.getpeercert(binary_form=True)
    assert certificate is not None
    return serial_of(certificate)


def client_socket(process: ServiceProcess, context: ssl.SSLContext) -> ssl.SSLSocket:
    port = httpx.URL(process.url).port
    plain = socket.create_connection(("127.0.0.1", port), timeout=60.0)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Secret:
    secret = Secret(tmp_path_factory.mktemp("secret"))
    secret.rotate(AUTHORITY.issue())
    return secret


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, secret: Secret) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("data"), env=settings(secret.folder)) as process:
        assert process.url.startswith("https://")
        yield process


def test_a_rotated_certificate_is_shown_to_new_connections_and_drops_none(
    process: ServiceProcess, secret: Secret
) -> None:
    with httpx.Client(base_url=process.url, verify=AUTHORITY.trust(), timeout=60.0) as client:
        assert client.get("/readyz").status_code == 200
        expiry = metric(client, "governors_tls_certificate_expiry_timestamp_seconds")
        assert expiry > time.time()
        with client_socket(process, AUTHORITY.trust()) as old:
            renewed = AUTHORITY.issue()
            secret.rotate(renewed)
            until(lambda: shown(process) == serial_of(renewed.certificate))
            old.sendall(b"GET /readyz HTTP/1.1\r\nHost: governors\r\n\r\n")
            assert old.recv(12) == b"HTTP/1.1 200"
        assert metric(client, 'governors_tls_reloads_total{outcome="ok"}') == 1
        assert metric(client, "governors_tls_certificate_expiry_timestamp_seconds") > expiry


def test_a_certificate_that_cannot_be_used_leaves_the_one_before(process: ServiceProcess, secret: Secret) -> None:
    before = shown(process)
    good, other = AUTHORITY.issue(), AUTHORITY.issue()
    secret.rotate(Issued(good.certificate, other.key, other.encrypted_key))
    with httpx.Client(base_url=process.url, verify=AUTHORITY.trust(), timeout=60.0) as client:
        until(lambda: metric(client, 'governors_tls_reloads_total{outcome="failed"}') == 1)
    assert shown(process) == before
    said = [json.loads(line) for line in process.log if '"problem"' in line]
    assert [entry["severity"] for entry in said] == ["ERROR"]
    assert "tls.key" in said[0]["problem"]


def test_whoever_cannot_encrypt_holds_nobody_up(process: ServiceProcess) -> None:
    address = ("127.0.0.1", httpx.URL(process.url).port or 0)
    silent = [socket.create_connection(address, timeout=60.0) for _ in range(50)]
    with socket.create_connection(address, timeout=60.0) as plain:
        plain.sendall(b"GET /readyz HTTP/1.1\r\nHost: governors\r\n\r\n")
        assert b"200" not in plain.recv(1_000)
    with httpx.Client(base_url=process.url, verify=AUTHORITY.trust(), timeout=60.0) as client:
        assert client.get("/readyz").status_code == 200
        assert metric(client, 'governors_http_connections_dropped_total{reason="handshake"}') >= 1
        assert metric(client, "governors_http_connections ") > 50
    for one in silent:
        one.close()


def test_where_clients_need_a_certificate_nobody_comes_in_without(tmp_path: Path) -> None:
    AUTHORITY.issue().put(tmp_path)
    replace(tmp_path / "ca.crt", CLIENTS.certificate)
    env = settings(tmp_path) | {"GOVERNORS_TLS__CLIENT_CA": str(tmp_path / "ca.crt")}
    statuses: dict[str, int] = {}
    with ServiceProcess(tmp_path / "data", env=env) as process:
        for name, issued in (("good", CLIENTS.issue("a client")), ("foreign", AUTHORITY.issue()), ("none", None)):
            context = AUTHORITY.trust()
            if issued is not None:
                (tmp_path / name).mkdir()
                context.load_cert_chain(*issued.put(tmp_path / name))
            try:
                statuses[name] = httpx.get(f"{process.url}/readyz", verify=context, timeout=60.0).status_code
            except httpx.TransportError:
                statuses[name] = 0
        assert process.stop() == 0
    assert statuses == {"good": 200, "foreign": 0, "none": 0}


def test_a_bad_file_stops_the_start_and_names_its_setting(tmp_path: Path) -> None:
    AUTHORITY.issue().put(tmp_path)
    replace(tmp_path / "tls.key", AUTHORITY.issue().key)
    ended = subprocess.run(
        [sys.executable, "-m", "governors", "serve", "--data-dir", str(tmp_path / "data"), "--port", "0"],
        env={**os.environ, **settings(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "tls.key: " in ended.stderr
    assert "Traceback" not in ended.stderr
