"""Stand-ins for PagerDuty and Slack: real HTTP servers that follow what those document, as far as orders need it.

What goes wrong on the way is said beforehand: `posts` and `gets` are what happens to the next requests, in order, and
`unseen` is how often something is asked for before it is seen.
"""

import contextlib
import itertools
import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Fault = Literal["", "lost", "unanswered", "held"] | int
"""What happens to a request: it is `lost` on the other side, which says that all is well; it is done and `unanswered`,
for the connection ends, or `held`, until `go_on`; or it is refused with a status, and nothing is done.
"""
ROUTING_KEY = "R" * 32
API_TOKEN = "u+readonly"
BOT_TOKEN = "xoxb-1-2"
CHANNEL = "C123ABC456"


@dataclass
class Notified:
    """One of them. `posted` and `read` are the requests that arrived."""

    posts: deque[Fault] = field(default_factory=deque)
    gets: deque[Fault] = field(default_factory=deque)
    unseen: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    """Something was posted, and is done, whether or not anybody hears of it."""
    posted: list[Any] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def listening(self) -> Iterator["Notified"]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def post(self, path: str, headers: dict[str, str], body: Any, *, lost: bool) -> tuple[int, Any]:
        raise NotImplementedError

    def get(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        raise NotImplementedError

    def is_seen(self) -> bool:
        """Whether the newest is there for those who ask now."""
        self.unseen -= 1
        return self.unseen < 0


class PagerDuty(Notified):
    """The Events API v2 and of the REST API the incidents. `keyed`: incidents have the key of their event; otherwise
    their alerts have it.
    """

    def __init__(self, *, keyed: bool = False) -> None:
        super().__init__()
        self.incidents: dict[str, str] = {"PT4KHLK": "somebody-else"}
        self._keyed = keyed

    def post(self, path: str, headers: dict[str, str], body: Any, *, lost: bool) -> tuple[int, Any]:
        assert (path, headers["content-type"]) == ("/v2/enqueue", "application/json")
        if body["routing_key"] != ROUTING_KEY:
            return 400, {"status": "invalid event", "message": "Event object is invalid", "errors": ["routing_key"]}
        key = body["dedup_key"]
        if not lost and key not in self.incidents.values():
            self.incidents[f"Q{len(self.incidents)}"] = key
        return 202, {"status": "success", "message": "Event processed", "dedup_key": key}

    def get(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        if headers.get("authorization") != f"Token token={API_TOKEN}":
            return 401, {"error": {"code": 2006, "message": "Unauthorized"}}
        assert headers["accept"] == "application/vnd.pagerduty+json;version=2"
        match path.split("/")[1:]:
            case ["incidents"]:
                wanted = query.get("incident_key")
                there = self.incidents if self.is_seen() else {"PT4KHLK": "somebody-else"}
                found = [
                    {"id": name, "incident_key": key if self._keyed else None, "status": "triggered"}
                    for name, key in there.items()
                    if wanted in (None, key)
                ]
                return 200, {"incidents": found, "limit": 25, "offset": 0, "more": False}
            case ["incidents", name, "alerts"] if name in self.incidents:
                return 200, {"alerts": [{"id": "A1", "alert_key": self.incidents[name], "status": "triggered"}]}
        return 404, {"error": {"code": 2100, "message": "Not Found"}}


class Slack(Notified):
    """Incoming webhooks, and of the Web API what posts to a channel and gives back its history."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)

    def post(self, path: str, headers: dict[str, str], body: Any, *, lost: bool) -> tuple[int, Any]:
        if path.startswith("/services/"):
            return 200, "ok" if body.get("text") else "no_text"
        assert (path, headers["content-type"]) == ("/api/chat.postMessage", "application/json")
        if headers.get("authorization") != f"Bearer {BOT_TOKEN}":
            return 200, {"ok": False, "error": "invalid_auth"}
        if body["channel"] != CHANNEL:
            return 200, {"ok": False, "error": "channel_not_found"}
        ts = f"1795348800.{next(self._numbers):06}"
        if not lost:
            self.messages.append({"type": "message", "ts": ts, "text": body["text"], "metadata": body["metadata"]})
        return 200, {"ok": True, "channel": CHANNEL, "ts": ts, "message": {"text": body["text"]}}

    def get(self, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        assert path == "/api/conversations.history"
        if headers.get("authorization") != f"Bearer {BOT_TOKEN}":
            return 200, {"ok": False, "error": "invalid_auth"}
        if query["channel"] != CHANNEL:
            return 200, {"ok": False, "error": "channel_not_found"}
        there = [one for one in self.messages if float(one["ts"]) > float(query.get("oldest", "0"))]
        there = there if self.is_seen() else []
        kept = ("type", "ts", "text", *(["metadata"] if query.get("include_all_metadata") == "true" else []))
        messages = [{name: one[name] for name in kept} for one in reversed(there)]
        return 200, {"ok": True, "messages": messages[: int(query.get("limit", "100"))], "has_more": False}


def _handler_of(notified: Notified) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            notified.posted.append(body)
            fault = notified.posts.popleft() if notified.posts else ""
            if isinstance(fault, int):
                self._answer(fault, {"message": "not now"})
                return
            status, said = notified.post(self.path, self._headers(), body, lost=fault == "lost")
            notified.done.set()
            if fault == "held":
                notified.go_on.wait()
            if fault in {"unanswered", "held"}:
                self.close_connection = True
                return
            self._answer(status, said)

        def do_GET(self) -> None:
            notified.read.append(self.path)
            fault = notified.gets.popleft() if notified.gets else ""
            if isinstance(fault, int):
                self._answer(fault, {"message": "not now"})
                return
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            self._answer(*notified.get(url.path, query, self._headers()))

        def _headers(self) -> dict[str, str]:
            return {name.lower(): value for name, value in self.headers.items()}

        def _answer(self, status: int, said: Any) -> None:
            body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("retry-after", "17")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
