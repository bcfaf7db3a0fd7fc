"""Workers that share a log, each with a router: whoever is asked, the answer is that of all of them."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from governors.api.access import AccessTable
from governors.api.problem import ProblemError, render
from governors.api.respond import json_response
from governors.api.service import Reloaded, StopResult, TenantsPage, TenantView
from governors.cluster import router as router_module
from governors.cluster.forward import Forwarder
from governors.cluster.moves import Moves
from governors.cluster.ownership import partition_of
from governors.cluster.router import FOR_ALL, ONLY_YOURS, Router
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.note import Signer
from ledger.verify.documents import Consistency, Tree

PARTITIONS = 4
NAMES = [f"t-{number:02}" for number in range(20)]


def tenant_in(partition: int) -> str:
    return next(name for name in NAMES if partition_of(name, PARTITIONS) == partition)


class Asked(NamedTuple):
    """What reached a worker's application."""

    method: str
    target: str
    hop: str
    body: bytes


class Worker:
    """One that answers with its own name, and for what concerns several tenants as the real one does."""

    def __init__(self, name: str, cluster: "Cluster") -> None:
        self.name = name
        self.asked: list[Asked] = []
        self.refusal: ProblemError | None = None
        self.before_answer: Callable[[], None] = lambda: None
        self.routes: list[str] = []
        self._cluster = cluster
        self.forwarder = Forwarder(self._failed, transport=cluster)
        where = Where(name, cluster)
        self._router = Router(
            self.answer, AccessTable(), PARTITIONS, where, cluster.moves, self.forwarder, random.Random(1)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})
        await self._router(scope, receive, send)
        self.routes.append(scope["state"].get("route", ""))

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.refusal is not None:  # as the guard does, before anything of the body is read
            self.asked.append(Asked(scope["method"], scope["path"], "", b""))
            await render(self.refusal, random.Random(1))(scope, receive, send)
            return
        request = Request(scope, receive)
        mine = [number for number, owner in self._cluster.owners.items() if owner == self.name]
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        body = await request.body()
        self.asked.append(Asked(request.method, target, request.headers.get("governors-hop", ""), body))
        try:
            self.before_answer()
            response = self._response(request, mine)
        except ProblemError as problem:
            response = render(problem, random.Random(1))
        await response(scope, receive, send)

    def _response(self, request: Request, mine: list[int]) -> Any:
        match request.method, request.url.path:
            case "GET", "/v1/tenants":
                after, limit = request.query_params.get("after", ""), int(request.query_params.get("limit", 100))
                names = [name for name in NAMES if partition_of(name, PARTITIONS) in mine and name > after]
                views = [TenantView(name, "active", "standard", "NORMAL", []) for name in names[:limit]]
                return json_response(TenantsPage(views, names[limit - 1] if len(names) > limit else None))
            case "PUT" | "DELETE" as method, "/v1/emergency-stop":
                return json_response(StopResult(None, method == "PUT", f"{mine[0]}:9" if self.name != "a" else None))
            case "POST", "/v1/policies/reload":
                return json_response(Reloaded(self.name == "b", "00"))
            case _:
                return JSONResponse({"worker": self.name})

    def _failed(self) -> None:
        self._cluster.on_failed()


class Where:
    """What a worker knows: here all of them know all."""

    def __init__(self, me: str, cluster: "Cluster") -> None:
        self._me = me
        self._cluster = cluster

    def has(self, partition: int) -> bool:
        return self._cluster.owners.get(partition) == self._me

    def url_of(self, partition: int) -> str | None:
        owner = self._cluster.owners.get(partition, self._me)
        return None if owner == self._me else f"http://{owner}"

    def others(self) -> Mapping[str, Collection[int]]:
        found: dict[str, list[int]] = {}
        for partition, owner in self._cluster.owners.items():
            if owner != self._me:
                found.setdefault(f"http://{owner}", []).append(partition)
        return found


