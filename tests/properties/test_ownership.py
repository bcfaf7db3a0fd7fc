"""Who should have which partition, for all workers that there may be."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from governors.cluster.ownership import SETTLE_S, SUSPECT_S, VACANT_STEP_S, Aim, aim_of, partition_of, ranked
from governors.cluster.workers import Beat, Member, holder_of

PARTITIONS = 8
urls = st.integers(0, 99).map(lambda number: f"http://governors-{number}:8080")
crowds = st.sets(urls, min_size=1, max_size=10).map(sorted)


def member(url: str, *, present_s: float = 60.0, is_live: bool = True, **says: object) -> Member:
    return Member(Beat(f"worker at {url}", url, "01", 1, **says), 0.0, is_live, present_s)  # type: ignore[arg-type]


@st.composite
def clusters(draw: st.DrawFn) -> list[Member]:
    """Workers of which each says what it likes."""
    owns = st.dictionaries(st.integers(0, PARTITIONS - 1), st.integers(1, 5))
    stands_by = st.lists(st.integers(0, PARTITIONS - 1), unique=True)
    return [
        member(
            url,
            present_s=draw(st.floats(0.0, 30.0)),
            is_live=draw(st.booleans()),
            owns=draw(owns),
            stands_by=draw(stands_by),
            leaving=draw(st.booleans()),
        )
        for url in draw(crowds)
    ]


def test_a_tenants_partition_is_part_of_the_format() -> None:
    assert [partition_of(tenant, PARTITIONS) for tenant in ("acme", "globex", "initech", "ä")] == [0, 7, 3, 4]
    assert partition_of("acme", 1) == 0


def test_tenants_spread_over_partitions_and_partitions_over_workers() -> None:
    counts = [0] * PARTITIONS
    for number in range(8_000):
        counts[partition_of(f"tenant-{number}", PARTITIONS)] += 1
    assert 900 < min(counts) <= max(counts) < 1_100
    workers = [f"http://governors-{number}.governors:8080" for number in range(3)]
    firsts = [ranked(partition, workers)[0] for partition in range(300)]
    assert all(75 < firsts.count(url) < 125 for url in workers)


@given(crowds, urls)
def test_a_newcomer_moves_nothing_but_what_it_gets(crowd: list[str], newcomer: str) -> None:
    for partition in range(PARTITIONS):
        before, after = ranked(partition, crowd), ranked(partition, {*crowd, newcomer})
        assert [url for url in after if url != newcomer or newcomer in crowd] == before


@given(clusters(), st.integers(0, PARTITIONS - 1))
def test_nobody_who_is_asked_leaves_a_partition_that_is_free_to_nobody(cluster: list[Member], partition: int) -> None:
    able = [one for one in cluster if one.is_live and not one.beat.leaving]
    assume(able)
    holder = holder_of(partition, cluster)
    seekers = [
        one
        for one in able
        if one is not holder and aim_of(one.beat.worker, partition, cluster, has_it=False, is_leaving=False) is Aim.SEEK
    ]
    others = [one for one in able if one is not holder]
    assert len(seekers) == min(1, len(others))


@given(clusters(), st.integers(0, PARTITIONS - 1))
def test_in_the_end_everybody_tries(cluster: list[Member], partition: int) -> None:
    assume(holder_of(partition, cluster) is None)
    for one in cluster:
        vacant_s = VACANT_STEP_S * len(cluster)
        aim = aim_of(one.beat.worker, partition, cluster, has_it=False, is_leaving=False, vacant_s=vacant_s)
        assert aim is Aim.SEEK


@given(clusters(), st.integers(0, PARTITIONS - 1), st.booleans())
def test_nothing_is_handed_over_but_to_one_that_stands_by(
    cluster: list[Member], partition: int, is_leaving: bool
) -> None:
    for one in cluster:
        aim = aim_of(one.beat.worker, partition, cluster, has_it=True, is_leaving=is_leaving)
        if aim is Aim.RELEASE:
            takers = [
                other
                for other in cluster
                if other is not one
                and other.is_live
                and not other.beat.leaving
                and partition in other.beat.stands_by
                and (is_leaving or other.present_s >= SETTLE_S)
            ]
            assert takers
        else:
            assert aim is Aim.KEEP


@given(crowds)
def test_where_everybody_has_what_it_should_nothing_moves(crowd: list[str]) -> None:
    owned: dict[str, dict[int, int]] = {url: {} for url in crowd}
    for partition in range(PARTITIONS):
        owned[ranked(partition, crowd)[0]][partition] = 1
    cluster = [member(url, owns=owned[url], stands_by=list(range(PARTITIONS))) for url in crowd]
    for one in cluster:
        for partition in range(PARTITIONS):
            has_it = partition in one.beat.owns
            aim = aim_of(one.beat.worker, partition, cluster, has_it=has_it, is_leaving=False)
            second = (ranked(partition, crowd)[1:] or [""])[0] == one.beat.url
            assert aim is (Aim.KEEP if has_it else Aim.SEEK if second else Aim.LEAVE)


def test_who_comes_back_is_first_for_what_it_had_before_its_death_is_noticed() -> None:
    dead = member("http://a:1", owns={0: 1})
    back = Member(Beat("worker a again", "http://a:1", "02", 1), 0.0, True, 1.0)
    other = member("http://b:1")
    aims = {
        name: aim_of(name, 0, [dead, back, other], has_it=False, is_leaving=False)
        for name in (back.beat.worker, other.beat.worker)
    }
    # Whoever of the two is not first for it stands by as before.
    assert sorted(aims.values(), key=lambda aim: aim.name) == [Aim.LEAVE, Aim.SEEK]


@given(crowds, st.booleans())
def test_what_was_at_the_holders_address_before_it_stands_by_for_nothing(crowd: list[str], is_before: bool) -> None:
    """Whoever has just started hears of both at once, and cannot tell which of them is the older one."""
    assume(len(crowd) > 1)
    for partition in range(PARTITIONS):
        url = ranked(partition, crowd)[0]
        ghost = Member(Beat("0 before" if is_before else "z before", url, "01", 1), 0.0, True, 60.0)
        cluster = [ghost, *(member(one, owns={partition: 1} if one == url else {}) for one in crowd)]
        seekers = [
            one
            for one in cluster
            if one.beat.url != url
            and aim_of(one.beat.worker, partition, cluster, has_it=False, is_leaving=False) is Aim.SEEK
        ]
        assert len(seekers) == 1


def test_who_hears_nobody_keeps_what_it_has() -> None:
    gone = [member(url, is_live=False, stands_by=[0]) for url in ("http://a:1", "http://b:1")]
    for one in gone:
        assert aim_of(one.beat.worker, 0, gone, has_it=True, is_leaving=False) is Aim.KEEP


def test_where_the_one_that_stands_by_is_late_the_next_stands_by_too() -> None:
    crowd = [f"http://governors-{number}:8080" for number in range(4)]
    first, second, third, fourth = ranked(0, crowd)
    holder = member(first, owns={0: 1})

    def seekers(age_s: float, *, answers: bool = True) -> list[str]:
        late = member(second)._replace(age_s=age_s, answers=answers)
        cluster = [holder, late, member(third), member(fourth)]
        return [
            one.beat.url
            for one in cluster[1:]
            if aim_of(one.beat.worker, 0, cluster, has_it=False, is_leaving=False) is Aim.SEEK
        ]

    assert seekers(SUSPECT_S) == [second]
    assert seekers(SUSPECT_S + 0.1) == [second, third]
    assert seekers(0.0, answers=False) == [second, third]


@pytest.mark.parametrize("is_leaving", [False, True])
def test_nothing_is_handed_over_to_one_that_may_be_gone(is_leaving: bool) -> None:
    first, second = ranked(0, ["http://a:1", "http://b:1"])
    holder, heir = member(second, owns={0: 1}), member(first, stands_by=[0])

    def aim(heir: Member) -> Aim:
        return aim_of(holder.beat.worker, 0, [holder, heir], has_it=True, is_leaving=is_leaving)

    assert aim(heir) is Aim.RELEASE
    assert aim(heir._replace(age_s=SUSPECT_S)) is Aim.RELEASE
    assert aim(heir._replace(age_s=SUSPECT_S + 0.1)) is Aim.KEEP
    assert aim(heir._replace(answers=False)) is Aim.KEEP
