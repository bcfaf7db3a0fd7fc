"""Where each partition is, as this worker knows it: here, or with another by what was heard of it."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from governors.admission import Refused, Viewed
from governors.api.service import NotAcceptingError, SignalResult, Wait
from governors.cluster.admission_view import AdmissionView
from governors.cluster.heartbeat import Heartbeat
from governors.cluster.lines import Lines
from governors.cluster.moves import RETRY_S
from governors.cluster.ownership import ranked
from governors.cluster.workers import holder_of
from governors.tenants.operations import Operation
from ingest.signals import Signal


class Whereabouts:
    """`here` are the partitions of this worker at any moment."""

    def __init__(self, here: Collection[int], heartbeat: Heartbeat) -> None:
        self._here = here
        self._heartbeat = heartbeat

    def has(self, partition: int) -> bool:
        """Whether it is here."""
        return partition in self._here

    def url_of(self, partition: int) -> str | None:
        """The other worker that has it, None where nobody is known to."""
        holder = self._heartbeat.holder(partition)
        return None if holder is None else holder.beat.url

    def heir_of(self, partition: int) -> str | None:
        """The other worker that will have a partition which nobody has, by what is known; None where that is this one,
        or cannot be told.
        """
        heirs = [one.beat for one in self._heartbeat.members() if one.is_live and partition in one.beat.stands_by]
        first = next(iter(ranked(partition, (beat.url for beat in heirs))), None)
        return None if first == self._heartbeat.url else first

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


class Neighbours:
    """The partitions that other workers have, for the switchboard. `views` has for each what was told of its admission,
    and `on_admission(answer, governor)` is called with each answer from them.
    """

    def __init__(
        self,
        where: Whereabouts,
        lines: Lines,
        views: Mapping[int, AdmissionView],
        clock_us: Callable[[], int],
        on_admission: Callable[[str, str], None],
    ) -> None:
        self._where = where
        self._lines = lines
        self._views = views
        self._clock_us = clock_us
        self._on_admission = on_admission

    def knows(self, partition: int) -> bool:
        """Whether a worker is known to have it, or will have it in a moment."""
        return self._where.url_of(partition) is not None or self._where.heir_of(partition) is not None

    async def submit(self, partition: int, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Have signals decided there. Raises NotAcceptingError, OutcomeUnknownError."""
        refused = NotAcceptingError(f"no worker has partition {partition} now", RETRY_S)
        # Its heir knows first that it has it; that everybody has heard of that takes a second more.
        for url in (self._where.url_of(partition), self._where.heir_of(partition)):
            if url is not None:
                try:
                    return await self._lines.submit(url, signals, wait)
                except NotAcceptingError as error:
                    refused = error
        raise refused

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
        if isinstance(viewed.answer, Refused):
            self._on_admission("refused", viewed.answer.policy.partition("/")[0])
        else:
            self._on_admission("admitted", "")
        return viewed
