"""Sends each request where what it is about is: answered here, handed on, or asked of everybody.

A request that another worker hands on is answered here or not at all. What concerns several tenants is asked of this
worker and of all others that have a partition, and their answers are joined: a list that lacked a part without saying
so would be worse than none.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import httpx
import msgspec
from msgspec import Struct
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from governors.api.access import AccessTable, Place
from governors.api.pages import join_actions, join_operations, join_tenants
from governors.api.problem import ProblemError, render
from governors.api.respond import json_response
from governors.api.service import ActionsPage, OperationsPage, Reloaded, StopResult, TenantsPage
from governors.cluster.forward import HOP, Forwarder, UnreachedError
from governors.cluster.moves import OWNER_WAIT_S, RETRY_S, Moves, NobodyHasItError
from governors.cluster.ownership import partition_of, read_partition
from ledger.backoff import Backoff
from ledger.errors import ProofInvalidError
from ledger.verify.documents import read_document
from ledger.verify.judge import claimed_origin

ONLY_YOURS: Final = b"1"
"""Asked of a worker for its own part."""
FOR_ALL: Final = b"2"
"""Asked of a worker for everybody's, by one that has no part itself."""
OK: Final = 200
UNAVAILABLE: Final = 503
_KEPT: Final = frozenset({b"content-type", b"retry-after", b"www-authenticate"})
HAD: Final = b"governors-partitions"
"""The header by which a worker says of which partitions its answer is."""
VERIFY: Final = "/v1/verify"
STREAM: Final = "/v1/stream"
NEED_A_PARTITION: Final = frozenset({"/v1/policies", "/v1/policies/reload", "/v1/emergency-stop"})
"""What only a worker that has a partition can answer."""
LIMIT_DEFAULT: Final = 100
LISTENERS_LOOK_S: Final = 2.0


class Map(Protocol):
    """Who has what."""

    def has(self, partition: int) -> bool:
        """Whether it is here."""
        ...

    def url_of(self, partition: int) -> str | None:
        """The other worker that has it, None where nobody is known to."""
        ...

    def others(self) -> Mapping[str, Collection[int]]:
        """The other workers that have any, and which."""
        ...


