"""A small, strict stand-in for Google Cloud Storage: the calls of its JSON API that we make, and faults by script.

Strict: it answers 501 to a call and 400 to a parameter that it does not know, so that nothing is silently ignored.
Preconditions hold on every verb, but for those that a test names in `ignores`. One lock makes each call one step;
generations only grow, across deletes too.

A fault is armed for the next call of a verb about a key. Where `landed` is true the call takes effect and only its
answer goes wrong, where it is false it takes none. What the client sees: a status, a connection that is reset, or
nothing (SILENT). `late` is nothing too, but the call takes effect when the test says so: `fault.release.set()`, then
wait for `fault.done`.
"""

import base64
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

PAGE: Final = 3
"""Keys on one page of a list, unless somebody wants more: few, so that every list has several."""
_CONDITIONS: Final = {"ifGenerationMatch", "ifGenerationNotMatch"}
_WAIT_S: Final = 30.0


class Broken(Enum):
    """What a client sees instead of an answer."""

    RESET = "the connection is reset"
    SILENT = "nothing, until it gives up"
    CUT = "an answer whose bytes are not those that its checksum names"


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


@dataclass
class Fault:
    """One call that goes wrong."""

    verb: str
    key: str
    seen: int | Broken
    landed: bool
    late: bool
    headers: Mapping[str, str]
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def land(self) -> None:
        """Let a late call take effect now, and wait until it has."""
        self.release.set()
        assert self.done.wait(_WAIT_S)


@dataclass
class Stored:
    data: bytes
    generation: int
    metadata: dict[str, Any]
    written_s: float


