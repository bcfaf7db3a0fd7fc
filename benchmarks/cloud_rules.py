"""A day's operations of Cloud Storage by the rules that the code goes by: what `cloud_cost` counts, worked out.

    PYTHONPATH=tests python -m benchmarks.cloud_rules --partitions 8 --commit-s 10 --lease-s 40

Pure arithmetic, for settings and numbers of partitions that nobody has run yet. It takes every partition to have a
receipt in every interval, which a few tenants with much to say do not give it: it is rather too much than too little.
"""

import argparse
from dataclasses import dataclass
from typing import Final

from governors.cluster.heartbeat import LIST_EVERY, LOOK_S
from governors.cluster.workers import BEAT_S
from governors.custody import HEAD_SPACING_S, MARGIN
from ledger.format.tiles import TILE_WIDTH
from ledger.protocol.commit import RENEW_SHARE
from ledger.takeover import LOOK_S as HEAD_LOOK_S

# USD for 1,000 operations, standard storage in one region: https://cloud.google.com/storage/pricing (2025).
WRITE_USD: Final = 0.005
READ_USD: Final = 0.0004
DAY_S: Final = 86_400
LOOK_SHARE: Final = 0.9
"""Looks are spread over 0.8 to 1 of their interval."""
PUBLICATION: Final = 3
"""Writes of one: the checkpoint, and partial tiles of the two levels that have grown since the one before."""
LEAD_S: Final = 0.15
"""Before the lease falls due a commit begins: what it takes to upload its segment, and a little."""


@dataclass(frozen=True)
class Terms:
    """What the number of operations depends on."""

    partitions: int = 1
    workers: int = 3
    rate_per_s: float = 1_000.0
    commit_s: float = 2.0
    lease_s: float = 6.0
    publish_s: float = 30.0
    entries: bool = False
    """Whether each receipt is also put into an entry bundle."""
    urgent: bool = False
    """Whether somebody always waits for a commit who is in a hurry."""


def operations(terms: Terms) -> dict[str, tuple[float, float]]:
    """What for -> writes and lists (class A), reads (class B) of a day."""
    partitions, workers = terms.partitions, terms.workers
    renew_s = terms.lease_s * (1 - MARGIN) * RENEW_SHARE
    if renew_s < terms.commit_s:
        # The lease falls due first, and a commit then keeps its distance from that head.
        step_s = max(renew_s, HEAD_SPACING_S)
        between = max(1, int(terms.commit_s / step_s))
        commits = DAY_S / max(terms.commit_s, between * step_s + HEAD_SPACING_S)
    else:
        patient_s = max(terms.commit_s, min(renew_s - LEAD_S, 2 * terms.commit_s))
        between, commits = 0, DAY_S / (terms.commit_s if terms.urgent else patient_s)
    bundles = terms.rate_per_s * DAY_S / TILE_WIDTH if terms.entries else 0
    looks = DAY_S / (LOOK_S * LOOK_SHARE)
    return {
        "full tiles": (terms.rate_per_s * DAY_S / TILE_WIDTH * (1 + 1 / TILE_WIDTH), 0),
        "entry bundles": (bundles, 0),
        "commits: segments and heads": (2 * commits * partitions, 0),
        "heads in between, for the lease": (between * commits * partitions, 0),
        "publications": (PUBLICATION * DAY_S / terms.publish_s * partitions, 0),
        # One worker for each partition: a look at the head each second, and what is committed.
        "stand-bys": (0, (DAY_S / HEAD_LOOK_S + commits) * partitions),
        "heartbeats": (DAY_S / BEAT_S * workers + looks / LIST_EVERY * workers, looks * workers * (workers - 1)),
    }


def usd_of(terms: Terms) -> dict[str, float]:
    """What for -> USD a day."""
    return {
        name: writes / 1_000 * WRITE_USD + reads / 1_000 * READ_USD
        for name, (writes, reads) in operations(terms).items()
    }


def main() -> None:
    """Print it."""
    options = argparse.ArgumentParser(description=__doc__)
    known = Terms()
    options.add_argument("--partitions", type=int, default=known.partitions)
    options.add_argument("--workers", type=int, default=known.workers)
    options.add_argument("--rate", type=float, default=known.rate_per_s, help="signals a second")
    options.add_argument("--commit-s", type=float, default=known.commit_s, help="store.commit_interval_s")
    options.add_argument("--lease-s", type=float, default=known.lease_s, help="store.lease_s")
    options.add_argument("--publish-s", type=float, default=known.publish_s, help="store.publish_interval_s")
    options.add_argument("--entries", action="store_true", help="store.publish_entries")
    options.add_argument("--urgent", action="store_true", help="somebody always waits for a commit, in a hurry")
    given = options.parse_args()
    terms = Terms(
        given.partitions, given.workers, given.rate, given.commit_s, given.lease_s, given.publish_s,
        entries=given.entries, urgent=given.urgent,
    )  # fmt: skip
    usd = usd_of(terms)
    for name, (writes, reads) in operations(terms).items():
        print(f"{writes:>10,.0f} writes and lists {reads:>10,.0f} reads  {name:<34} {usd[name]:.2f} USD")
    print(f"in all {sum(usd.values()):.2f} USD a day, computed, not counted")


if __name__ == "__main__":
    main()
