import stat
from pathlib import Path

import pytest
from support.auditing import ORIGIN, VERIFIER, Log

from ledger.errors import ForkError, NoteInvalidError, ProofInvalidError, RollbackError, TrustFileError
from ledger.format.note import Signer, Verifier
from ledger.verify.memory import UNPROVEN_MAX, Memory
from ledger.verify.trust import TrustFolder


def log_of(size: int, decision: str = "none") -> Log:
    log = Log()
    for number in range(size):
        log.add("acme", decision if number == 2 else "none")
    return log


HONEST, FORKED = log_of(9), log_of(9, "forged")
NEW = Memory(ORIGIN, VERIFIER)


def test_the_newest_checkpoint_is_remembered() -> None:
    memory = NEW.learn(HONEST.note(5))
    assert memory.newest == HONEST.checkpoint(5)
    assert memory.learn(HONEST.note(5)).seen == memory.seen


def test_a_smaller_one_is_a_rollback() -> None:
    memory = NEW.learn(HONEST.note(7))
    with pytest.raises(RollbackError, match=r"^rollback: .* shows 4 receipts, but a checkpoint of 7 was seen before"):
        memory.learn(HONEST.note(4))
    assert memory.learn(HONEST.note(4), older=True) is memory


def test_another_root_at_a_size_is_a_fork() -> None:
    with pytest.raises(ForkError, match=r"^fork: .* root [0-9a-f]{64} at 7 receipts, signed and seen before; this one"):
        NEW.learn(HONEST.note(7)).learn(FORKED.note(7))
    with pytest.raises(ForkError):
        NEW.learn(HONEST.note(7)).learn(FORKED.note(7), older=True)


def test_a_longer_log_of_another_history_is_a_fork_once_it_is_asked_for_proof() -> None:
    memory = NEW.learn(HONEST.note(7))
    grown = memory.learn(FORKED.note(9))  # nobody can tell yet
    assert grown.unproven(9) == [7]
    with pytest.raises(ForkError, match="the tree that this one of 9 continues"):
        grown.learn(FORKED.note(9), {7: FORKED.checkpoint(7).root})


def test_what_a_later_one_continues_need_not_be_kept() -> None:
    memory = NEW.learn(HONEST.note(4)).learn(HONEST.note(6)).learn(HONEST.note(9))
    assert [one.checkpoint.size for one in memory.seen] == [4, 6, 9]
    linked = memory.learn(HONEST.note(9), {4: HONEST.checkpoint(4).root})
    assert [one.checkpoint.size for one in linked.seen] == [6, 9]
    assert linked.unproven(9) == [6]


def test_memory_is_bounded() -> None:
    log = log_of(UNPROVEN_MAX + 2)
    memory = NEW
    for size in range(1, UNPROVEN_MAX + 1):
        memory = memory.learn(log.note(size))
    with pytest.raises(ProofInvalidError, match="without a proof"):
        memory.learn(log.note(UNPROVEN_MAX + 1))
    proven = {size: log.checkpoint(size).root for size in range(1, UNPROVEN_MAX + 1)}
    assert len(memory.learn(log.note(UNPROVEN_MAX + 1), proven).seen) == 1


def test_a_trust_file_keeps_key_and_checkpoints(tmp_path: Path) -> None:
    folder = TrustFolder(tmp_path / "trust")
    assert folder.find(ORIGIN) is None
    assert list(folder.each()) == []
    path = folder.keep(NEW.learn(HONEST.note(4)).learn(HONEST.note(6)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for found in (folder.find(ORIGIN), *folder.each()):
        assert found is not None
        assert (found.origin, found.verifier.vkey) == (ORIGIN, VERIFIER.vkey)
        assert [one.checkpoint.size for one in found.seen] == [4, 6]


@pytest.mark.parametrize("spoil", [b"", b"{", b"\xff", b"{}"])
def test_a_spoilt_trust_file_is_not_taken_for_none(tmp_path: Path, spoil: bytes) -> None:
    folder = TrustFolder(tmp_path)
    path = folder.keep(NEW)
    path.write_bytes(spoil)
    with pytest.raises(TrustFileError, match=r"ledger\.test"):
        folder.find(ORIGIN)


def test_a_trust_file_of_another_log_or_key_is_refused(tmp_path: Path) -> None:
    folder = TrustFolder(tmp_path)
    path = folder.keep(NEW.learn(HONEST.note(4)))
    path.rename(folder.path("other.log/0"))
    with pytest.raises(TrustFileError):
        folder.find("other.log/0")
    other = Verifier(ORIGIN, Signer(ORIGIN, bytes(32)).public_key)
    with pytest.raises(NoteInvalidError):
        Memory.of(ORIGIN, other, [HONEST.note(4)])
    text = folder.path("other.log/0").read_text()
    folder.path(ORIGIN).write_text(text.replace(VERIFIER.vkey, other.vkey))
    with pytest.raises(TrustFileError):
        folder.find(ORIGIN)