class Cluster(httpx.AsyncBaseTransport):
    """Three workers and what is between them: `a` has 0 and 1, `b` has 2 and 3, `c` has nothing."""

    def __init__(self) -> None:
        self.moves = Moves()
        self.owners = {0: "a", 1: "a", 2: "b", 3: "b"}
        self.unreachable: set[str] = set()
        self.on_failed: Callable[[], None] = lambda: None
        self.workers = {name: Worker(name, self) for name in "abc"}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host in self.unreachable:
            raise httpx.ConnectError("refused")
        return await httpx.ASGITransport(self.workers[request.url.host]).handle_async_request(request)

    async def ask(self, name: str, method: str, target: str, hop: bytes = b"", body: bytes = b"") -> httpx.Response:
        headers = {"governors-hop": hop.decode()} if hop else {}
        async with httpx.AsyncClient(transport=self, base_url=f"http://{name}") as client:
            return await client.request(method, target, headers=headers, content=body or None)

    def asked(self) -> dict[str, list[Asked]]:
        return {name: worker.asked for name, worker in self.workers.items() if worker.asked}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(router_module, "OWNER_WAIT_S", 0.02)
    return Cluster()


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


# What is about one partition


@pytest.mark.parametrize(
    "target",
    ["/v1/tenants/{tenant}", "/v1/tenants/{tenant}/receipts?limit=2", "/v1/receipts/{partition}:7",
     "/v1/receipts/{partition}:7/proof", "/v1/logs/{partition}/checkpoint", "/v1/logs/{partition}/tile/0/x001/067"],
)  # fmt: skip
async def test_what_is_about_one_partition_is_answered_by_the_worker_that_has_it(cluster: Cluster, target: str) -> None:
    for partition, owner in cluster.owners.items():
        path = target.format(partition=partition, tenant=tenant_in(partition))
        for name in "abc":
            answer = await cluster.ask(name, "GET", path)
            assert answer.json() == {"worker": owner}
            hop = "" if name == owner else ONLY_YOURS.decode()
            assert cluster.workers[owner].asked.pop() == Asked("GET", path, hop, b"")
    assert cluster.asked() == {}


@pytest.mark.parametrize(
    "path",
    ["/v1/receipts/x:1", "/v1/receipts/4:1", "/v1/receipts/:", "/v1/receipts/99999999999:1", "/v1/logs/4/checkpoint",
     "/v1/logs/-1/checkpoint", "/v1/nothing", "/v1/cluster", "/healthz", "/metrics", "/v1/admit"],
)  # fmt: skip
async def test_what_is_about_no_partition_is_answered_by_whoever_is_asked(cluster: Cluster, path: str) -> None:
    assert (await cluster.ask("c", "GET", path)).json() == {"worker": "c"}
    assert cluster.asked().keys() == {"c"}


async def test_a_body_is_handed_on_whole_and_the_route_is_noted_for_the_counters(cluster: Cluster) -> None:
    path = f"/v1/tenants/{tenant_in(2)}"
    await cluster.ask("a", "PUT", path, body=b"a body")
    assert cluster.asked() == {"b": [Asked("PUT", path, "1", b"a body")]}
    assert cluster.workers["a"].routes == ["/v1/tenants/{tenant}"]


@pytest.mark.parametrize("hop", [ONLY_YOURS, FOR_ALL, b"whatever"])
async def test_what_was_handed_on_once_is_handed_on_to_nobody(cluster: Cluster, hop: bytes) -> None:
    assert kind(await cluster.ask("a", "GET", f"/v1/tenants/{tenant_in(2)}", hop)) == (503, "not-accepting")
    assert cluster.asked() == {}


async def test_where_nobody_has_the_partition_that_is_said(cluster: Cluster) -> None:
    del cluster.owners[3]
    answer = await cluster.ask("a", "GET", "/v1/receipts/3:7")
    assert (kind(answer), answer.json()["detail"]) == ((503, "not-accepting"), "no worker has partition 3 now")


async def test_a_request_waits_for_a_partition_that_is_handed_over(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "OWNER_WAIT_S", 60.0)
    for taker in ("a", "c"):
        del cluster.owners[3]
        asking = asyncio.create_task(cluster.ask("a", "GET", "/v1/receipts/3:7"))
        await asyncio.sleep(0.01)
        assert not asking.done()
        cluster.owners[3] = taker
        cluster.moves.tell()
        assert (await asking).json() == {"worker": taker}


