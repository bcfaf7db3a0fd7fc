"""Signals on their way to the workers that have their partitions: one hop, in batches, and in the order in which they
came.

A batch is sent when the one before it is decided, with all that came meanwhile, as in a group commit; whoever waits for
the commit hears of it when it is made. Nothing is sent twice: what may have arrived is for the sender to repeat, under
the same ids.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from governors.api.peer_signals import (
    BATCH_TYPE,
    OPERATIONS_PATH,
    PATH,
    ResultFrames,
    encode_batch,
    encode_one_operation,
)
from governors.api.problem import URN
from governors.api.service import NotAcceptingError, OutcomeUnknownError, SignalResult, Wait
from governors.cluster.admission_follow import PeerUnavailableError
from governors.cluster.client import let_go, worker_client
from governors.cluster.moves import RETRY_S
from governors.tenants.operations import Operation
from ingest.signals import Signal

CONNECTIONS_MAX: Final = 100
"""Each batch has one until it is committed."""
ANSWER_S: Final = 30.0
BATCH_SIGNALS: Final = 1_000
BATCH_BYTES: Final = 2 * 1024 * 1024
WAITING_MAX: Final = 20_000
"""Signals for one worker. More are not taken in."""

_REFUSED: Final = frozenset({f"{URN}{name}" for name in ("not-accepting", "not-ready", "pushback", "unauthenticated")})
"""Problems that say that nothing was decided. The last one is of a worker that has not heard of this one yet."""


class _Parcel(NamedTuple):
    """Signals that came together, and are answered together."""

    signals: Sequence[Signal]
    wait: Wait
    answer: "asyncio.Future[list[SignalResult]]"


class _Problem(Struct):
    type: str = ""


_read_problem = msgspec.json.Decoder(_Problem).decode


class _Line:
    def __init__(self) -> None:
        self.waiting: deque[_Parcel] = deque()
        self.signals = 0
        self.is_moving = False


class Lines:
    """To the other workers. `token` is what this one shows them; `on_failed` is called when one cannot be reached.
    Needs `close`.
    """

    def __init__(
        self,
        token: Callable[[], str],
        on_failed: Callable[[], None],
        *,
        ca: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`ca` as for `worker_client`."""
        self._token = token
        self._on_failed = on_failed
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unanswered: set[asyncio.Future[list[SignalResult]]] = set()
        self._is_closed = False
        self._client = worker_client(ca, transport, CONNECTIONS_MAX)  # each batch has its own limit

    async def close(self) -> None:
        """Give up what is under way, and let go of the connections."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # What was on its way is answered by now. What is left waited for its turn, or its sending had not begun.
        for answer in self._unanswered:
            if not answer.done():
                answer.set_exception(NotAcceptingError("this worker is stopping", RETRY_S))
        await self._client.aclose()

    async def submit(self, url: str, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Have the worker at `url` decide signals. Raises NotAcceptingError (nothing was decided), OutcomeUnknownError
        (perhaps something was).
        """
        if self._is_closed:
            raise NotAcceptingError("this worker is stopping", RETRY_S)
        line = self._lines.setdefault(url, _Line())
        if line.signals + len(signals) > WAITING_MAX:
            raise NotAcceptingError(f"{line.signals} signals wait for the worker at {url}", RETRY_S)
        answer: asyncio.Future[list[SignalResult]] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answer)
        answer.add_done_callback(self._unanswered.discard)
        line.waiting.append(_Parcel(signals, wait, answer))
        line.signals += len(signals)
        if not line.is_moving:
            line.is_moving = True
            self._begin(self._work_off(url, line))
        return await answer

    async def get(self, url: str) -> bytes:
        """What another worker has at this address. Raises PeerUnavailableError."""
        try:
            response = await self._client.get(url, headers={"authorization": f"Bearer {self._token()}"})
        except httpx.HTTPError as error:
            self._on_failed()
            raise PeerUnavailableError(f"no answer ({type(error).__name__})") from error
        await let_go(response)
        if response.status_code != httpx.codes.OK:
            raise PeerUnavailableError(f"it answered {response.status_code}")
        return response.content

    async def record_operation(self, url: str, operation: Operation) -> None:
        """Have the worker at `url` leave a receipt of what an operator asked of this one. Raises as `submit` does."""
        headers = {"authorization": f"Bearer {self._token()}", "content-type": BATCH_TYPE}
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await self._client.post(
                    f"{url}{OPERATIONS_PATH}", content=encode_one_operation(operation), headers=headers
                )
        except (httpx.ConnectError, httpx.ConnectTimeout) as failed:
            self._on_failed()
            raise NotAcceptingError(f"the worker at {url} cannot be reached", RETRY_S) from failed
        except (httpx.HTTPError, TimeoutError) as failed:
            self._on_failed()
            raise _unknown(f"the worker at {url} gave no answer ({type(failed).__name__})") from failed
        await let_go(response)
        if response.status_code != httpx.codes.NO_CONTENT:
            raise _refusal(url, response.status_code, response.content)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="signals to another worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_off(self, url: str, line: _Line) -> None:
        # What comes in the same turn of the loop goes along.
        await asyncio.sleep(0)
        while parcels := _next_batch(line):
            decided = asyncio.Event()
            self._begin(self._send(url, parcels, decided.set))
            await decided.wait()
        line.is_moving = False
        if self._lines.get(url) is line:
            del self._lines[url]

    async def _send(self, url: str, parcels: Sequence[_Parcel], on_decided: Callable[[], None]) -> None:
        error: Exception = _unknown("this worker is stopping")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._ask(url, parcels, on_decided)
        except (NotAcceptingError, OutcomeUnknownError) as known:
            error = known
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as failed:
            self._on_failed()
            error = NotAcceptingError(f"the worker at {url} cannot be reached ({type(failed).__name__})", RETRY_S)
        except (httpx.HTTPError, TimeoutError) as failed:
            self._on_failed()
            error = _unknown(f"the worker at {url} gave no answer ({type(failed).__name__})")
        finally:
            on_decided()
            for one in parcels:
                if not one.answer.done():
                    one.answer.set_exception(error)

    async def _ask(self, url: str, parcels: Sequence[_Parcel], on_decided: Callable[[], None]) -> None:
        """Answer the parcels. Raises NotAcceptingError, OutcomeUnknownError, httpx.HTTPError."""
        signals = [signal for one in parcels for signal in one.signals]
        is_waited_for = any(one.wait == "committed" for one in parcels)
        request = self._client.build_request(
            "POST",
            f"{url}{PATH}",
            params={"wait": "committed" if is_waited_for else "local"},
            content=encode_batch(signals),
            headers={"authorization": f"Bearer {self._token()}", "content-type": BATCH_TYPE},
        )
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code != httpx.codes.OK:
                raise _refusal(url, response.status_code, await response.aread())
            frames = ResultFrames()
            async for part in response.aiter_raw():
                frames.take(part)
                if (results := frames.results) is not None and len(results) == len(signals):
                    on_decided()
                    _answer(parcels, results, is_committed=frames.is_committed)
            if frames.results is None or len(frames.results) != len(signals):
                raise _unknown(f"the worker at {url} gave an answer that cannot be read")
            if is_waited_for and not frames.is_committed:
                raise _unknown(f"the worker at {url} has not committed it")
        finally:
            await let_go(response)


