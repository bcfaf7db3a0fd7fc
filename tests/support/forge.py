"""Logs that a dishonest operator writes: valid in every hash and chain, and saying something that was not decided."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger.appender import Ledger
from ledger.draft import Draft
from ledger.format import canonical, chain, segment
from ledger.format.receipt import Receipt
from ledger.format.segment import COMMITMENT_KEY_BYTES, Kind
from ledger.identity import KEY_FILE, LEDGER_FOLDER, ORIGIN_FILE
from ledger.layout import list_segments

Forge = Callable[[int, Draft], list[Draft]]
"""What is written instead of a draft; the index is that of the honest log."""


@dataclass(frozen=True)
class Written:
    """One receipt of a log, and the sender's bytes."""

    index: int
    leaf: bytes
    receipt: Receipt
    payload: bytes
    frame: bytes


def written(folder: Path) -> Iterator[Written]:
    """Every receipt of a data folder's only partition."""
    partition = folder / LEDGER_FOLDER / "0"
    index = 0
    for name in list_segments(partition):
        data = (partition / str(name)).read_bytes()
        leaf = b""
        for batch in segment.scan(data).batches:
            for kind, start, end in segment.frames(data, batch):
                if kind == Kind.RECEIPT:
                    leaf = data[start:end]
                elif kind == Kind.PAYLOAD:
                    frame = data[start:end]
                    yield Written(index, leaf, canonical.decode(leaf), frame[COMMITMENT_KEY_BYTES:], frame)
                    index += 1


async def forge_log(honest: Path, forged: Path, names: list[str], forge: Forge) -> None:
    """Write a log anew under the same key and name, with other receipts where `forge` says so.

    `names` are the tenants that occur in it.
    """
    folder = forged / LEDGER_FOLDER
    folder.mkdir(parents=True)
    for file in (ORIGIN_FILE, KEY_FILE):
        shutil.copy(honest / LEDGER_FOLDER / file, folder / file)
    key = (folder / KEY_FILE).read_bytes()
    known = {chain.pseudonym(key, name): name for name in names}
    ledger = Ledger.open(forged, entropy=lambda size: b"k" * size, writer="test", encode_state=lambda state: b"")
    for one in written(honest):
        for draft in forge(one.index, _draft(one, known)):
            ledger.append(draft)
    running = asyncio.create_task(ledger.run())
    if ledger.size:
        await ledger.wait_local(ledger.size - 1)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _draft(one: Written, known: dict[str, str]) -> Draft:
    receipt = one.receipt
    return Draft(
        tenant=known[receipt.tenant],
        event_id=receipt.event_id,
        source=receipt.source,
        observed_us=receipt.observed_us,
        ts_us=receipt.ts_us,
        outcome=receipt.outcome,
        decision=receipt.decision,
        rule=receipt.rule,
        evidence=receipt.evidence,
        fsm=receipt.fsm,
        policy_digest=receipt.policy_digest,
        actions=receipt.actions,
        payload=one.payload,
    )