async def test_what_could_not_be_sent_to_one_goes_to_the_next_that_has_it(cluster: Cluster) -> None:
    cluster.unreachable.add("b")

    def it_moves() -> None:
        cluster.owners[2] = "c"
        cluster.moves.tell()

    cluster.on_failed = it_moves
    answer = await cluster.ask("a", "PUT", f"/v1/tenants/{tenant_in(2)}", body=b"a body")
    assert answer.json() == {"worker": "c"}
    assert [one.body for one in cluster.workers["c"].asked] == [b"a body"]


async def test_a_worker_that_stays_out_of_reach_is_given_up(cluster: Cluster) -> None:
    cluster.unreachable.add("b")
    assert kind(await cluster.ask("a", "GET", f"/v1/tenants/{tenant_in(2)}")) == (503, "not-accepting")


# What concerns everybody


async def test_lists_are_joined_and_everybody_is_asked_the_same_once(cluster: Cluster) -> None:
    for name in "abc":
        shown = list[str]()
        after: str | None = ""
        while after is not None:
            page = (await cluster.ask(name, "GET", f"/v1/tenants?limit=7&after={after}")).json()
            shown += [one["tenant"] for one in page["tenants"]]
            after = page["next"]
        assert shown == NAMES
    targets = [one.target for one in cluster.workers["a"].asked]
    assert targets == [one.target for one in cluster.workers["b"].asked]
    assert len(targets) == 9


async def test_what_is_done_everywhere_has_one_answer(cluster: Cluster) -> None:
    stopped = await cluster.ask("a", "PUT", "/v1/emergency-stop", body=b"a reason")
    assert msgspec.json.decode(stopped.content, type=StopResult) == StopResult(None, True, "2:9")
    assert {name: [one.body for one in asked] for name, asked in cluster.asked().items()} == {
        "a": [b"a reason"],
        "b": [b"a reason"],
    }
    reloaded = await cluster.ask("a", "POST", "/v1/policies/reload")
    assert msgspec.json.decode(reloaded.content, type=Reloaded) == Reloaded(changed=True, digest="00")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_one_that_has_nothing_has_another_ask_everybody_and_each_is_asked_once(
    cluster: Cluster, method: str
) -> None:
    answer = await cluster.ask("c", method, "/v1/emergency-stop", body=b"a reason")
    assert answer.json()["stopped"] == (method == "PUT")
    assert {name: [one.body for one in asked] for name, asked in cluster.asked().items()} == {
        "a": [b"a reason"],
        "b": [b"a reason"],
    }
    assert (await cluster.ask("c", "GET", "/v1/policies")).json() == {"worker": "a"}


async def test_who_was_asked_for_everybody_and_has_nothing_either_asks_nobody(cluster: Cluster) -> None:
    assert kind(await cluster.ask("c", "PUT", "/v1/emergency-stop", FOR_ALL)) == (503, "not-accepting")
    assert cluster.asked() == {}


async def test_where_nobody_has_anything_that_is_said(cluster: Cluster) -> None:
    cluster.owners.clear()
    assert kind(await cluster.ask("c", "PUT", "/v1/emergency-stop")) == (503, "not-accepting")


async def test_who_is_asked_for_its_own_part_asks_nobody(cluster: Cluster) -> None:
    page = (await cluster.ask("a", "GET", "/v1/tenants", ONLY_YOURS)).json()
    assert [one["tenant"] for one in page["tenants"]] == [one for one in NAMES if partition_of(one, PARTITIONS) < 2]
    assert cluster.asked().keys() == {"a"}


