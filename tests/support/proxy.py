"""A TCP proxy between a client and a server: a cable that can be cut, made slow, or made to carry one way alone."""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

CHUNK_BYTES: Final = 65_536
UNDER_WAY_MAX: Final = 256


class CuttableProxy:
    """Listens on an address of this machine; `host` is "host:port". Between `cut` and `mend` nobody can connect, and
    nobody is.

    `delay_s`: so much later arrives whatever goes through. `is_deaf`: what the client sends arrives, and what the
    server answers is lost, without a word to either.
    """

    def __init__(self, target: str, address: str = "127.0.0.1") -> None:
        self._target_host, _, port = target.rpartition(":")
        self._target_port = int(port)
        self._address = address
        self._port = 0
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.is_deaf = False

    @property
    def host(self) -> str:
        return f"{self._address}:{self._port}"

    async def mend(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._serve, self._address, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections and refuse new ones."""
        assert self._server is not None
        self._server.close()
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close all connections."""
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        task.add_done_callback(self._pipes.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(self._target_host, self._target_port)
            with contextlib.closing(back):
                async with asyncio.TaskGroup() as pipes:
                    pipes.create_task(self._pipe(reader, back, is_answer=False))
                    pipes.create_task(self._pipe(there, writer, is_answer=True))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        # What is under way takes its time side by side: a long cable is slow to answer, not narrow.
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY_MAX)
        async with asyncio.TaskGroup() as ends:
            ends.create_task(_read(reader, under_way, lambda: self.delay_s))
            ends.create_task(_write(writer, under_way, lambda: is_answer and self.is_deaf))


async def _read(
    reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]], delay_s: Callable[[], float]
) -> None:
    now_s = asyncio.get_running_loop().time
    data = b"-"
    while data:
        data = b""
        with contextlib.suppress(OSError):
            data = await reader.read(CHUNK_BYTES)
        await under_way.put((now_s() + delay_s(), data))


async def _write(
    writer: asyncio.StreamWriter, under_way: asyncio.Queue[tuple[float, bytes]], is_lost: Callable[[], bool]
) -> None:
    now_s = asyncio.get_running_loop().time
    while (item := await under_way.get())[1]:
        due_s, data = item
        if due_s > now_s():
            await asyncio.sleep(due_s - now_s())
        if not is_lost():
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
    writer.close()
