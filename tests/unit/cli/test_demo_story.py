"""The story as people read it."""

import io

from rich.console import Console

from governors.cli.demo_story import TextTeller
from governors.demo.story import Acted, Asked, Decided, told

AT = "2026-11-27T09:23:30Z"


class Page:
    """A teller and what it has written so far."""

    def __init__(self, *, every: bool = False, encoding: str = "utf-8") -> None:
        self._file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        self.teller = TextTeller(every=every, console=Console(file=self._file, width=110, highlight=False))

    @property
    def lines(self) -> list[str]:
        self._file.flush()
        content = self._file.buffer.getvalue()
        return [line.rstrip() for line in content.decode(self._file.encoding).splitlines()]


def decided(decision: str, before: str, after: str, receipt: str = "0:1") -> Decided:
    return Decided(
        second=1_410, at=AT, tenant="bazaar", governor="backlog_valve", subject="orders", outcome="decided",
        decision=decision, previous_state=before, state=after, reason=f"because of {receipt}", receipt=receipt,
    )  # fmt: skip


def acted(receipt: str = "0:1", *, second: int = 1_410) -> Acted:
    return Acted(
        second=second, at=AT, tenant="bazaar", governor="backlog_valve", subject="orders", action="shed",
        text="49 orders a second", receipt=receipt,
    )  # fmt: skip


def test_a_decision_is_told_with_its_reason_and_what_was_done() -> None:
    page = Page()
    page.teller.tell(decided("shed", "OPEN", "SHEDDING"))
    page.teller.tell(acted())
    assert page.lines == [
        "09:23:30  bazaar     Backlog Valve orders: OPEN → SHEDDING",
        "                     because of 0:1",
        "                     ⇒ 49 orders a second",
    ]


def test_an_action_that_took_its_time_has_a_line_of_its_own() -> None:
    page = Page()
    page.teller.tell(decided("shed", "OPEN", "SHEDDING"))
    page.teller.tell(acted(second=1_450))
    assert page.lines[-1] == "09:23:30  bazaar     ⇒ 49 orders a second"


def test_of_many_adjustments_the_first_is_told_and_the_others_are_counted() -> None:
    page = Page()
    for number in range(4):
        page.teller.tell(decided("adjust", "SHEDDING", "SHEDDING", f"0:{number}"))
        page.teller.tell(acted(f"0:{number}"))
    page.teller.tell(decided("close", "SHEDDING", "DRAINING", "0:9"))
    assert page.lines == [
        "09:23:30  bazaar     Backlog Valve orders: adjust, stays SHEDDING",
        "                     because of 0:0",
        "                     ⇒ 49 orders a second",
        "09:23:30  bazaar     Backlog Valve orders: SHEDDING → DRAINING (after 3 more adjustments)",
        "                     because of 0:9",
    ]


def test_whoever_asks_for_every_adjustment_gets_it() -> None:
    page = Page(every=True)
    for number in range(4):
        page.teller.tell(decided("adjust", "SHEDDING", "SHEDDING", f"0:{number}"))
    assert [line.strip() for line in page.lines[1::2]] == [f"because of 0:{number}" for number in range(4)]


def test_admission_is_told_in_numbers_of_requests() -> None:
    page = Page()
    asked, all_pass = {"critical": 4, "normal": 16}, {"critical": 4, "normal": 16}
    for passed in (all_pass, {"critical": 4, "normal": 3}, {"critical": 0, "normal": 0}):
        why = "" if passed == asked else "closed"
        page.teller.tell(
            Asked(second=0, at=AT, tenant="bazaar", what="orders", asked=asked, passed=passed, why=why, retry_after_s=7)
        )
    assert [line[21:] for line in page.lines] == [
        "20 orders ask to be let in: all may",
        "20 orders ask to be let in: 4 of 4 critical and 3 of 16 normal may",
        "closed; come back in 7 s",
        "20 orders ask to be let in: none may",
        "closed; come back in 7 s",
    ]


def test_a_terminal_that_knows_ascii_alone_gets_nothing_else() -> None:
    page = Page(encoding="ascii")
    page.teller.tell(told(0, "bazaar", "the sale opens"))
    page.teller.tell(decided("shed", "OPEN", "SHEDDING"))
    page.teller.tell(acted())
    assert "OPEN -> SHEDDING" in page.lines[1]
    assert page.lines[-1].strip() == "=> 49 orders a second"
