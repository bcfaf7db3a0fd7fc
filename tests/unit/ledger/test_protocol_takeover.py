import msgspec
import pytest

from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.note import Signer
from ledger.protocol.head import Head, SegmentRef, segment_key
from ledger.protocol.takeover import Adopt, Fetch, Fork, LocalSegment, Quarantine, judge_log, wait_s

SIGNER = Signer("ledger.test/log/0", bytes(32))
ROOT = bytes(32)
HEAD = Head(
    checkpoint=sign_checkpoint(Checkpoint(SIGNER.name, 100, ROOT), SIGNER).decode(), epoch=3, lease_us=5_000_000,
    nonce="00" * 16, owner="a", root=ROOT.hex(), segment=SegmentRef(segment_key(60, 3, bytes(4)), "00" * 32), size=100,
    vkey=SIGNER.verifier.vkey,
)  # fmt: skip
COMMITTED = [LocalSegment(0, 1, 60), LocalSegment(60, 3, 100)]


def test_whoever_takes_over_waits_a_whole_lease_from_when_it_first_saw_the_head() -> None:
    assert wait_s(HEAD, seen_s=1_000.0, now_s=1_000.0, owner_is_gone=False) == 5.0
    assert wait_s(HEAD, seen_s=1_000.0, now_s=1_003.0, owner_is_gone=False) == 2.0
    assert wait_s(HEAD, seen_s=1_000.0, now_s=1_006.0, owner_is_gone=False) == 0.0


def test_nobody_waits_for_an_owner_that_has_handed_over_or_is_known_to_be_gone() -> None:
    assert wait_s(msgspec.structs.replace(HEAD, lease_us=0), seen_s=0.0, now_s=0.0, owner_is_gone=False) == 0.0
    assert wait_s(HEAD, seen_s=0.0, now_s=0.0, owner_is_gone=True) == 0.0


def test_a_tail_that_extends_what_is_committed_is_adopted() -> None:
    tail = [LocalSegment(100, 3, 107), LocalSegment(107, 3, 110)]
    assert judge_log([*COMMITTED, *tail], 2, HEAD, has_all=True) == Adopt(10)
    assert judge_log(COMMITTED, 2, HEAD, has_all=True) == Adopt(0)


@pytest.mark.parametrize("local", [[], COMMITTED[:1]])
def test_a_log_that_is_a_beginning_of_what_is_committed_is_completed(local: list[LocalSegment]) -> None:
    assert judge_log(local, len(local), HEAD, has_all=False) == Fetch()


@pytest.mark.parametrize("size", [70, 100, 130])
def test_what_a_fenced_writer_left_behind_is_put_aside_whatever_its_size(size: int) -> None:
    local = [COMMITTED[0], LocalSegment(60, 2, size)]
    assert judge_log(local, 1, HEAD, has_all=False) == Quarantine(1, size - 60)


@pytest.mark.parametrize("epoch", [3, 4])
@pytest.mark.parametrize("size", [70, 100, 130])
def test_a_difference_that_no_takeover_explains_is_a_fork(size: int, epoch: int) -> None:
    verdict = judge_log([COMMITTED[0], LocalSegment(60, epoch, size)], 1, HEAD, has_all=False)
    assert isinstance(verdict, Fork)
    assert "from receipt 60 on they differ" in verdict.message


def test_the_same_size_with_another_root_is_said_in_these_words() -> None:
    verdict = judge_log([COMMITTED[0], LocalSegment(60, 3, 100)], 1, HEAD, has_all=False)
    assert isinstance(verdict, Fork)
    assert "the same size and another root where 100 are committed" in verdict.message
