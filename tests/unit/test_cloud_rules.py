"""What a day's operations of a bucket come to by the rules, for settings that nobody has run."""

from dataclasses import replace

import pytest

from benchmarks.cloud_rules import DAY_S, WRITE_USD, Terms, operations, usd_of

ONE = Terms()


@pytest.mark.parametrize("partitions", [1, 2, 8, 100])
def test_the_load_and_the_heartbeats_cost_the_same_however_many_partitions_there_are(partitions: int) -> None:
    one, many = usd_of(ONE), usd_of(replace(ONE, partitions=partitions))
    same = {"full tiles and bundles", "heartbeats"}
    for name, usd in one.items():
        assert many[name] == pytest.approx(usd if name in same else usd * partitions), name


def test_where_the_lease_outlasts_a_commit_nothing_but_commits_is_written_to_heads() -> None:
    terms = Terms(partitions=8, lease_s=7.5)
    found = operations(terms)
    assert not any(found["heads in between, for the lease"])
    assert found["commits: segments and heads"][0] == 2 * 8 * DAY_S / 2.0


def test_heads_are_never_nearer_to_each_other_than_a_bucket_takes_them() -> None:
    for lease_s in (2.0, 3.0, 5.0, 7.0):
        for commit_s in (1.1, 2.0, 5.0, 30.0):
            found = operations(Terms(lease_s=lease_s, commit_s=commit_s))
            heads = found["commits: segments and heads"][0] / 2 + found["heads in between, for the lease"][0]
            assert heads <= DAY_S, (lease_s, commit_s)


def test_what_is_computed_is_near_what_was_counted() -> None:
    """4.85 USD, docs/scale.md; what has changed since is less than a tenth."""
    assert sum(usd_of(replace(ONE, rate_per_s=974.0)).values()) == pytest.approx(4.85, rel=0.1)


def test_a_full_tile_and_a_bundle_are_two_writes_for_256_receipts() -> None:
    assert usd_of(ONE)["full tiles and bundles"] == pytest.approx(2 / 256 * 1_000 * DAY_S * WRITE_USD / 1_000, rel=0.01)