class Answer(NamedTuple):
    """A whole one."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


Join = Callable[[Sequence[bytes], QueryParams], Struct]


def _tenants(bodies: Sequence[bytes], query: QueryParams) -> Struct:
    return join_tenants([msgspec.json.decode(one, type=TenantsPage) for one in bodies], _limit(query))


def _actions(bodies: Sequence[bytes], query: QueryParams) -> Struct:
    return join_actions([msgspec.json.decode(one, type=ActionsPage) for one in bodies], _limit(query))


def _operations(bodies: Sequence[bytes], query: QueryParams) -> Struct:
    pages = [msgspec.json.decode(one, type=OperationsPage) for one in bodies]
    return join_operations(pages, query.get("after", ""), _limit(query))


def _stop(bodies: Sequence[bytes], _query: QueryParams) -> Struct:
    results = [msgspec.json.decode(one, type=StopResult) for one in bodies]
    return StopResult(None, results[0].stopped, next((one.receipt for one in results if one.receipt is not None), None))


def _reload(bodies: Sequence[bytes], _query: QueryParams) -> Struct:
    results = [msgspec.json.decode(one, type=Reloaded) for one in bodies]
    return Reloaded(any(one.changed for one in results), results[0].digest)


JOINED: Final[Mapping[tuple[str, str], Join]] = {
    ("GET", "/v1/tenants"): _tenants,
    ("GET", "/v1/actions"): _actions,
    ("GET", "/v1/operations"): _operations,
    ("PUT", "/v1/emergency-stop"): _stop,
    ("DELETE", "/v1/emergency-stop"): _stop,
    ("POST", "/v1/policies/reload"): _reload,
}
"""What is asked of everybody, and how one answer is made of theirs."""


class Router:
    """ASGI middleware of a worker that shares a log of so many `partitions`."""

    def __init__(
        self,
        app: ASGIApp,
        access: AccessTable,
        partitions: int,
        where: Map,
        moves: Moves,
        forward: Forwarder,
        rng: random.Random,
    ) -> None:
        self._app = app
        self._access = access
        self._partitions = partitions
        self._where = where
        self._moves = moves
        self._forward = forward
        self._rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = self._access.find(scope["path"])
        if place is not None:
            scope["state"]["route"] = place.route  # for the counters; whether it may be had, who answers says
        try:
            await self._route(place, scope, receive, send)
        except ProblemError as problem:
            await render(problem, self._rng)(scope, receive, send)

    async def _route(self, place: Place | None, scope: Scope, receive: Receive, send: Send) -> None:
        hop = next((value for name, value in scope["headers"] if name == HOP), b"")
        if place is None:
            await self._app(scope, receive, send)
        elif place.route == VERIFY:
            await self._verify(hop, scope, receive, send)
        elif (partition := self._partition_of(place, scope["path"])) is not None:
            await self._send_to(partition, hop, scope, receive, send)
        elif hop == ONLY_YOURS:
            await self._answer_for_mine(scope, receive, send)
        elif place.route in NEED_A_PARTITION and not self._has_any():
            await self._send_to_any(hop, scope, receive, send)
        elif place.route == STREAM and scope["method"] == "GET":
            await self._listen(scope, receive, send)
        elif (join := JOINED.get((scope["method"], place.route))) is not None:
            await self._ask_all(join, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _partition_of(self, place: Place, path: str) -> int | None:
        """The one partition that a request is about."""
        if place.tenant is not None:
            return partition_of(place.tenant, self._partitions)
        _, _, kind, *rest = [*path.split("/"), "", ""]
        if kind in {"receipts", "logs"}:
            return read_partition(rest[0].partition(":")[0], self._partitions)
        return None

    # One worker's answer

    async def _send_to(self, partition: int, hop: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        if self._where.has(partition):
            await self._app(scope, receive, send)
            return
        if hop:
            raise ProblemError("not-accepting", f"partition {partition} is not here", retry_after_s=RETRY_S)

        async def answer() -> None:
            url = None if self._where.has(partition) else self._where.url_of(partition)
            if url is None:
                await self._app(scope, receive, send)
            else:
                await self._forward.hand_on(url, ONLY_YOURS, scope, receive, send)

        backoff = Backoff(self._rng)
        try:
            await self._moves.carry_out(
                partition, answer, lambda: self._is_somewhere(partition), UnreachedError, backoff, OWNER_WAIT_S
            )
        except NobodyHasItError:
            detail = f"no worker has partition {partition} now"
            raise ProblemError("not-accepting", detail, retry_after_s=RETRY_S) from None

    async def _send_to_any(self, hop: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        url = min(self._where.others(), default=None)
        if url is None or hop:
            raise ProblemError("not-accepting", "no worker has a partition now", retry_after_s=RETRY_S)
        await self._forward.hand_on(url, FOR_ALL, scope, receive, send)

    async def _verify(self, hop: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """What somebody hands in says itself which log can judge it."""
        own, body = await self._ask_here(scope, receive)
        if own.status == UNAVAILABLE and not hop:
            partition = await asyncio.to_thread(self._claimed, body)
            url = None if partition is None else self._where.url_of(partition)
            if url is not None:
                own = _whole(await self._forward.ask(url, ONLY_YOURS, scope, body))
        await _answer(own, send)

    def _claimed(self, body: bytes) -> int | None:
        with suppress(ProofInvalidError):
            return read_partition(claimed_origin(read_document(body)).rpartition("/")[2], self._partitions)
        return None

    # Everybody's answers

    async def _ask_all(self, join: Join, scope: Scope, receive: Receive, send: Send) -> None:
        mine = self._mine()
        # First here: whoever may not have this is told so by one, before anything of a body is read.
        own, body = await self._ask_here(scope, receive)
        if own.status != OK:
            await _answer(own, send)
            return
        had = self._answered(mine)
        await self._moves.wait_until(lambda: not self._vacant(self._where.others()), OWNER_WAIT_S)
        asked = [self._forward.ask(url, ONLY_YOURS, scope, body) for url in self._where.others()]
        answers = [own]
        for one in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(one, BaseException):
                raise one
            answers.append(_whole(one))
            had += _had(one)
        refused = next((one for one in answers if one.status != OK), None)
        if refused is not None:
            await _answer(refused, send)
            return
        # Where it went from one to another meanwhile, neither has answered for it, or both have.
        if lacking := [number for number in range(self._partitions) if had.count(str(number)) != 1]:
            detail = f"{_not_answered(lacking)}; what was asked for is done in the others: ask again"
            raise ProblemError("not-accepting", detail, retry_after_s=RETRY_S)
        joined = join([one.body for one in answers], QueryParams(scope["query_string"]))
        await json_response(joined)(scope, receive, send)

    async def _answer_for_mine(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = self._mine()

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                had = ",".join(self._answered(mine)).encode()
                message = {**message, "headers": [*message["headers"], (HAD, had)]}
            await send(message)

        await self._app(scope, receive, say)

    def _answered(self, mine: set[int]) -> list[str]:
        """Of which partitions an answer is that was begun with these: of none, where others are here by now, for it
        may be of either.
        """
        return [str(number) for number in sorted(mine)] if mine == self._mine() else []

    async def _ask_here(self, scope: Scope, receive: Receive) -> tuple[Answer, bytes]:
        """This worker's own answer, and the body that it read for it."""
        status, headers, parts, body = 500, list[tuple[bytes, bytes]](), list[bytes](), bytearray()

        async def receive_noting_body() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def keep(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive_noting_body, keep)
        return Answer(status, headers, b"".join(parts)), bytes(body)

    def _vacant(self, others: Mapping[str, Collection[int]]) -> list[int]:
        elsewhere = {number for numbers in others.values() for number in numbers}
        return [number for number in range(self._partitions) if not self._where.has(number) and number not in elsewhere]

    def _is_somewhere(self, partition: int) -> bool:
        return self._where.has(partition) or self._where.url_of(partition) is not None

    def _has_any(self) -> bool:
        return bool(self._mine())

    def _mine(self) -> set[int]:
        return {number for number in range(self._partitions) if self._where.has(number)}

    # Everybody's streams

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        """This worker's stream with those of the others in it. Whoever listens is served by this worker, which ends
        it; the others come and go.
        """
        async with asyncio.TaskGroup() as tasks:
            whole = _WholeEvents(send)
            joining = tasks.create_task(self._join_streams(tasks, scope, whole))
            try:
                await self._app(scope, receive, whole.send)
            finally:
                joining.cancel()
                whole.end()

    async def _join_streams(self, tasks: asyncio.TaskGroup, scope: Scope, whole: "_WholeEvents") -> None:
        heard = whole.heard
        await whole.begun.wait()
        while whole.is_answered:
            for url in self._where.others():
                if url not in heard or heard[url].done():
                    heard[url] = tasks.create_task(self._hear(url, scope, whole))
            await asyncio.sleep(LISTENERS_LOOK_S)

    async def _hear(self, url: str, scope: Scope, whole: "_WholeEvents") -> None:
        with suppress(ProblemError):
            async with self._forward.listen(url, ONLY_YOURS, scope) as parts:
                rest = b""
                async for part in parts:
                    *events, rest = (rest + part).split(_EVENT_END)
                    for event in events:
                        if not event.startswith(b":"):
                            await whole.put(event + _EVENT_END)


