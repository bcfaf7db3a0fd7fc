"""Where each partition is, as this worker knows it: here, or with another by what was heard of it."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from governors.admission import Viewed, refused_by
from governors.api.service import NotAcceptingError, SignalResult, Wait
from governors.cluster.admission_view import AdmissionView
from governors.cluster.heartbeat import Heartbeat
from governors.cluster.lines import Lines
from governors.cluster.moves import RETRY_S
from governors.cluster.workers import Member, holder_of
from governors.tenants.operations import Operation
from ingest.signals import Signal


class _Seen(NamedTuple):
    """What was found out about a partition, while heartbeats said that `holder` has it: it is at `url`, or not where it
    was.
    """

    holder: tuple[str, int] | None
    url: str | None


class Whereabouts:
    """`here` are the partitions of this worker at any moment. Where others have been asked about one, that holds until
    heartbeats say something new of it, which takes them seconds.
    """

    def __init__(self, here: Collection[int], heartbeat: Heartbeat) -> None:
        self._here = here
        self._heartbeat = heartbeat
        self._seen: dict[int, _Seen] = {}

    def has(self, partition: int) -> bool:
        """Whether it is here."""
        return partition in self._here

    def url_of(self, partition: int) -> str | None:
        """The other worker that has it, None where nobody is known to."""
        holder = self._heartbeat.holder(partition)
        seen = self._seen.get(partition)
        if seen is not None and seen.holder == _tenure(holder, partition):
            return seen.url
        return None if holder is None else holder.beat.url

    def see(self, partition: int, url: str | None) -> None:
        """It is there, or not where it was."""
        self._seen[partition] = _Seen(_tenure(self._heartbeat.holder(partition), partition), url)

    def candidates(self, partition: int) -> list[str]:
        """The other workers that may have it: who said so last, and who stands by for it."""
        members = [one for one in self._heartbeat.members() if one.is_live and one.beat.url != self._heartbeat.url]
        return list(
            dict.fromkeys(
                one.beat.url for one in members if partition in one.beat.owns or partition in one.beat.stands_by
            )
        )

    def workers(self) -> int:
        """How many there are, this one included."""
        return 1 + len(self.everybody_else())

    def everybody_else(self) -> Mapping[str, Sequence[int]]:
        """The addresses of all other workers, and the partitions that each has."""
        heartbeat = self._heartbeat
        live = {one.beat.url for one in heartbeat.members() if one.is_live and one.beat.url != heartbeat.url}
        return {**dict.fromkeys(live, ()), **self.others()}

    def others(self) -> Mapping[str, Sequence[int]]:
        """The other workers that have any, and which."""
        members = self._heartbeat.members()
        found: dict[str, list[int]] = {}
        for partition in sorted({number for one in members for number in one.beat.owns}):
            holder = holder_of(partition, members)
            if holder is not None and holder.beat.worker != self._heartbeat.worker and not self.has(partition):
                found.setdefault(holder.beat.url, []).append(partition)
        return found


def _tenure(holder: Member | None, partition: int) -> tuple[str, int] | None:
    return None if holder is None else (holder.beat.worker, holder.beat.owns[partition])


class Neighbours:
    """The partitions that other workers have, for the switchboard. `views` has for each what was told of its admission,
    and `on_admission` is called with whose rule refused, for each answer from them.
    """

    def __init__(
        self,
        where: Whereabouts,
        lines: Lines,
        views: Mapping[int, AdmissionView],
        clock_us: Callable[[], int],
        on_admission: Callable[[str], None],
    ) -> None:
        self._where = where
        self._lines = lines
        self._views = views
        self._clock_us = clock_us
        self._on_admission = on_admission

    def knows(self, partition: int) -> bool:
        """Whether a worker is known to have it."""
        return self._where.url_of(partition) is not None

    async def submit(self, partition: int, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Have signals decided there. Raises NotAcceptingError, OutcomeUnknownError."""
        url = self._where.url_of(partition)
        if url is None:
            raise NotAcceptingError(f"no worker has partition {partition} now", RETRY_S)
        try:
            return await self._lines.submit(url, signals, wait)
        except NotAcceptingError:
            # Many wait for the same one. They send nothing before somebody was found who has it.
            self._where.see(partition, None)
            raise

    async def record_operation(self, operation: Operation) -> None:
        """Have a receipt left by a worker that has a partition. Raises NotAcceptingError, OutcomeUnknownError."""
        url = min(self._where.others(), default=None)
        if url is None:
            raise NotAcceptingError("no worker has a partition now", RETRY_S)
        await self._lines.record_operation(url, operation)

    def admit(self, partition: int, tenant: str, klass: str, user: str, cost: int) -> Viewed:
        """Answer by what was told last."""
        now_s = asyncio.get_running_loop().time()
        viewed = self._views[partition].admit(tenant, klass, user or None, cost, self._clock_us(), now_s)
        self._on_admission(refused_by(viewed.answer))
        return viewed