class RefusedError(Exception):
    def __init__(self, status: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason


class SimGcs:
    """`with SimGcs() as gcs:` serves at `gcs.url`."""

    def __init__(
        self, *buckets: str, ignores: Collection[str] = (), page: int = PAGE, keeps_s: Mapping[str, float] | None = None
    ) -> None:
        """`ignores`: verbs whose preconditions it does not look at, to show what a poor fake would let pass. `keeps_s`:
        for so long after it was written no object of a bucket is replaced or removed, as a retention policy has it.
        """
        self.keeps_s = dict(keeps_s or {})
        self._ignores = ignores
        self._page = page
        self.buckets: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
        self.calls: list[str] = []
        """Verb and key of each call, as `put 0/ctl/head`, in the order in which they took effect."""
        self.not_simulated: list[str] = []
        """Method and path of calls that we do not make."""
        self._lock = threading.Lock()
        self._generation = 1_700_000_000_000_000
        self._uploads: dict[str, tuple[str, str, dict[str, Any], dict[str, str]]] = {}
        self._faults: list[Fault] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.gcs = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="sim-gcs")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self._faults:
            fault.release.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join(_WAIT_S)

    def break_next(
        self,
        verb: str,
        key: str,
        seen: int | Broken,
        *,
        landed: bool = False,
        late: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Fault:
        """Arm a fault for the next `put`, `get`, `stat`, `list` or `delete` of a key (list: the prefix)."""
        fault = Fault(verb, key, seen, landed, late, headers or {})
        with self._lock:
            self._faults.append(fault)
        return fault

    def objects(self, bucket: str) -> dict[str, bytes]:
        with self._lock:
            return {name: stored.data for name, stored in self.buckets[bucket].items()}

    # One call

    def answer(self, verb: str, key: str, apply: Callable[[], Reply]) -> Reply | Broken:
        """What the client sees of a call, whatever takes place."""
        fault = self._fault_of(verb, key)
        if fault is None:
            return self._apply(verb, key, apply)
        fault.reached.set()
        try:
            if fault.late:
                fault.release.wait(_WAIT_S)
            reply = self._apply(verb, key, apply) if fault.landed or fault.late else Reply(200)
        finally:
            fault.done.set()
        match fault.seen:
            case Broken.SILENT:
                fault.release.wait(_WAIT_S)
                return Broken.RESET
            case Broken.CUT:
                return reply._replace(body=reply.body[:-1] + b"?")
            case Broken():
                return fault.seen
            case status:
                return Reply(status, b'{"error": {"message": "as scripted"}}', fault.headers)

    def _fault_of(self, verb: str, key: str) -> Fault | None:
        with self._lock:
            found = next(
                (one for one in self._faults if (one.verb, one.key) == (verb, key) and not one.reached.is_set()), None
            )
            if found is not None:
                found.reached.set()
            return found

    def _apply(self, verb: str, key: str, apply: Callable[[], Reply]) -> Reply:
        with self._lock:
            self.calls.append(f"{verb} {key}")
            try:
                return apply()
            except RefusedError as error:
                errors = [{"domain": "global", "reason": error.reason, "message": error.message}]
                body = {"error": {"code": error.status, "message": error.message, "errors": errors}}
                return Reply(error.status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    # The verbs, under the lock

    def put(self, bucket: str, name: str, data: bytes, metadata: dict[str, Any], query: dict[str, str]) -> Reply:
        objects = self._objects(bucket)
        self._check_kept(bucket, name)
        self._check("put", objects.get(name), query)
        checksum = metadata.get("crc32c")
        if checksum is not None and checksum != crc32c(data):
            raise RefusedError(400, "the bytes are not those that the checksum names")
        self._generation += 1
        objects[name] = Stored(data, self._generation, metadata, time.monotonic())
        return self._describe(bucket, name, objects[name])

    def start_upload(
        self, bucket: str, name: str, metadata: dict[str, Any], query: dict[str, str], *, host: str
    ) -> Reply:
        self._check("put", self._objects(bucket).get(name), query)
        self._generation += 1
        upload_id = str(self._generation)
        self._uploads[upload_id] = (bucket, name, metadata, query)
        place = f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
        return Reply(200, b"", {"Location": place})

    def upload_name(self, upload_id: str) -> str:
        with self._lock:
            return self._uploads[upload_id][1] if upload_id in self._uploads else "?"

    def finish_upload(self, upload_id: str, content_range: str, data: bytes, checksum: str | None) -> Reply:
        if upload_id not in self._uploads:
            raise RefusedError(404, "no such upload")
        if content_range != f"bytes 0-{len(data) - 1}/{len(data)}":
            raise RefusedError(501, f"an upload in several parts: {content_range}")
        if checksum != f"crc32c={crc32c(data)}":
            raise RefusedError(400, "the bytes are not those that the checksum names")
        bucket, name, metadata, query = self._uploads.pop(upload_id)
        return self.put(bucket, name, data, metadata, query)

    def get(self, bucket: str, name: str, query: dict[str, str]) -> Reply:
        stored = self._find("get", bucket, name, query)
        headers = {"X-Goog-Generation": str(stored.generation), "X-Goog-Hash": f"crc32c={crc32c(stored.data)}"}
        return Reply(200, stored.data, headers)

    def stat(self, bucket: str, name: str, query: dict[str, str]) -> Reply:
        return self._describe(bucket, name, self._find("stat", bucket, name, query))

    def delete(self, bucket: str, name: str, query: dict[str, str]) -> Reply:
        self._find("delete", bucket, name, query)
        self._check_kept(bucket, name)
        del self._objects(bucket)[name]
        return Reply(204)

    def list(self, bucket: str, query: dict[str, str]) -> Reply:
        start = max(query.get("startOffset", ""), query.get("pageToken", ""))
        names = sorted(name for name in self._objects(bucket) if name.startswith(query.get("prefix", "")))
        names = [name for name in names if name >= start]
        page: dict[str, Any] = {"items": [{"name": name} for name in names[: self._page]]}
        if len(names) > self._page:
            page["nextPageToken"] = names[self._page]
        return Reply(200, json.dumps(page).encode(), {"Content-Type": "application/json"})

    def _objects(self, bucket: str) -> dict[str, Stored]:
        if bucket not in self.buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def _check_kept(self, bucket: str, name: str) -> None:
        """Before the precondition of a write: that is the answer which is harder to take rightly."""
        stored, keeps_s = self._objects(bucket).get(name), self.keeps_s.get(bucket, 0.0)
        if stored is not None and time.monotonic() < stored.written_s + keeps_s:
            raise RefusedError(
                403,
                f"Object '{bucket}/{name}' is subject to bucket's retention policy or object retention and cannot be "
                "deleted or overwritten until it is over",
                "retentionPolicyNotMet",
            )

    def _find(self, verb: str, bucket: str, name: str, query: dict[str, str]) -> Stored:
        stored = self._objects(bucket).get(name)
        if stored is None:
            raise RefusedError(404, f"No such object: {bucket}/{name}")
        self._check(verb, stored, query)
        return stored

    def _check(self, verb: str, stored: Stored | None, query: dict[str, str]) -> None:
        if verb in self._ignores:
            return
        generation = 0 if stored is None else stored.generation
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            raise RefusedError(412, "At least one of the pre-conditions you specified did not hold.")
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise RefusedError(304, "")

    def _describe(self, bucket: str, name: str, stored: Stored) -> Reply:
        body = stored.metadata | {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": str(stored.generation),
            "size": str(len(stored.data)),
            "crc32c": crc32c(stored.data),
        }
        return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def crc32c(data: bytes) -> str:
    """As the service writes it: base64 of the big-endian CRC-32C."""
    return base64.b64encode(struct.pack(">I", google_crc32c.value(data))).decode()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # a connection that finds the queue full is tried again after a second
    gcs: SimGcs

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()
        self.resets: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        if request in self.resets:
            # Closed at once and with nothing more to send: the other side sees a reset, not an end.
            self.resets.discard(request)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.close()
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up and hung up is nothing to tell."""

    def hang_up(self) -> None:
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body, or Nagle and delayed acknowledgement cost 40 ms
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        pass

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def do_DELETE(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        gcs = self.server.gcs
        match self.command, parts, query.get("uploadType", query.get("alt")):
            case "GET", ["storage", "v1", "b", bucket, "o"], None:
                known = {"prefix", "startOffset", "pageToken", "maxResults", "fields", "projection"}
                self._serve("list", query.get("prefix", ""), query, known, lambda: gcs.list(bucket, query))
            case "GET", ["storage", "v1", "b", bucket, "o", name], None:
                known = _CONDITIONS | {"projection"}
                self._serve("stat", name, query, known, lambda: gcs.stat(bucket, name, query))
            case "GET", ["download", "storage", "v1", "b", bucket, "o", name], "media":
                self._serve("get", name, query, _CONDITIONS | {"alt"}, lambda: gcs.get(bucket, name, query))
            case "DELETE", ["storage", "v1", "b", bucket, "o", name], None:
                self._serve("delete", name, query, _CONDITIONS, lambda: gcs.delete(bucket, name, query))
            case "POST", ["upload", "storage", "v1", "b", bucket, "o"], "media":
                known = _CONDITIONS | {"uploadType", "name"}
                name = query["name"]
                self._serve("put", name, query, known, lambda: gcs.put(bucket, name, body, {}, query))
            case "POST", ["upload", "storage", "v1", "b", bucket, "o"], "multipart":
                metadata, data = parts_of(self.headers["Content-Type"], body)
                name = metadata["name"]
                known = _CONDITIONS | {"uploadType"}
                self._serve("put", name, query, known, lambda: gcs.put(bucket, name, data, metadata, query))
            case "POST", ["upload", "storage", "v1", "b", bucket, "o"], "resumable":
                metadata = json.loads(body)
                name = metadata["name"]
                known = _CONDITIONS | {"uploadType"}
                host = self.headers["Host"]  # by whichever way it came, the rest comes too
                self._serve(
                    "start", name, query, known, lambda: gcs.start_upload(bucket, name, metadata, query, host=host)
                )
            case "PUT", ["upload", "storage", "v1", "b", _, "o"], "resumable":
                upload_id, place = query["upload_id"], self.headers["Content-Range"]
                known = {"uploadType", "upload_id"}
                self._serve(
                    "put",
                    gcs.upload_name(upload_id),
                    query,
                    known,
                    lambda: gcs.finish_upload(upload_id, place, body, self.headers["X-Goog-Hash"]),
                )
            case _:
                gcs.not_simulated.append(f"{self.command} {url.path}")
                self._send(Reply(501, b"this call is not simulated"))

    def _serve(self, verb: str, key: str, query: dict[str, str], known: set[str], apply: Callable[[], Reply]) -> None:
        if unknown := query.keys() - known - {"prettyPrint"}:
            self._send(Reply(400, f"parameters that are not simulated: {unknown}".encode()))
            return
        reply = self.server.gcs.answer(verb, key, apply)
        if isinstance(reply, Reply):
            self._send(reply)
        else:
            self.server.resets.add(self.connection)
            self.close_connection = True

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)


def parts_of(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The metadata and the bytes of a multipart upload (RFC 2387)."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    assert found is not None, content_type
    mark = b"--" + found[1].encode()
    _, first, second = body.removesuffix(b"\r\n" + mark + b"--").split(mark + b"\r\n", 2)
    metadata = first.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
    return json.loads(metadata), second.split(b"\r\n\r\n", 1)[1]
