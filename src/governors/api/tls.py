"""Encrypted connections from the first byte on: a handshake counts as the connection that it may become.

The event loop's own server tells of a connection only once the handshake is over, keeps any number of those that never
finish it, and shows everybody the certificate that it began with.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from governors.api.connections import Connection, Connections, Member, Reason

# After a connection that could not be taken, mostly for want of files: those that end meanwhile give theirs back.
ACCEPT_AGAIN_S: Final = 0.1
# For the rest of an answer and the other side's farewell.
FAREWELL_S: Final = 20.0


async def accept_encrypted(
    listener: socket.socket,
    connections: Connections,
    context: Callable[[], ssl.SSLContext],
    connect: Callable[[Member], Connection],
) -> None:
    """Take connections until cancelled. `context` is asked for each; `connect(handshake)` makes what has it from the
    end of the handshake on.
    """
    loop = asyncio.get_running_loop()
    handshakes: set[asyncio.Task[None]] = set()
    try:
        while True:
            await _readable(listener)
            try:
                taken, _ = listener.accept()
            except BlockingIOError:  # it went away again
                continue
            except OSError:
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            taken.setblocking(False)
            handshake = _Handshake(connections, taken)
            if not connections.admit(handshake):
                connections.on_dropped(Reason.FULL)  # there is no common language yet to say so in
                taken.close()
                continue
            handshake.task = task = loop.create_task(handshake.shake(context(), connect), name="tls-handshake")
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)
            task.add_done_callback(handshake.ended)
    finally:
        for task in handshakes:
            task.cancel()
        if handshakes:
            await asyncio.wait(handshakes)


async def _readable(listener: socket.socket) -> None:
    """Until somebody waits to be accepted. Unlike the loop's `sock_accept`, this can be cancelled at any moment without
    losing whom it had just accepted.
    """
    loop = asyncio.get_running_loop()
    waits = asyncio.Event()
    loop.add_reader(listener, waits.set)
    try:
        await waits.wait()
    finally:
        loop.remove_reader(listener)


class _Handshake:
    """A connection that is not encrypted yet."""

    def __init__(self, connections: Connections, taken: socket.socket) -> None:
        self._connections = connections
        self._taken = taken
        self.task: asyncio.Task[None]

    def drop(self, reason: Reason) -> None:
        self._connections.on_dropped(reason)
        self.task.cancel()

    async def shake(self, context: ssl.SSLContext, connect: Callable[[Member], Connection]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connect(self),
                self._taken,
                ssl=context,
                ssl_handshake_timeout=self._connections.limits.head_s,
                ssl_shutdown_timeout=FAREWELL_S,
            )
        except OSError:  # of which an error of OpenSSL is one, and what the loop raises where time is up
            self._connections.on_dropped(Reason.HANDSHAKE)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Called by its task, also by one that was cancelled before it had begun."""
        self._connections.remove(self)
        if task.cancelled():
            self._taken.close()
