"""`governors serve` as it is, with a notebook: for every message, when it was sent, in hand, and committed.

    python -m benchmarks.noted_service NOTES serve --config …

Metrics round to buckets; a comparison with a target of a few milliseconds wants every single time. The notes are
written when the service ends, one line of JSON a batch: `[received_us, committed_us, [sent_us, …]]`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.support_pubsub import SENT_US, now_us
from governors.cli.main import main as governors
from governors.intake import Intake
from ingest.decode.message import NO_FACTS
from ingest.decode.tenants import Facts
from ingest.source import Batch, Disposition


def main() -> None:
    notes_path = Path(sys.argv.pop(1))
    notes: list[tuple[int, int, list[int]]] = []
    handle = Intake.handle

    async def handle_and_note(self: Intake, batch: Batch, facts: Facts = NO_FACTS) -> Sequence[Disposition]:
        dispositions = await handle(self, batch, facts)
        committed_us = now_us()
        sent_us = [int(delivery.attributes[SENT_US]) for delivery in batch.deliveries]
        notes.append((batch.received_us, committed_us, sent_us))
        return dispositions

    Intake.handle = handle_and_note  # type: ignore[method-assign]
    try:
        governors()
    finally:
        notes_path.write_text("".join(json.dumps(note) + "\n" for note in notes))


if __name__ == "__main__":
    main()
