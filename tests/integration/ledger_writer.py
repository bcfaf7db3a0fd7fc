"""Appends as fast as it can and says which events are durable, one a line, until somebody kills it."""

import asyncio
import os
import sys
from pathlib import Path

from ledger.appender import Ledger
from ledger.draft import Draft, Limits
from ledger.format.receipt import Fsm

FSM = Fsm(event="e", from_="A", machine="m", subject="s", to="B", version=1)


async def write(data_dir: Path, run: str) -> None:
    ledger = Ledger.open(
        data_dir,
        entropy=os.urandom,
        writer=run,
        encode_state=lambda value: str(value).encode(),
        limits=Limits(segment_bytes=50_000),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.run())
        number = 0
        while True:
            first = number
            for number in range(first, first + 1 + first % 7):
                last = ledger.append(
                    Draft(
                        tenant=f"t{number % 5}", event_id=f"{run}-{number}", source="test", observed_us=0, ts_us=number,
                        outcome="decided", decision="none", rule="r", evidence={}, fsm=FSM, policy_digest="d",
                        actions=(), payload=b"x" * (number % 200),
                    )
                )  # fmt: skip
                ledger.put_state("receipts", ledger.size)
            await ledger.wait_local(last)
            number += 1
            sys.stdout.write("".join(f"{run}-{each}\n" for each in range(first, number)))
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), sys.argv[2]))
