"""A client as a gateway is one: requests over connections that stay open, from one process with nothing but sockets.

It does so little for each request (a `send`, a `recv`, a look at the first line) that the server is what is measured.
"""

import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "
LATE_S_MAX: Final = 60.0


class Answered(NamedTuple):
    """What came back: how many by status, in how many seconds, and each answer's time in seconds."""

    statuses: Counter[int]
    seconds: float
    times_s: list[float]


class _Connection:
    __slots__ = ("due_s", "got", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due_s = 0.0
        self.got = b""

    def status(self) -> int:
        """Of the answer that is complete now; 0 while it is not. Raises ConnectionError where the server hung up."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server ended the connection")
        self.got += data
        head_end = self.got.find(HEAD_END)
        if head_end < 0:
            return 0
        at = self.got.find(LENGTH, 0, head_end)
        length = int(self.got[at + len(LENGTH) : self.got.index(b"\r", at)]) if at >= 0 else 0
        if len(self.got) < head_end + len(HEAD_END) + length:
            return 0
        status = int(self.got[9:12])
        self.got = b""
        return status


class Gate:
    """Open connections to one server."""

    def __init__(self, port: int, connections: int) -> None:
        self._connections = {one.socket.fileno(): one for one in (_Connection(port) for _ in range(connections))}
        self._poll = select.epoll()
        for number in self._connections:
            self._poll.register(number, select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        for one in self._connections.values():
            one.socket.close()

    def closed_loop(self, requests: Sequence[bytes], seconds: float) -> Answered:
        """As many as are answered: on each connection the next request when the last one's answer is in."""
        statuses: Counter[int] = Counter()
        connections, clock = self._connections, time.perf_counter
        sent = 0
        begun_s = clock()
        for one in connections.values():
            one.socket.send(requests[sent % len(requests)])
            sent += 1
        waiting = len(connections)
        while waiting:
            for number, _ in self._poll.poll(LATE_S_MAX):
                one = connections[number]
                status = one.status()
                if not status:
                    continue
                statuses[status] += 1
                if clock() - begun_s < seconds:
                    one.socket.send(requests[sent % len(requests)])
                    sent += 1
                else:
                    waiting -= 1
        return Answered(statuses, clock() - begun_s, [])

    def open_loop(self, requests: Sequence[bytes], rate_per_s: float, seconds: float) -> Answered:
        """At a rate that does not care for answers; times are from when a request was due."""
        statuses: Counter[int] = Counter()
        times_s: list[float] = []
        connections, clock = self._connections, time.perf_counter
        free, late = deque(connections.values()), deque[float]()
        total = int(rate_per_s * seconds)
        begun_s = clock()
        made = answered = sent = 0
        while answered < total:
            now_s = clock()
            while made < total and begun_s + made / rate_per_s <= now_s:
                late.append(begun_s + made / rate_per_s)
                made += 1
            while free and late:
                one = free.popleft()
                one.due_s = late.popleft()
                one.socket.send(requests[sent % len(requests)])
                sent += 1
            wait_s = max(0.0, begun_s + made / rate_per_s - clock()) if made < total else LATE_S_MAX
            for number, _ in self._poll.poll(wait_s):
                one = connections[number]
                status = one.status()
                if status:
                    times_s.append(clock() - one.due_s)
                    statuses[status] += 1
                    answered += 1
                    free.append(one)
        return Answered(statuses, clock() - begun_s, times_s)
