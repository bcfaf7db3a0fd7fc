import pytest

from ingest import signals
from ingest.signals import is_name, is_tenant


def test_what_is_remembered_of_texts_stays_within_its_bound() -> None:
    asked: list[str] = []

    def length(text: str) -> int:
        asked.append(text)
        return len(text)

    memory = signals._Memory(length, entries_max=3)
    for text in ("a", "bb", "ccc", "dddd", "eeeee"):
        assert memory[text] == memory[text] == len(text)
        assert len(memory) <= 3
    assert memory["a"] == 1
    assert asked == ["a", "bb", "ccc", "dddd", "eeeee", "a"]


def test_a_failure_is_not_remembered() -> None:
    memory = signals._Memory(int, entries_max=3)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            memory["x"]
        assert len(memory) == 0


def test_names_are_told_from_others_however_many_there_are() -> None:
    for number in range(20_000):
        assert is_name(f"n/{number}")
        assert not is_tenant(f"n/{number}")
    assert not is_name("-n")
    assert is_tenant("n")
