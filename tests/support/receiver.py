"""A receiver of webhooks: a real HTTP server that keeps what it gets and answers as it is told."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Got(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers 204 when it was told nothing; `answers` are statuses with headers, in order. Who asks by GET is in
    `read`, and gets the next of `readings`, 200 where there is none. `bodies` and `read_bodies` are what answers have
    in them, nothing where there is none.
    """

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.read: list[Got] = []
        self.readings: deque[int] = deque()
        self.bodies: deque[bytes] = deque()
        self.read_bodies: deque[bytes] = deque()
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def wait(self, count: int, timeout_s: float = 60.0) -> list[Got]:
        """What came, once that is `count` requests."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.got) >= count, timeout_s), f"{len(self.got)} requests came"
            return list(self.got)

    @contextlib.contextmanager
    def listening(self) -> Iterator["Receiver"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver._arrived:
                    receiver.got.append(Got(self.path, headers, body))
                    status, more = receiver.answers.popleft() if receiver.answers else (204, {})
                    said = receiver.bodies.popleft() if receiver.bodies else b""
                    receiver._arrived.notify_all()
                self._answer(status, more, said)

            def do_GET(self) -> None:
                receiver.read.append(Got(self.path, {name.lower(): value for name, value in self.headers.items()}, b""))
                status = receiver.readings.popleft() if receiver.readings else 200
                self._answer(status, {}, receiver.read_bodies.popleft() if receiver.read_bodies else b"")

            def _answer(self, status: int, more: dict[str, str], said: bytes) -> None:
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
