"""Who is taken for alive, and for the owner of a partition, whatever workers say and whenever they are heard."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from governors.cluster.workers import FORGET_S, LIVE_S, Beat, Workers, decode_beat, encode_beat, holder_of

NAMES = ("a", "b", "c")
beats = st.builds(
    Beat,
    worker=st.sampled_from(NAMES),
    url=st.sampled_from(["http://a:1", "https://b:2"]),
    run=st.sampled_from(["01", "02"]),
    number=st.integers(1, 5),
    owns=st.dictionaries(st.integers(0, 1), st.integers(1, 4)),
    stands_by=st.lists(st.integers(0, 1), unique=True),
    leaving=st.booleans(),
)
looks = st.lists(
    st.tuples(st.floats(0.0, 10.0), st.dictionaries(st.sampled_from(NAMES), beats)).map(
        lambda one: (one[0], {name: replace(beat, worker=name) for name, beat in one[1].items()})
    ),
    min_size=1,
    max_size=20,
)


@given(looks, st.floats(0.0, 2 * LIVE_S))
def test_a_worker_lives_for_as_long_as_what_it_says_goes_on_changing(
    heard: list[tuple[float, dict[str, Beat]]], later_s: float
) -> None:
    workers, now_s = Workers(), 0.0
    changed_at_s: dict[str, float] = {}
    last: dict[str, Beat] = {}
    for pause_s, said in heard:
        now_s += pause_s
        workers.hear(said, now_s)
        changed_at_s = {name: changed_at_s[name] if last.get(name) == beat else now_s for name, beat in said.items()}
        last = said
    now_s += later_s
    members = {one.beat.worker: one for one in workers.members(now_s)}
    assert members.keys() == last.keys()
    for name, one in members.items():
        assert one.is_live == (now_s - changed_at_s[name] <= LIVE_S)


@given(looks)
def test_the_owner_lives_says_so_and_took_the_partition_after_all_others_who_do(
    heard: list[tuple[float, dict[str, Beat]]],
) -> None:
    workers, now_s = Workers(), 0.0
    for pause_s, said in heard:
        now_s += pause_s
        workers.hear(said, now_s)
    claims = [one for one in workers.members(now_s) if one.is_live and 1 in one.beat.owns]
    owner = holder_of(1, workers.members(now_s))
    assert (owner is None) == (not claims)
    if owner is not None:
        assert owner in claims
        assert owner.beat.owns[1] == max(one.beat.owns[1] for one in claims)


@given(looks)
def test_a_worker_has_been_there_since_it_was_last_taken_for_gone(heard: list[tuple[float, dict[str, Beat]]]) -> None:
    workers, now_s = Workers(), 0.0
    since_s: dict[str, float] = {}
    for pause_s, said in heard:
        now_s += pause_s
        live_before = {one.beat.worker for one in workers.members(now_s) if one.is_live}
        workers.hear(said, now_s)
        for one in workers.members(now_s):
            if one.is_live:
                name = one.beat.worker
                since_s[name] = since_s[name] if name in live_before else now_s
                assert one.present_s == now_s - since_s[name]


def test_only_who_was_silent_for_long_is_forgotten() -> None:
    workers = Workers()
    old, new = Beat("old", "http://a:1", "01", 1, {0: 3}), Beat("new", "http://b:1", "01", 1)
    workers.hear({"old": old}, 0.0)
    workers.hear({"old": old, "new": new}, 1.0)
    assert workers.forgotten(FORGET_S) == []
    assert workers.forgotten(FORGET_S + 0.5) == ["old"]


@given(beats)
def test_a_beat_is_read_as_it_was_written(beat: Beat) -> None:
    assert decode_beat(encode_beat(beat)) == beat


@given(st.binary(max_size=200))
def test_whatever_else_lies_there_is_nobody(data: bytes) -> None:
    beat = decode_beat(data)
    assert beat is None or beat.v == 2


def test_what_another_version_says_is_not_guessed_at() -> None:
    assert decode_beat(b'{"number":1,"run":"01","url":"http://a:1","v":3,"worker":"a"}') is None
