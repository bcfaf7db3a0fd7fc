"""`governors serve` as it is, with a notebook: when messages were sent, in hand, committed, and acknowledged.

    python -m benchmarks.noted_service NOTES serve --config …

Metrics round to buckets; a comparison with a target of a few milliseconds wants every single time. The notes are
written when the service ends, one line of JSON a note: `["batch", received_us, committed_us, [sent_us, …]]` for each
batch, `["acked", at_us, messages]` for each answered request to acknowledge.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.support_pubsub import SENT_US, now_us
from governors.cli.main import main as governors
from governors.intake import Intake
from ingest.decode.message import NO_FACTS
from ingest.decode.tenants import Facts
from ingest.pubsub import PubSubSubscriber
from ingest.source import AckResult, Batch, Disposition


def main() -> None:
    notes_path = Path(sys.argv.pop(1))
    notes: list[tuple[Any, ...]] = []
    handle, acknowledge = Intake.handle, PubSubSubscriber.acknowledge

    async def handle_and_note(self: Intake, batch: Batch, facts: Facts = NO_FACTS) -> Sequence[Disposition]:
        dispositions = await handle(self, batch, facts)
        committed_us = now_us()
        sent_us = [int(delivery.attributes[SENT_US]) for delivery in batch.deliveries if delivery.attributes]
        notes.append(("batch", batch.received_us, committed_us, sent_us))
        return dispositions

    async def acknowledge_and_note(self: PubSubSubscriber, ack_ids: Sequence[str], timeout_s: float) -> AckResult:
        result = await acknowledge(self, ack_ids, timeout_s)
        notes.append(("acked", now_us(), len(ack_ids)))
        return result

    Intake.handle = handle_and_note  # type: ignore[method-assign]
    PubSubSubscriber.acknowledge = acknowledge_and_note  # type: ignore[method-assign]
    try:
        governors()
    finally:
        notes_path.write_text("".join(json.dumps(note) + "\n" for note in notes))


if __name__ == "__main__":
    main()
