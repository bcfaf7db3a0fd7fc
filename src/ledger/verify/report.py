"""The verdict on a log, as `governors verify log` prints it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ledger.verify.memory import Memory

Progress = Callable[[int, int, int], None]
"""`progress(partition, receipts, segments_left)`, after each segment."""


@dataclass(frozen=True, slots=True)
class LogError:
    """Something that no honest writer leaves. `kind` is a stable word:

    `damaged` (bytes changed), `missing`, `header`, `sequence`, `frame`, `root`, `canonical`, `tenant_chain`,
    `commitment`, `foreign` in the segments; `heads` where a heads receipt contradicts the chains; `retention` where no
    receipt says what was dropped; `snapshot`, `tile`, `entries`, `checkpoint`, `truncated`, `fork`, `rollback` where
    the log contradicts what was made or published of it, or seen before.

    `index` is the first receipt concerned, `offset` the byte in `file` where it shows.
    """

    partition: int
    index: int
    kind: str
    message: str
    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """What was verified: the first `size` receipts, and their root (hex)."""

    partition: int
    size: int
    root: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """The verdict on a log. `notes` are worth reading and no errors. `learned`: what is known of each log after this
    verification, for those of which something was known before.
    """

    receipts: int
    tenants: int
    partitions: list[PartitionReport]
    seconds: float
    errors: list[LogError]
    notes: list[str]
    learned: list[Memory] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.errors

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "receipts": self.receipts,
            "tenants": self.tenants,
            "partitions": [
                {"partition": one.partition, "size": one.size, "root": one.root} for one in self.partitions
            ],
            "seconds": round(self.seconds, 3),
            "errors": [
                {"partition": one.partition, "index": one.index, "kind": one.kind, "message": one.message,
                 "file": one.file, "offset": one.offset}
                for one in self.errors
            ],
            "notes": self.notes,
        }  # fmt: skip