_EVENT_END: Final = b"\n\n"


class _WholeEvents:
    """Sends events of several streams, none in the middle of another."""

    def __init__(self, send: Send) -> None:
        self.begun = asyncio.Event()
        self.is_answered = False
        self.heard: dict[str, asyncio.Task[None]] = {}
        self._send = send

    async def send(self, message: Message) -> None:
        """What this worker answers."""
        if message["type"] == "http.response.start":
            self.is_answered = message["status"] == OK
            await self._send(message)
            self.begun.set()
            return
        if not message.get("more_body", False):
            self.is_answered = False
        await self._send(message)

    async def put(self, event: bytes) -> None:
        """An event of another's."""
        if self.is_answered:
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    def end(self) -> None:
        """Hear nobody any more."""
        for task in self.heard.values():
            task.cancel()


def _not_answered(partitions: Sequence[int]) -> str:
    numbers = ", ".join(map(str, partitions))
    return f"no worker has partition{'s' if len(partitions) > 1 else ''} {numbers}, or got it just now"


def _had(answer: httpx.Response) -> list[str]:
    said: str = answer.headers.get(HAD.decode(), "")
    return said.split(",")


async def _answer(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


def _whole(answer: httpx.Response) -> Answer:
    headers = [(name.lower(), value) for name, value in answer.headers.raw]
    return Answer(answer.status_code, [(name, value) for name, value in headers if name in _KEPT], answer.content)


def _limit(query: QueryParams) -> int:
    # The worker's own answer has been judged before: this can be read.
    return int(query.get("limit", LIMIT_DEFAULT))
