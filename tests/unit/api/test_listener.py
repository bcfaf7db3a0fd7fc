"""The socket that the service listens on."""

import asyncio
import socket

from governors.app import _listen


async def test_answers_are_not_held_back_for_the_acknowledgement_of_their_headers() -> None:
    nodelay: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = writer.get_extra_info("socket")
        nodelay.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = _listen("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await nodelay != 0
        writer.close()
        await writer.wait_closed()
