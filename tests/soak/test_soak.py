"""The soak itself, for seconds: `make soak` runs it for an hour."""

import json

import pytest
from soak import __main__ as soak
from soak.load import Books
from support.emulator import skip_or_fail

from benchmarks.support_emulator import EmulatorMissingError, find_jar
from ledger.format.receipt import Fsm, Receipt

RATE_PER_S = 200


def receipt(signal: str, *, age_ms: int = 5, outcome: str = "decided") -> Receipt:
    fsm = Fsm("queue.sample", "OPEN", "backlog_valve", "orders", "OPEN", 1)
    return Receipt(
        (), "none", 1, signal, {}, fsm, "0" * 64, "log/0", 1_000_000, outcome, "", "", "r", "benchmark", "t",
        1_000_000 + age_ms * 1_000, 0, 1, "w",
    )  # fmt: skip


def test_books_tell_what_is_lost_decided_twice_and_never_sent() -> None:
    books = Books(seconds=2, rate_per_s=2, window_s=1)
    for signal in ("soak-000000-00000000", "soak-000000-00000001", "soak-000000-00000001", "soak-000002-00000000"):
        books.add(receipt(signal))
    assert (books.lost, books.decided_twice, books.foreign) == (2, 1, 1)


def test_books_keep_ages_by_window() -> None:
    books = Books(seconds=4, rate_per_s=1, window_s=2)
    for second, age_ms in enumerate((30, 10, 20, 40)):
        books.add(receipt(f"soak-{second:06d}-00000000", age_ms=age_ms))
    assert list(books.windows()) == [(2.0, [10.0, 30.0]), (4.0, [20.0, 40.0])]


@pytest.fixture
def arguments() -> list[str]:
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    return ["--seconds", "4", "--rate", str(RATE_PER_S), "--tenants", "20", "--sample-s", "0.5", "--json"]


@pytest.mark.slow
@pytest.mark.emulator
def test_a_few_seconds_are_measured_as_an_hour_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = soak.main(arguments)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    failed = [one["what"] for one in report["verdicts"] if one["ok"] is False]
    assert set(failed) <= {"signals a second", "samples of each"}, "those are the machine's, which may be busy"
    assert code == bool(failed)
    assert report["log"]["ok"]
    assert report["signals"] == 4 * RATE_PER_S < report["log"]["receipts"]
    for samples in report["samples"].values():
        assert samples
        assert all(one["rss_mb"] > 10 and one["files"] > 3 and one["tasks"] > 1 for one in samples)
    assert all(one["p50"] > 0 for one in report["latency_ms"])
