"""What changed since somebody last read, told in order, each name once, for as long as anybody may need it."""

import pytest

from governors import admission_journal
from governors.admission_journal import Journal


def read(journal: Journal, version: int) -> list[str]:
    return [name for name, _ in journal.since(journal.start(version))]


def test_what_is_there_at_the_beginning_is_told_to_whoever_has_nothing() -> None:
    journal = Journal(["a", "b"])
    assert read(journal, 0) == ["a", "b"]
    assert read(journal, journal.version) == []


def test_a_name_is_told_once_however_often_it_changed_and_where_it_changed_last() -> None:
    journal = Journal(["a", "b", "c"])
    read_up_to = journal.version
    for name in ("b", "a", "b"):
        journal.note(name)
    assert read(journal, read_up_to) == ["a", "b"]
    assert read(journal, 0) == ["c", "a", "b"]


def test_one_can_read_on_from_any_version_that_was_told() -> None:
    journal = Journal(["a", "b", "c"])
    journal.note("a")
    told = list(journal.since(0))
    for index, (_, version) in enumerate(told):
        assert list(journal.since(version)) == told[index + 1 :]


@pytest.mark.parametrize("version", [4, 1_000, -1])
def test_who_has_what_is_no_version_is_told_everything(version: int) -> None:
    journal = Journal(["a", "b", "c"])
    assert journal.start(version) == 0


def test_a_name_that_is_gone_is_told_and_another_change_of_it_is_told_instead() -> None:
    journal = Journal(["a"])
    journal.note_forgotten("a")
    assert read(journal, 1) == ["a"]
    journal.note("a")
    assert [version for _, version in journal.since(1)] == [3]


def test_who_missed_more_names_that_went_than_are_kept_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_journal, "FORGOTTEN_MAX", 2)
    journal = Journal(["a", "b", "c", "d"])
    for name in ("a", "b"):
        journal.note_forgotten(name)
    behind = journal.version
    assert journal.start(behind) == behind
    journal.note_forgotten("c")
    assert journal.start(behind) == 0
    assert read(journal, behind) == ["d"]
    assert journal.start(journal.version) == journal.version
    journal.note("a")
    assert read(journal, journal.version - 1) == ["a"]


def test_it_stays_about_as_long_as_what_it_is_about() -> None:
    journal = Journal([])
    for number in range(50_000):
        journal.note(f"t{number % 10}")
    assert len(journal._names) == len(journal._versions) <= 2 * 10 + admission_journal.SLACK
    assert read(journal, 0) == [f"t{number}" for number in range(10)]
    assert read(journal, journal.version - 2) == ["t8", "t9"]