async def test_who_is_refused_here_is_asked_for_nothing_and_nobody_else_is_asked(cluster: Cluster) -> None:
    cluster.workers["a"].refusal = ProblemError("unauthenticated", "who are you?")
    scope: Scope = {
        "type": "http", "method": "PUT", "path": "/v1/emergency-stop", "raw_path": b"/v1/emergency-stop",
        "query_string": b"", "headers": [(b"content-length", b"9")],
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nobody's body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    await cluster.workers["a"](scope, receive, send)
    assert sent[0]["status"] == 401
    assert cluster.asked().keys() == {"a"}


async def test_a_refusal_of_one_is_the_answer_of_all(cluster: Cluster) -> None:
    cluster.workers["b"].refusal = ProblemError("pushback", "too much", retry_after_s=1.0)
    answer = await cluster.ask("a", "GET", "/v1/tenants")
    assert kind(answer) == (503, "pushback")
    assert answer.headers["retry-after"]


async def test_a_list_without_those_of_a_worker_out_of_reach_is_none(cluster: Cluster) -> None:
    cluster.unreachable.add("b")
    assert kind(await cluster.ask("a", "GET", "/v1/tenants")) == (503, "not-accepting")


async def test_a_list_without_those_of_a_partition_that_nobody_has_is_none(cluster: Cluster) -> None:
    del cluster.owners[1], cluster.owners[3]
    answer = await cluster.ask("a", "GET", "/v1/tenants")
    assert kind(answer) == (503, "not-accepting")
    assert answer.json()["detail"].startswith("no worker has partitions 1, 3, ")


async def test_a_list_waits_for_a_partition_that_another_worker_takes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "OWNER_WAIT_S", 60.0)
    del cluster.owners[3]
    asking = asyncio.create_task(cluster.ask("a", "GET", "/v1/tenants"))
    await asyncio.sleep(0.01)
    assert cluster.asked().keys() == {"a"}
    cluster.owners[3] = "c"
    cluster.moves.tell()
    assert [one["tenant"] for one in (await asking).json()["tenants"]] == NAMES


@pytest.mark.parametrize(
    ("who", "before", "after"),
    [
        ("a", None, "a"),  # it comes while this worker answers, which looked before
        ("a", "a", "b"),  # both have it, one after the other
        ("a", "a", None),
        ("b", "b", "a"),
        ("b", "b", "c"),
    ],
)
async def test_a_list_of_which_a_part_moved_meanwhile_is_none(
    cluster: Cluster, who: str, before: str | None, after: str | None
) -> None:
    def put(owner: str | None) -> None:
        cluster.owners.pop(3, None)
        if owner is not None:
            cluster.owners[3] = owner
        cluster.moves.tell()

    put(before)
    cluster.workers[who].before_answer = lambda: put(after)
    answer = await cluster.ask("a", "GET", "/v1/tenants")
    assert kind(answer) == (503, "not-accepting")
    assert answer.json()["detail"].endswith("ask again")


async def test_a_list_that_has_a_part_twice_is_none(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "OWNER_WAIT_S", 60.0)
    del cluster.owners[1]
    asking = asyncio.create_task(cluster.ask("a", "GET", "/v1/tenants"))
    await asyncio.sleep(0.01)  # it has answered for partition 0, and waits for 1
    assert cluster.asked().keys() == {"a"}
    cluster.owners.update({0: "b", 1: "c"})
    cluster.moves.tell()
    answer = await asking
    assert kind(answer) == (503, "not-accepting")
    assert "partition 0" in answer.json()["detail"]


# What somebody hands in


def it_is_not_here() -> None:
    raise ProblemError("not-accepting", "it is not here", retry_after_s=1.0)


def document(origin: str) -> bytes:
    note = sign_checkpoint(Checkpoint(origin, 1, bytes(32)), Signer(origin, bytes(32))).decode()
    return msgspec.json.encode(Consistency(note, Tree(1, bytes(32)), Tree(1, bytes(32)), [], []))


@pytest.mark.parametrize(
    ("origin", "judge"),
    [("log/2", "b"), ("log/1", None), ("log/9", None), ("log/" + "9" * 5_000, None), ("log", None)],
)
async def test_what_is_handed_in_is_judged_by_the_log_that_it_says(
    cluster: Cluster, origin: str, judge: str | None
) -> None:
    cluster.workers["a"].before_answer = it_is_not_here
    answer = await cluster.ask("a", "POST", "/v1/verify", body=document(origin))
    assert (answer.json()["worker"] if answer.status_code == 200 else None) == judge


