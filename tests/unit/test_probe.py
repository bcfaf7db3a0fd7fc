"""`python -m governors.probe`, against servers that are well, ill, silent, or no HTTP servers at all."""

import http.server
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.certificates import Authority

from governors import probe


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 200 if self.path == "/healthz" else 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"missing": ["ledger"]}')

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_service_that_answers_with_200_is_well() -> None:
    with serving() as port:
        assert probe.problem_at(f"http://127.0.0.1:{port}/healthz") == ""


def test_a_service_that_answers_otherwise_is_not_and_its_words_are_passed_on() -> None:
    with serving() as port:
        problem = probe.problem_at(f"http://127.0.0.1:{port}/readyz")
    assert "503" in problem
    assert "ledger" in problem


def test_under_tls_the_name_in_the_certificate_does_not_matter(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().issue("somewhere.example").put(tmp_path))
    with serving(context) as port:
        assert probe.problem_at(f"https://127.0.0.1:{port}/healthz") == ""


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://127.0.0.1/", "http://", "http://[::1/", "http://127.0.0.1:x/"]
)
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    assert url in probe.problem_at(url)


def test_it_ends_as_a_health_check_does() -> None:
    with serving() as port:
        asked = [sys.executable, "-m", "governors.probe", f"http://127.0.0.1:{port}"]
        well = subprocess.run([*asked[:-1], f"{asked[-1]}/healthz"], capture_output=True, text=True, check=False)
        ill = subprocess.run([*asked[:-1], f"{asked[-1]}/readyz"], capture_output=True, text=True, check=False)
    away = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (well.returncode, well.stdout, well.stderr) == (0, "", "")
    assert (ill.returncode, ill.stderr.count("\n")) == (1, 1)
    assert (away.returncode, away.stderr.count("\n")) == (1, 1)


def test_without_an_address_it_asks_this_container_on_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOVERNORS_HTTP__PORT", raising=False)
    assert probe.default_url() == "http://127.0.0.1:8080/healthz"
    monkeypatch.setenv("GOVERNORS_HTTP__PORT", "9000")
    assert probe.default_url() == "http://127.0.0.1:9000/healthz"
