"""The socket that the service listens on."""

import asyncio
import resource
import socket

import pytest

from governors.listener import FILES_OF_OURS, listen, room_for_connections


async def test_answers_are_not_held_back_for_the_acknowledgement_of_their_headers() -> None:
    nodelay: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = writer.get_extra_info("socket")
        nodelay.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = listen("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await nodelay != 0
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("soft", "hard", "room", "raised_to"),
    [
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1_000, None),
        (1_024, resource.RLIM_INFINITY, 1_000, 2_000 + FILES_OF_OURS),
        (1_024, 100_000, 1_000, 2_000 + FILES_OF_OURS),
        (1_024, 1_256, 500, 1_256),
        (10_000, 10_000, 1_000, None),
        (64, 64, 1, 64),
    ],
)
def test_connections_leave_files_for_the_rest_of_the_process(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, room: int, raised_to: int | None
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert room_for_connections(1_000) == room
    assert raised == ([] if raised_to is None else [(raised_to, hard)])
