from support.steady import Books

from ledger.format.receipt import Fsm, Receipt


def receipt(signal: str, *, age_ms: int = 5, epoch: int = 1, source: str = "benchmark") -> Receipt:
    fsm = Fsm("queue.sample", "OPEN", "backlog_valve", "orders", "OPEN", 1)
    return Receipt(
        (), "none", epoch, signal, {}, fsm, "0" * 64, "log/0", 1_000_000, "decided", "", "", "r", source, "t",
        1_000_000 + age_ms * 1_000, 0, 1, "w",
    )  # fmt: skip


def test_what_is_lost_decided_twice_and_never_sent_is_told_apart() -> None:
    books = Books(seconds=2, rate_per_s=2, window_s=1)
    for signal in ("s-000000-00000000", "s-000000-00000001", "s-000000-00000001", "s-000002-00000000"):
        books.add(0, 0, receipt(signal))
    assert (books.lost, books.decided_twice, books.foreign) == (2, 1, 1)


def test_what_is_about_no_signal_is_counted_and_no_more() -> None:
    books = Books(seconds=1, rate_per_s=1, window_s=1)
    books.add(0, 0, receipt("timer", source=""))
    assert (books.receipts, books.lost, books.foreign) == (1, 1, 0)


def test_ages_are_kept_by_window() -> None:
    books = Books(seconds=4, rate_per_s=1, window_s=2)
    for second, age_ms in enumerate((30, 10, 20, 40)):
        books.add(0, second, receipt(f"s-{second:06d}-00000000", age_ms=age_ms))
    assert list(books.windows()) == [(2.0, [10.0, 30.0]), (4.0, [20.0, 40.0])]


def test_an_epoch_that_comes_back_is_found_in_its_own_partition() -> None:
    books = Books(seconds=5, rate_per_s=1, window_s=1)
    for number, (partition, epoch) in enumerate([(0, 1), (0, 2), (1, 1), (1, 1), (0, 1)]):
        books.add(partition, number, receipt(f"s-{number:06d}-00000000", epoch=epoch))
    assert books.out_of_epoch == 1
