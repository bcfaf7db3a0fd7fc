"""What a process is seen to hold: by the kernel, and by its own metrics."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from soak.judgement import Point

from benchmarks.support_process import rss_mb
from governors.telemetry.scrape import Series, total

LATENCY: Final = "governors_publish_to_commit_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one time. `queued` are signals that wait to be decided, `held` messages not yet acknowledged."""

    at_s: float
    rss_mb: float
    files: int
    threads: int
    tasks: int
    queued: int
    held: int
    disk_mb: float


class Held(NamedTuple):
    """What a process has while nothing is to do."""

    files: int
    threads: int
    tasks: int


@dataclass(slots=True)
class Course:
    """A process through the run."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    def points(self, what: str) -> list[Point]:
        """Of one field of the samples."""
        return [Point(one.at_s, getattr(one, what)) for one in self.samples]


def sample(pid: int, metrics: Iterable[Series], at_s: float, disk_mb: float) -> Sample:
    """`metrics` are those that the process shows."""
    of = list(metrics)
    return Sample(
        at_s=round(at_s, 1),
        rss_mb=round(rss_mb(pid), 1),
        files=files_of(pid),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        tasks=int(total(of, "governors_asyncio_tasks")),
        queued=int(total(of, "governors_queued_signals")),
        held=int(total(of, "governors_pull_held_messages")),
        disk_mb=round(disk_mb, 1),
    )


def least(samples: Sequence[Sample]) -> Held:
    """Of each, the least that was seen."""
    return Held(
        min(one.files for one in samples), min(one.threads for one in samples), min(one.tasks for one in samples)
    )


def files_of(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def disk_mb(folder: Path) -> float:
    """What is below a folder, in MB (10^6 bytes)."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
    return size / 1e6