async def test_what_can_be_judged_here_or_was_handed_on_is_judged_here(cluster: Cluster) -> None:
    assert (await cluster.ask("a", "POST", "/v1/verify", body=document("log/2"))).json() == {"worker": "a"}
    cluster.workers["a"].before_answer = it_is_not_here
    assert kind(await cluster.ask("a", "POST", "/v1/verify", ONLY_YOURS, document("log/2")))[0] == 503
    assert cluster.asked().keys() == {"a"}


# Streams


class Stream(httpx.AsyncByteStream):
    """What another worker says, for as long as the test likes."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.is_closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self.parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self) -> None:
        self.is_closed.set()


class Listening(Cluster):
    """Somebody listens at `a`: `own` is what that worker says itself, `heard` what the other one was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.own: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.status = 200
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.headers: list[httpx.Headers] = []

        async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            while (event := await self.own.get()) is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        self.router = Router(
            answer,
            AccessTable(),
            PARTITIONS,
            Where("a", self),
            self.moves,
            self.workers["a"].forwarder,
            random.Random(1),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        stream = Stream()
        self.streams.put_nowait(stream)
        return httpx.Response(200, stream=stream)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["asyncio.Task[None]"]:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                self.sent.put_nowait(message["body"])

        scope: Scope = {
            "type": "http", "method": "GET", "path": "/v1/stream", "raw_path": b"/v1/stream", "query_string": b"",
            "headers": [(b"authorization", b"Bearer t")], "state": {},
        }  # fmt: skip
        task = asyncio.create_task(self.router(scope, receive, send))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_events_of_all_workers_come_whole_whatever_way_they_were_cut() -> None:
    cluster = Listening()
    async with cluster.listening() as task:
        cluster.own.put_nowait(b": watching\n\n")
        assert await cluster.sent.get() == b": watching\n\n"
        other = await cluster.streams.get()
        assert cluster.headers[0]["governors-hop"] == "1"
        assert cluster.headers[0]["authorization"] == "Bearer t"
        other.parts.put_nowait(b": watching\n\nid: 2:1\nda")
        cluster.own.put_nowait(b"id: 0:1\ndata: x\n\n")
        assert await cluster.sent.get() == b"id: 0:1\ndata: x\n\n"
        other.parts.put_nowait(b"ta: y\n\n: still here\n\nid: 2:2\ndata: z\n")
        assert await cluster.sent.get() == b"id: 2:1\ndata: y\n\n"
        other.parts.put_nowait(b"\nid: 2:3")
        assert await cluster.sent.get() == b"id: 2:2\ndata: z\n\n"
        cluster.own.put_nowait(None)
        await task
        assert await cluster.sent.get() == b""  # the end, and nothing behind it
        assert cluster.sent.empty()
        await other.is_closed.wait()


async def test_a_worker_that_breaks_off_is_heard_again_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "LISTENERS_LOOK_S", 0.0)
    cluster = Listening()
    async with cluster.listening():
        (await cluster.streams.get()).parts.put_nowait(httpx.ReadError("reset"))
        again = await cluster.streams.get()
        again.parts.put_nowait(b"id: 2:1\n\n")
        assert await cluster.sent.get() == b"id: 2:1\n\n"
        again.parts.put_nowait(None)
        await cluster.streams.get()
        cluster.own.put_nowait(b"id: 0:1\n\n")
        assert await cluster.sent.get() == b"id: 0:1\n\n"


async def test_who_may_not_listen_here_has_nobody_listened_to() -> None:
    cluster = Listening()
    cluster.status = 403
    cluster.own.put_nowait(None)
    async with cluster.listening() as task:
        await task
    assert cluster.streams.empty()


async def test_who_goes_away_is_listened_for_no_longer() -> None:
    cluster = Listening()
    async with cluster.listening():
        other = await cluster.streams.get()
    await other.is_closed.wait()
