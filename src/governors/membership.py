"""What a worker needs to share a log with others: a place where they reach it, its heartbeat, and its lines to them."""

import asyncio
import random
import re
import socket
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from typing import Final

import structlog

from governors.cluster.admission_follow import AdmissionFollower
from governors.cluster.admission_view import AdmissionView
from governors.cluster.credentials import Credentials, make_key, public_part
from governors.cluster.forward import Forwarder
from governors.cluster.heartbeat import Heartbeat
from governors.cluster.inquiry import Inquiry
from governors.cluster.lines import Lines
from governors.cluster.moves import Moves
from governors.cluster.whereabouts import Neighbours, Whereabouts
from governors.listener import listen, url_of
from governors.settings import Settings
from governors.telemetry.metrics import Metrics
from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.object_store import ObjectStore

GOODBYE_S: Final = 2.0
LOOPBACK: Final = "127.0.0.1"
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9.-]")


class Membership:
    """Of one worker, from now to the end of its process. `here` are the partitions that it has at any moment. Needs
    `close`.

    Making it listens. Raises OSError where the address cannot be had.
    """

    def __init__(
        self,
        settings: Settings,
        store: ObjectStore,
        partitions: int,
        here: Collection[int],
        moves: Moves,
        metrics: Metrics,
        *,
        clock_us: Callable[[], int],
        entropy: Callable[[int], bytes],
        rng: random.Random,
        is_one_of_several: bool,
    ) -> None:
        """With others on this machine (`is_one_of_several`) it listens for them where nobody else can reach it."""
        log = structlog.get_logger("governors.cluster")
        self.listener = listen(LOOPBACK, 0) if is_one_of_several else listen(settings.http.host, settings.http.port)
        name = _name(rng)
        key = make_key(entropy)
        unreached = set[str]()
        self.heartbeat = Heartbeat(
            store,
            name,
            url_of(LOOPBACK, self.listener.getsockname()[1], encrypted=False)
            if is_one_of_several
            else settings.cluster.advertise or _own_url(settings, self.listener),
            partitions,
            rng=rng,
            on_failed=lambda reason: log.warning("the other workers are not heard", reason=reason),
            key=public_part(key),
            unreached=unreached,
        )
        self.credentials = Credentials(
            name, key, self.heartbeat.members, lambda: asyncio.get_running_loop().time(), self.heartbeat.list_soon
        )
        ca = settings.cluster.ca
        self.forward = Forwarder(self.heartbeat.look_soon, ca=ca)
        self.lines = Lines(self.credentials.token, self.heartbeat.look_soon, ca=ca)
        self.where = Whereabouts(here, self.heartbeat)
        cluster = settings.cluster
        views = {
            number: AdmissionView(number, limit_s=cluster.admission_stale_s, fails=cluster.admission_fails)
            for number in range(partitions)
        }
        self.neighbours = Neighbours(self.where, self.lines, views, clock_us, metrics.admission)
        self.follower = AdmissionFollower(
            views,
            self.where.everybody_else,
            self.lines.get,
            rng,
            self._on_unreached,
            unreached,
        )
        self.inquiry = Inquiry(self.where, moves, self.lines.get, rng)
        self.follower.tell_ages(metrics.admission_view_age_seconds, self.where.has)

    def _on_unreached(self, url: str, why: str) -> None:
        structlog.get_logger("governors.cluster").warning(
            "another worker's admission is not heard", worker=url, reason=why
        )
        self.heartbeat.look_soon()

    async def close(self) -> None:
        """Say goodbye, and let go of everything."""
        with closing(self.listener):
            with suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self.heartbeat.stop()
            await self.lines.close()
            await self.forward.close()


def _name(rng: random.Random) -> str:
    """Another one in each process: what the one before it said goes out of date by itself."""
    host = _NOT_IN_A_NAME.sub("-", socket.gethostname()).strip(".-")[:64] or "worker"
    return f"{host}-{rng.getrandbits(32):08x}"


def _own_url(settings: Settings, listener: socket.socket) -> str:
    host = settings.http.host
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not listened on
    return url_of(
        socket.gethostname() if host in everywhere else host,
        listener.getsockname()[1],
        encrypted=settings.tls is not None,
    )
