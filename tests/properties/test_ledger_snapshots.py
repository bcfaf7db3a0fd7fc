"""Whatever the log went through, a recovery that begins at a snapshot comes to what one of the whole log comes to."""

import asyncio
import itertools
import tempfile
from pathlib import Path

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ledger_scenes import abandon, draft, running

from ledger.draft import Limits
from ledger.durable import POSIX
from ledger.format.canonical import decode
from ledger.format.receipt import Receipt
from ledger.identity import partition_folder
from ledger.recovery import fold, recover
from ledger.snapshots import list_snapshots, write_snapshot

LOG = "ledger.test/log/0"
TENANTS = ("a", "b", "c")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.sampled_from(TENANTS), min_size=1, max_size=5)),
        st.tuples(st.just("state"), st.sampled_from(["x", "y"])),
        st.sampled_from([("seal",), ("snapshot",), ("restart",), ("kill",), ("spoil",)]),
    ),
    max_size=14,
)


class Counts:
    """How many receipts each tenant has, and what a digest of all of them is."""

    def __init__(self) -> None:
        self.content: dict[str, int | str] = {}

    def on_receipt(self, index: int, receipt: Receipt) -> None:
        self.content[receipt.tenant] = int(self.content.get(receipt.tenant, 0)) + 1
        self.content["last"] = f"{index} {receipt.event_id}"

    def encode(self) -> bytes:
        return orjson.dumps(self.content, option=orjson.OPT_SORT_KEYS)

    def decode(self, data: bytes) -> None:
        self.content = orjson.loads(data)


def recovered(folder: Path, *, snapshots: bool) -> dict[str, object]:
    """All that a recovery comes to."""
    app, states = Counts(), dict[str, bytes]()
    if snapshots:
        found = recover(folder, LOG, app=app, on_state=states.__setitem__)
    else:
        found = recover(folder, LOG, on_receipt=app.on_receipt, on_state=states.__setitem__)
    found.fold_hashes()
    return {
        "app": app.content,
        "states": states,
        "chains": {name: (one.count, one.head) for name, one in found.chains.items()},
        "tree": (found.size, found.tree.root(), found.tree.hashes(), found.edge.state()),
        "log": (found.epoch, found.previous_sha256, found.sealed),
    }


async def live(data_dir: Path, sequence: list[tuple[str, ...]], numbers: "itertools.count[int]") -> None:
    """One run of a ledger, up to a restart."""
    folder = partition_folder(data_dir, 0)
    async with running(data_dir, app=Counts(), limits=Limits(segment_bytes=2_500)) as ledger:
        before = ledger.size
        owners = [decode((await ledger.read(index)).leaf).tenant for index in range(before)]
        for tenant in TENANTS:
            mine = [index for index, owner in enumerate(owners) if owner == ledger.pseudonym(tenant)]
            assert [one.index for one in await ledger.tenant_receipts(tenant, -1, 1_000)] == mine
            assert ledger.next_tseq(tenant) == len(mine)
        for kind, *given_ in sequence:
            match kind:
                case "append":
                    for tenant in given_[0]:
                        last = ledger.append(draft(next(numbers), tenant=tenant))
                    await ledger.wait_local(last)
                case "state":
                    ledger.put_state(given_[0], next(numbers))
                case "seal":
                    await ledger.seal()
                case "snapshot":
                    made = fold(folder, LOG, Counts())
                    if made is not None:
                        write_snapshot(folder, made, POSIX)
                case _:
                    for name in list_snapshots(folder, POSIX)[:1]:
                        path = folder / str(name)
                        path.write_bytes(path.read_bytes()[:-1])


@settings(max_examples=60, deadline=None)
@given(steps)
def test_a_recovery_through_snapshots_is_one_of_the_whole_log(sequence: list[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as made:
        data_dir, numbers = Path(made), itertools.count()
        runs: list[list[tuple[str, ...]]] = [[]]
        ends = []
        for step in sequence:
            if step[0] in {"restart", "kill"}:
                ends.append(step[0])
                runs.append([])
            else:
                runs[-1].append(step)
        for run, end in itertools.zip_longest(runs, ends, fillvalue="restart"):
            assert not isinstance(run, str)
            asyncio.run(live(data_dir, run, numbers))
            folder = partition_folder(data_dir, 0)
            if end == "kill" and any(folder.glob("*.seg")) and not list_snapshots(folder, POSIX):
                abandon(data_dir)
            through = recovered(folder, snapshots=True)
            assert through == recovered(folder, snapshots=False)
