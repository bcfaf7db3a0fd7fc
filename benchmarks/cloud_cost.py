"""What a day costs in operations of Cloud Storage: three workers at a steady load, every call counted.

    PYTHONPATH=tests python -m benchmarks.cloud_cost --partitions 8

The bucket is the tests' stand-in for Cloud Storage, which real `governors serve` processes reach by HTTP, so what is
counted is what Google would count. The first seconds, in which workers start, are left out. The peer is a service that
does the obvious: an object for each receipt.
"""

import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from support.buckets import PAGE
from support.sim_gcs import SimGcs

from benchmarks.cloud_rules import DAY_S, READ_USD, WRITE_USD, Terms, usd_of
from benchmarks.pipeline import make_batches
from benchmarks.report import machine, parser, print_report, scratch
from benchmarks.support_load import TENANTS
from benchmarks.support_process import Served, free_port

WRITES: Final = frozenset({"put", "start", "list"})
"""Google's class A. Deleting is free, the rest is class B."""
FREE: Final = frozenset({"delete"})
TARGET_USD: Final = 5.0
REQUEST: Final = 100
ATTEMPTS: Final = 60
RETRY_S: Final = 0.5
BUCKET: Final = "logs"
WARM_UP_S: Final = 35.0
"""The first public checkpoint, whose tiles are those of the whole log, lies in it."""


def start(folder: Path, name: str, gcs: SimGcs, partitions: int) -> Served:
    """A worker with the key of the first."""
    config, key = folder / "governors.json", folder / "signing.key"
    ledger = {"origin": "ledger.benchmark/cost"}
    config.write_text(
        json.dumps(
            {
                "tenants": {"auto_create": True},
                "ledger": ledger,
                "store": {"url": f"gs://{BUCKET}/ours"},
                "cluster": {"partitions": partitions},
            }
        )
    )
    if key.exists():
        (folder / name / "ledger").mkdir(parents=True)
        shutil.copy(key, folder / name / "ledger/signing.key")
    port = free_port()
    command = [sys.executable, "-m", "governors", "serve", "--config", str(config)]
    command += ["--data-dir", str(folder / name), "--port", str(port)]
    env = {"STORAGE_EMULATOR_HOST": gcs.url}
    served = Served(command, port, "/readyz", log=folder / f"{name}.log", env=env)
    if not key.exists():
        shutil.copy(folder / name / "ledger/signing.key", key)
    return served


def load(port: int, seconds: float, rate_per_s: int, seed: int) -> int:
    """Send signals at a rate; how many there were."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
    batches = make_batches(int(seconds * rate_per_s), TENANTS, REQUEST, seed=seed)
    begun_s, sent = time.monotonic(), 0
    for batch in batches:
        time.sleep(max(0.0, begun_s + sent / rate_per_s - time.monotonic()))
        for _ in range(ATTEMPTS):
            connection.request("POST", "/v1/signals", b"\n".join(batch), {"content-type": "application/x-ndjson"})
            response = connection.getresponse()
            body = response.read()
            if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            time.sleep(RETRY_S)  # a partition is being handed over; what was decided already is known again
        if response.status != HTTPStatus.OK:
            raise RuntimeError(f"signals were answered with {response.status}: {body[:500]!r}")
        sent += len(batch)
    connection.close()
    return sent


def measure(folder: Path, options: Any) -> dict[str, Any]:
    with SimGcs(BUCKET, page=PAGE) as gcs:
        served: list[Served] = []
        try:
            # One after the other: the first makes the key, which is the others' too. They share the partitions out
            # while the first signals come.
            for name in "abc":
                served.append(start(folder, name, gcs, options.partitions))  # noqa: PERF401 - each is to be killed
            load(served[0].port, WARM_UP_S, options.rate, seed=1)
            before, begun_s = len(gcs.calls), time.monotonic()
            signals = load(served[0].port, options.seconds, options.rate, seed=2)
            calls, took_s = gcs.calls[before:], time.monotonic() - begun_s
            for one in reversed(served):
                one.stop()
        finally:
            for one in served:
                one.kill()
    kinds = Counter(f"{call.partition(' ')[0]} {kind_of(call.partition(' ')[2])}" for call in calls)
    usd = {kind: count / took_s * DAY_S / 1_000 * price(kind) for kind, count in kinds.items()}
    total = sum(usd.values())
    return {
        "workers": len(served),
        "partitions": options.partitions,
        "rate_per_s": round(signals / took_s),
        "seconds": round(took_s, 1),
        "calls_per_day": {kind: round(count / took_s * DAY_S) for kind, count in kinds.most_common()},
        "usd_per_day": {kind: round(one, 3) for kind, one in sorted(usd.items(), key=lambda item: -item[1])},
        "total_usd_per_day": round(total, 2),
        "computed_usd_per_day": round(
            sum(usd_of(Terms(options.partitions, len(served), signals / took_s)).values()), 2
        ),
        "target_usd_per_day": TARGET_USD,
        "object_per_receipt_usd_per_day": round(signals / took_s * DAY_S / 1_000 * WRITE_USD, 2),
        "ok": total <= TARGET_USD,
    }


def kind_of(key: str) -> str:
    """What the object is for: of a partition's, the part behind its number, of a tile also its level."""
    parts = key.split("/")[1:]
    if len(parts) < 2 or not parts[0].isdigit():
        return parts[0] if parts else key
    return "/".join(parts[1:3]) if parts[1] == "tile" else parts[1]


def price(kind: str) -> float:
    verb = kind.partition(" ")[0]
    return 0.0 if verb in FREE else WRITE_USD if verb in WRITES else READ_USD


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--partitions", type=int, default=1, help="of the log")
    options.add_argument("--rate", type=int, default=1_000, help="signals a second")
    options.add_argument("--seconds", type=float, default=90.0, help="counted, a multiple of 30 for whole publications")
    given = options.parse_args()
    os.environ.pop("STORAGE_EMULATOR_HOST", None)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        report = measure(Path(folder), given)
    lines = [
        f"{report['workers']} workers, {report['partitions']} partitions",
        f"{report['rate_per_s']:,} signals/s for {report['seconds']} s; a day of it:",
        *(
            f"{report['calls_per_day'][kind]:>10,} {kind:<28} {usd:.3f} USD"
            for kind, usd in report["usd_per_day"].items()
        ),
        f"in all {report['total_usd_per_day']} USD a day, target at most {TARGET_USD:g}",
        f"computed by the rules (cloud_rules): {report['computed_usd_per_day']} USD",
        f"an object for each receipt: {report['object_per_receipt_usd_per_day']:,} USD a day",
    ]
    print_report({"benchmark": "cloud_cost", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
