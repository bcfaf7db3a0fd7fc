"""Sends a load to a service and looks at what became of it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from random import Random
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson

from governors.cli.load_figures import Figures
from governors.cli.load_plan import Load, signal_of
from governors.telemetry.scrape import value_of

GIVE_UP_S: Final = 60.0
"""How long a request is sent again by default: longer than a takeover takes."""
BACKOFF_S: Final = 0.25
BACKOFF_S_MAX: Final = 5.0
BATCH_MAX: Final = 1_000
"""Signals in one request at most, where a lane is behind."""
PAGE: Final = 1_000
MEMORY: Final = "governors_process_resident_memory_bytes"
WARM_UP: Final = 0.1
"""Share of the test after which memory is looked at first: until then caches and pools fill."""


class LoadError(Exception):
    """The test cannot be made; the message says why."""


@contextlib.asynccontextmanager
async def client_of(url: str, token: str, connections: int) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a connection for each lane, and some to look with."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=connections + 4, max_keepalive_connections=connections + 4)
    timeout = httpx.Timeout(40.0, connect=5.0, pool=60.0)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=timeout) as client:
        yield client


class LoadRun:
    """One test: `prepare`, `send`, `look_back`. The figures grow meanwhile."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        load: Load,
        clock_us: Callable[[], int],
        rng: Random,
        give_up_s: float = GIVE_UP_S,
        wait: str = "local",
    ) -> None:
        self._client = client
        self._load = load
        self._clock_us = clock_us
        self._rng = rng
        self._give_up_s = give_up_s
        self._wait = wait
        self._first_receipt: dict[str, int] = {}
        self.figures = Figures(load.tenants, load.rate_per_s, load.seconds)

    async def prepare(self) -> None:
        """Make the tenants known. Raises LoadError."""
        for tenant in range(self._load.tenants):
            name = self._load.name(tenant)
            change = {"entitlement": "active", "reason": "load test"}
            response = await self._ask("PUT", f"/v1/tenants/{name}", json=change)
            if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                # A token that may only send can still test, where the tenants are known or may be made by sending.
                return
            if response.is_error:
                raise LoadError(f"the tenant {name} could not be made: {_said(response)}")

    async def send(self) -> None:
        """All of it, at its pace, and wait for the answers."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch_memory(begun_s))
            async with asyncio.TaskGroup() as lanes:
                for lane in range(self._load.lanes):
                    lanes.create_task(self._drive(lane, begun_s))
            self.figures.lasted_s = max(self._load.seconds, loop.time() - begun_s)
            watching.cancel()
        await self._note_memory()

    async def _drive(self, lane: int, begun_s: float) -> None:
        load, loop = self._load, asyncio.get_running_loop()
        sent = 0
        # Lanes take turns, so that the load is even and does not come in beats.
        due_s = load.interval_s * (lane + 1) / load.lanes
        total = load.due(lane, load.seconds)
        while sent < total:
            if (ahead_s := begun_s + due_s - loop.time()) > 0:
                await asyncio.sleep(ahead_s)
                self.figures.woke(loop.time() - begun_s - due_s)
            # What fell due while an answer was waited for goes together, each part with its own moment.
            parts: list[tuple[float, int]] = []
            first = sent
            while begun_s + due_s <= loop.time() and sent < total and sent - first < BATCH_MAX:
                until = load.due(lane, due_s) if due_s < load.seconds else total
                if until > sent:
                    parts.append((begun_s + due_s, until - sent))
                    sent = until
                due_s += load.interval_s
            if parts:
                await self._post(lane, range(first, sent), parts)

    async def _post(self, lane: int, numbers: range, parts: list[tuple[float, int]]) -> None:
        """Send until it is answered, each time under the same ids, or given up. `parts`: when how many fell due."""
        now_us = self._clock_us()
        signals = [signal_of(self._load, lane, number, now_us) for number in numbers]
        body = b"\n".join(orjson.dumps(signal) for signal in signals)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        headers = {"content-type": "application/x-ndjson"}
        self.figures.sent += len(signals)
        wait_s = BACKOFF_S
        while True:
            try:
                response = await self._client.post(
                    "/v1/signals", content=body, params={"wait": self._wait}, headers=headers
                )
                if response.status_code == HTTPStatus.OK:
                    results: list[dict[str, Any]] = orjson.loads(response.content)["results"]
                    if all("retry_after_s" not in result.get("error", {}) for result in results):
                        break
                elif not _passes(response.status_code):
                    raise LoadError(f"signals are not taken: {_said(response)}")
            except (httpx.TransportError, orjson.JSONDecodeError):
                pass
            if loop.time() - begun_s > self._give_up_s:
                return
            self.figures.again += 1
            await asyncio.sleep(wait_s * self._rng.uniform(0.5, 1.0))
            wait_s = min(BACKOFF_S_MAX, wait_s * 2)
        answered_s = loop.time()
        at = 0
        for due_s, count in parts:
            self.figures.answer(answered_s - due_s, results[at : at + count])
            at += count
        for signal, result in zip(signals, results, strict=True):
            if receipt := result.get("receipt"):
                index = int(receipt.partition(":")[2])
                tenant = signal["tenant"]
                self._first_receipt[tenant] = min(index, self._first_receipt.get(tenant, index))

    async def _watch_memory(self, begun_s: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, begun_s + self._load.seconds * WARM_UP - loop.time()))
        while True:
            await self._note_memory()
            await asyncio.sleep(max(1.0, self._load.seconds / 60))

    async def _note_memory(self) -> None:
        with contextlib.suppress(httpx.TransportError):
            response = await self._client.get("/metrics")
            if response.is_success and (found := value_of(response.text, MEMORY)) is not None:
                self.figures.rss_mb.append(round(found / 1e6, 1))

    async def look_back(self) -> None:
        """Count, of what was sent, what has no receipt and what was decided more than once."""
        decided: Counter[str] = Counter()
        receipts: set[str] = set()
        mine = f"lt-{self._load.run}-"
        for tenant, first in sorted(self._first_receipt.items()):
            after: int | None = first - 1
            while after is not None:
                path = f"/v1/tenants/{quote(tenant, safe='')}/receipts"
                response = await self._ask("GET", path, params={"after": after, "limit": PAGE})
                if response.is_error:
                    return
                page = orjson.loads(response.content)
                for entry in page["receipts"]:
                    event_id = entry["receipt"]["event_id"]
                    if event_id.startswith(mine):
                        receipts.add(event_id)
                        decided[event_id] += entry["receipt"]["outcome"] == "decided"
                after = page["next"]
        self.figures.missing = max(0, self.figures.answered - len(receipts))
        self.figures.decided_twice = sum(count - 1 for count in decided.values() if count > 1)

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer; what comes too soon is asked again when the service said."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._give_up_s
        while True:
            try:
                response = await self._client.request(method, path, **options)
            except httpx.TransportError as error:
                if loop.time() > until_s:
                    raise LoadError(f"the service cannot be asked: {str(error) or type(error).__name__}") from error
                await asyncio.sleep(BACKOFF_S)
                continue
            if not _passes(response.status_code) or loop.time() > until_s:
                return response
            await asyncio.sleep(min(BACKOFF_S_MAX, float(response.headers.get("retry-after", 1))))


def _passes(status: int) -> bool:
    """Whether asking again can help."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _said(response: httpx.Response) -> str:
    try:
        document = orjson.loads(response.content)
        return f"{response.status_code}: {document.get('title')}: {document.get('detail', '')}"
    except (orjson.JSONDecodeError, AttributeError):
        return f"HTTP {response.status_code}"
