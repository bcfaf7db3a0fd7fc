"""What a day's operations of a bucket come to by the rules, for settings that nobody has run."""

from dataclasses import replace

import pytest

from benchmarks.cloud_rules import DAY_S, WRITE_USD, Terms, operations, usd_of

ONE = Terms()


@pytest.mark.parametrize("partitions", [1, 2, 8, 100])
def test_the_load_and_the_heartbeats_cost_the_same_however_many_partitions_there_are(partitions: int) -> None:
    one, many = usd_of(ONE), usd_of(replace(ONE, partitions=partitions))
    same = {"full tiles", "entry bundles", "heartbeats"}
    for name, usd in one.items():
        assert many[name] == pytest.approx(usd if name in same else usd * partitions), name


def test_where_the_lease_outlasts_a_commit_nothing_but_commits_is_written_to_heads() -> None:
    found = operations(Terms(partitions=8))
    assert not any(found["heads in between, for the lease"])
    assert 2 * 8 * DAY_S / 4.0 < found["commits: segments and heads"][0] < 2 * 8 * DAY_S / 3.5


def test_commits_are_as_near_to_each_other_as_they_may_only_where_somebody_is_in_a_hurry() -> None:
    urgent = Terms(partitions=8, urgent=True)
    assert operations(urgent)["commits: segments and heads"][0] == 2 * 8 * DAY_S / 2.0
    assert sum(usd_of(urgent).values()) > 6.0


def test_a_log_of_eight_partitions_at_a_thousand_signals_a_second_is_under_five_dollars_a_day() -> None:
    assert sum(usd_of(Terms(partitions=8)).values()) < 5.0
    assert sum(usd_of(Terms(partitions=8, entries=True)).values()) > 5.0


def test_heads_are_never_nearer_to_each_other_than_a_bucket_takes_them() -> None:
    for lease_s in (2.0, 3.0, 5.0, 7.0):
        for commit_s in (1.1, 2.0, 5.0, 30.0):
            found = operations(Terms(lease_s=lease_s, commit_s=commit_s))
            heads = found["commits: segments and heads"][0] / 2 + found["heads in between, for the lease"][0]
            assert heads <= DAY_S, (lease_s, commit_s)


def test_what_is_computed_is_near_what_was_counted() -> None:
    """docs/scale.md: three workers, eight partitions."""
    assert sum(usd_of(Terms(partitions=8, rate_per_s=987.0)).values()) == pytest.approx(4.70, rel=0.05)


def test_a_full_tile_is_a_write_for_256_receipts_and_a_bundle_another_where_there_are_any() -> None:
    one = pytest.approx(1 / 256 * 1_000 * DAY_S * WRITE_USD / 1_000, rel=0.01)
    assert usd_of(ONE)["full tiles"] == one
    assert usd_of(ONE)["entry bundles"] == 0.0
    assert usd_of(replace(ONE, entries=True))["entry bundles"] == one
