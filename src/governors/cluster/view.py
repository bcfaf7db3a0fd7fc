"""What `GET /v1/cluster` says, made of what was heard."""

from collections.abc import Mapping, Sequence
from typing import Literal

from governors.api.service import ClusterView, PartitionView, WorkerView
from governors.cluster.workers import Member, holder_of


def cluster_view(partitions: int, worker: str, members: Sequence[Member], here: Mapping[int, int]) -> ClusterView:
    """As `worker` sees it, that has those that are `here`, with their epochs: others hear of that later."""

    def view_of(number: int) -> PartitionView:
        if number in here:
            return PartitionView(number, worker, here[number])
        holder = holder_of(number, members)
        if holder is None or holder.beat.worker == worker:
            return PartitionView(number, None, None)
        return PartitionView(number, holder.beat.worker, holder.beat.owns[number])

    held = [view_of(number) for number in range(partitions)]
    owners = {one.owner for one in held}
    return ClusterView(worker, [_worker_view(one, is_owner=one.beat.worker in owners) for one in members], held)


def alone(partitions: int, worker: str, url: str, epochs: Mapping[int, int]) -> ClusterView:
    """Of a worker that shares its log with nobody. `epochs` are those of the partitions that it has by now."""
    held = [
        PartitionView(number, worker, epochs[number] or None) if number in epochs else PartitionView(number, None, None)
        for number in range(partitions)
    ]
    return ClusterView(worker, [WorkerView(worker, url, "owner")], held)


def _worker_view(one: Member, *, is_owner: bool) -> WorkerView:
    beat, heard_s_ago = one.beat, round(one.age_s, 1)
    if not one.is_live:
        return WorkerView(beat.worker, beat.url, "gone", heard_s_ago)
    state: Literal["leaving", "owner", "waiting"] = "leaving" if beat.leaving else "owner" if is_owner else "waiting"
    return WorkerView(beat.worker, beat.url, state, heard_s_ago, beat.stands_by)
