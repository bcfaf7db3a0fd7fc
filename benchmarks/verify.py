"""`governors verify log` over a log as a service leaves it: receipts, payloads, states, several segments.

It runs as an auditor runs it, once on a single core and once on all of them; the command's own seconds are reported,
and beside them those of the whole process. The log is in the page cache for everybody.

Peers: `sha256sum` over the same files, on as many cores, which only reads and hashes each byte once; and pymerkle,
which builds the tree over a slice of the same leaves and nothing else.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pymerkle import InmemoryTree

from benchmarks.report import machine, parser, print_report, scratch
from benchmarks.start import write_log
from benchmarks.stored import stored_receipts
from benchmarks.support_load import TENANTS
from ledger.format.merkle import CompactRange, leaf_hash
from ledger.identity import partition_folder

TARGET_PER_S: Final = 100_000
AIM_PER_S: Final = 400_000
_SLICE: Final = 50_000


@dataclass(frozen=True, slots=True)
class Verified:
    """What the command said of itself, and how long its process took."""

    receipts: int
    seconds: float
    process_s: float


def verify(data_dir: Path, cores: Sequence[int]) -> Verified:
    """One run on these cores."""
    command = [sys.executable, "-m", "governors", "verify", "log", str(data_dir), "--json"]
    begun_s = time.perf_counter()
    done = _run_on(cores, command)
    process_s = time.perf_counter() - begun_s
    report = json.loads(done)
    return Verified(report["receipts"], report["seconds"], process_s)


def hash_files(data_dir: Path, cores: Sequence[int]) -> float:
    """Seconds of `sha256sum` over the segments, a process for each core."""
    files = sorted(str(path) for path in partition_folder(data_dir, 0).glob("*.seg"))
    command = ["xargs", "-0", "-n", "1", "-P", str(len(cores)), "sha256sum"]
    begun_s = time.perf_counter()
    _run_on(cores, command, "\0".join(files))
    return time.perf_counter() - begun_s


def build_trees(data_dir: Path) -> tuple[float, float]:
    """Leaves a second into pymerkle's tree and into ours, over a slice of the log's."""
    leaves = [receipt for receipt, _ in islice(stored_receipts(data_dir), _SLICE)]
    begun_s = time.perf_counter()
    foreign = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        foreign.append_entry(leaf)
    foreign_root = foreign.get_root()
    between_s = time.perf_counter()
    ours = CompactRange()
    ours.extend([leaf_hash(leaf) for leaf in leaves])
    ours_root = ours.root()
    ended_s = time.perf_counter()
    if foreign_root != ours_root:
        raise AssertionError("the two trees have different roots")
    return len(leaves) / (between_s - begun_s), len(leaves) / (ended_s - between_s)


def measure(receipts: int, runs: int, folder: Path) -> dict[str, Any]:
    """Medians over alternating runs, on one core and on all."""
    data_dir = folder / "log"
    write_log(data_dir, receipts)
    log_bytes = sum(path.stat().st_size for path in partition_folder(data_dir, 0).glob("*.seg"))
    every_core = sorted(os.sched_getaffinity(0))
    results = []
    for cores in dict.fromkeys([tuple(every_core[:1]), tuple(every_core)]):
        hash_files(data_dir, cores)
        peer_s, ours = [], []
        for _ in range(runs):
            peer_s.append(hash_files(data_dir, cores))
            ours.append(verify(data_dir, cores))
        found = ours[0].receipts
        per_s = found / statistics.median(one.seconds for one in ours)
        peer_per_s = found / statistics.median(peer_s)
        results.append(
            {
                "cores": len(cores),
                "ours_per_s": round(per_s),
                "ours_whole_process_per_s": round(found / statistics.median(one.process_s for one in ours)),
                "ours_mb_per_s": round(per_s * log_bytes / found / 1e6),
                "sha256sum_per_s": round(peer_per_s),
                "sha256sum_mb_per_s": round(peer_per_s * log_bytes / found / 1e6),
                "ratio": round(per_s / peer_per_s, 3),
            }
        )
    pymerkle_per_s, tree_per_s = build_trees(data_dir)
    return {
        "receipts": found,
        "tenants": TENANTS,
        "log_mb": round(log_bytes / 1e6),
        "runs": runs,
        "results": results,
        "pymerkle_leaves_per_s": round(pymerkle_per_s),
        "our_tree_leaves_per_s": round(tree_per_s),
        "target_per_s_one_core": TARGET_PER_S,
        "aim_per_s": AIM_PER_S,
        "ok": results[0]["ours_per_s"] >= TARGET_PER_S,
    }


def _run_on(cores: Sequence[int], command: list[str], text: str | None = None) -> str:
    taskset = shutil.which("taskset")
    if taskset is None:
        raise RuntimeError("taskset (Debian: util-linux) is needed to keep a command on some cores")
    command = [taskset, "--cpu-list", ",".join(map(str, cores)), *command]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--receipts", type=int, default=300_000)
    options.add_argument("--runs", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        report = measure(given.receipts, given.runs, Path(folder))
    lines = [f"{report['receipts']:,} receipts of {TENANTS} tenants, {report['log_mb']} MB"]
    lines += [
        f"{one['cores']} core(s): {one['ours_per_s']:,}/s, {one['ours_mb_per_s']} MB/s "
        f"(whole process {one['ours_whole_process_per_s']:,}/s); "
        f"sha256sum alone {one['sha256sum_per_s']:,}/s, {one['sha256sum_mb_per_s']} MB/s, ratio {one['ratio']}"
        for one in report["results"]
    ]
    lines += [
        f"target on one core {TARGET_PER_S:,}/s, aim {AIM_PER_S:,}/s",
        f"the tree alone: {report['our_tree_leaves_per_s']:,}/s, pymerkle {report['pymerkle_leaves_per_s']:,}/s",
    ]
    print_report({"benchmark": "verify", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