def _answer(parcels: Sequence[_Parcel], results: Sequence[SignalResult | None], *, is_committed: bool) -> None:
    begin = 0
    for one in parcels:
        end = begin + len(one.signals)
        mine = [replace(result, durability=one.wait) for result in results[begin:end] if result is not None]
        # Whoever asked may be gone.
        if not one.answer.done():
            if not mine and one.signals:
                one.answer.set_exception(NotAcceptingError("the partition is not where it was", RETRY_S))
            elif len(mine) < len(one.signals):
                one.answer.set_exception(_unknown("some of it is not where it was"))
            elif one.wait == "local" or is_committed:
                one.answer.set_result(mine)
        begin = end


def _next_batch(line: _Line) -> list[_Parcel]:
    batch: list[_Parcel] = []
    signals = size = 0
    while line.waiting:
        one = line.waiting[0]
        bytes_of_it = sum(len(signal.payload) for signal in one.signals)
        if batch and (signals + len(one.signals) > BATCH_SIGNALS or size + bytes_of_it > BATCH_BYTES):
            break
        batch.append(line.waiting.popleft())
        signals += len(one.signals)
        size += bytes_of_it
    line.signals -= signals
    return batch


def _refusal(url: str, status: int, body: bytes) -> NotAcceptingError | OutcomeUnknownError:
    try:
        problem = _read_problem(body).type
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = ""
    if problem in _REFUSED:
        return NotAcceptingError(f"the worker at {url} takes nothing now", RETRY_S)
    return _unknown(f"the worker at {url} answered {status}")


def _unknown(why: str) -> OutcomeUnknownError:
    detail = f"{why}; what was sent may have been decided all the same: send it again with the same ids"
    return OutcomeUnknownError(detail, RETRY_S)
