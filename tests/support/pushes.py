"""The other side of the push routes: who decides what is pushed, and where it is put aside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from governors.auth.principal import Principal
from ingest.decode.tenants import Facts
from ingest.source import ACK, Batch, Disposition

PUSHER = Principal("push@p.iam.gserviceaccount.com", frozenset({"ingest"}))


@dataclass
class Sink:
    """Dead letters in memory; `error` is what happens to the next ones."""

    letters: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None

    async def put(
        self,
        *,
        reason: str,
        tenant: str | None,
        payload: bytes,
        attributes: Mapping[str, str],
        error: str,
        now_us: int,
    ) -> str:
        if self.error is not None:
            raise self.error
        self.letters.append({"reason": reason, "payload": payload, "attributes": dict(attributes), "error": error})
        return "memory:1"


@dataclass
class Handler:
    """Takes whatever is pushed, unless the test says otherwise."""

    answer: Disposition | Exception = ACK
    taken: list[tuple[Batch, Facts]] = field(default_factory=list)

    async def __call__(self, batch: Batch, facts: Facts) -> Sequence[Disposition]:
        self.taken.append((batch, facts))
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer]


async def pusher_of(token: bytes) -> Principal | None:
    """Whose token it is: of Google's there is one, `google`."""
    return PUSHER if token == b"google" else None
