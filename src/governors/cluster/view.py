"""What `GET /v1/cluster` says, made of what was heard."""

from collections.abc import Sequence

from governors.api.service import ClusterView, PartitionView, WorkerView
from governors.cluster.workers import Member, owner_of


def cluster_view(partition: int, worker: str, members: Sequence[Member]) -> ClusterView:
    """As `worker` sees it. `partition` is the one whose log they share."""
    owner = owner_of(members)
    views = [_worker_view(one, is_owner=owner is not None and one.beat.worker == owner.worker) for one in members]
    held = PartitionView(partition, owner.worker if owner else None, owner.epoch if owner else None)
    return ClusterView(worker, views, [held])


def alone(partition: int, worker: str, url: str, epoch: int | None) -> ClusterView:
    """Of a worker that shares its log with nobody."""
    return ClusterView(worker, [WorkerView(worker, url, "owner")], [PartitionView(partition, worker, epoch)])


def _worker_view(one: Member, *, is_owner: bool) -> WorkerView:
    if not one.is_live:
        return WorkerView(one.beat.worker, one.beat.url, "gone", round(one.age_s, 1))
    return WorkerView(one.beat.worker, one.beat.url, "owner" if is_owner else "waiting", round(one.age_s, 1))
