"""How a play is told: a story in colours for people, with a board of the tenants under it, or a JSON line an event."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from governors.demo.play import Play
from governors.demo.script import HOUR_S
from governors.demo.story import Acted, Asked, Decided, Event, Summary, Told, as_json

PLAIN_WIDTH: Final = 110
TENANT_WIDTH: Final = 9
INDENT: Final = 21  # under the first word of what is told
REDRAW_S: Final = 0.05
ADJUSTMENTS: Final = frozenset({"adjust", "ramp"})

_HARMLESS, _WARNED, _RESTRICTED, _SEVERE, _MENDING = "green", "yellow", "dark_orange", "bold red", "cyan"
STYLES: Final = {
    "WARN": _WARNED,
    "WATCHING": "blue",
    "THROTTLE": _RESTRICTED,
    "SHEDDING": _RESTRICTED,
    "HOLD": _RESTRICTED,
    "STOP": _SEVERE,
    "DRAINING": _SEVERE,
    "ROLLING_BACK": _SEVERE,
    "ESCALATED": _SEVERE,
    "SUSPENDED": "magenta",
    "RECOVERING": _MENDING,
    "PROBING": _MENDING,
    "VERIFYING": _MENDING,
    "COOLDOWN": _MENDING,
}
GOVERNORS: Final = {
    "cost_guard": "Cost Guard",
    "rollback_guard": "Rollback Guard",
    "backlog_valve": "Backlog Valve",
    "tenant": "entitlement",
}


class Teller(Protocol):
    """Somebody who tells a play: events as they come, the hour as it passes, and how it ended."""

    def telling(self, play: Play) -> AbstractContextManager[object]: ...

    def tell(self, event: Event) -> None: ...

    def show(self, second: int) -> None: ...

    def end(self, summary: Summary) -> None: ...


class JsonTeller:
    """A line for each event, and the summary as the last one."""

    def telling(self, play: Play) -> AbstractContextManager[object]:  # noqa: ARG002 - no heading
        return nullcontext()

    def tell(self, event: Event) -> None:
        sys.stdout.write(as_json(event) + "\n")
        sys.stdout.flush()

    def show(self, second: int) -> None:
        pass

    def end(self, summary: Summary) -> None:
        sys.stdout.write(as_json(summary) + "\n")
        sys.stdout.flush()


class TextTeller:
    """For people. `every`: tell every adjustment, not only the first of each state."""

    def __init__(self, *, every: bool, console: Console | None = None) -> None:
        self._every = every
        self._console = console or _console()
        ascii_only = self._console.options.ascii_only
        self._arrow, self._then, self._yes, self._no = "->", "=>", "yes", "NO"
        if not ascii_only:
            self._arrow, self._then, self._yes, self._no = "→", "⇒", "✓", "✗"
        self._play: Play | None = None
        self._live: Live | None = None
        self._adjusted: dict[tuple[str, str, str], int] = {}
        self._untold: set[str] = set()
        self._redraw_s = 0.0
        self._last: tuple[str, int] | None = None

    @contextmanager
    def telling(self, play: Play) -> Iterator[None]:
        """Introduce the cast; keep a board under the story where there is a terminal for it."""
        self._play = play
        say = self._console.print
        say(Text("Friday 27 November, nine in the morning. Five tenants, three governors, one hour.", style="bold"))
        say()
        for tally in play.tallies.values():
            say(Text.assemble("  ", (tally.tenant.ljust(TENANT_WIDTH), "bold"), "  ", tally.about))
        say()
        if not self._console.is_terminal:
            yield
            return
        with Live(self._board(0), console=self._console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def show(self, second: int) -> None:
        """Bring the board up to date."""
        now_s = time.monotonic()
        if self._live is not None and now_s >= self._redraw_s:
            self._redraw_s = now_s + REDRAW_S
            self._live.update(self._board(second), refresh=True)

    def tell(self, event: Event) -> None:
        """Tell it, unless it is one of many adjustments."""
        match event:
            case Told():
                self._line(event, Text(event.text, style="italic"))
            case Decided():
                self._tell_decision(event)
            case Acted():
                self._tell_action(event)
            case Asked():
                self._tell_admission(event)

    def end(self, summary: Summary) -> None:
        """What it came to."""
        say = self._console.print
        say()
        say(self._sums(summary))
        say()
        for one in summary.milestones:
            mark = (self._yes, "green") if one.seen else (self._no, "bold red")
            say(Text.assemble("  ", mark, " ", (one.tenant.ljust(TENANT_WIDTH), "bold"), "  ", one.text))
        say()
        ledger = summary.ledger
        if ledger["ok"]:
            root = ledger["partitions"][0]["root"]
            say(
                f"{summary.receipts:,} receipts for {summary.signals:,} signals: the ledger was verified from its files"
            )
            say(f"alone, every hash, chain and commitment. Its root begins with {root[:16]}.")
        else:
            say(Text(f"The ledger is BAD: {len(ledger['errors'])} errors", style="bold red"))
            for wrong in ledger["errors"]:
                say(f"  {wrong['kind']}: receipt {wrong['index']}: {wrong['message']}")
        if summary.folder is None:
            say("Keep it with --keep DIR, to look at every receipt and to verify it yourself.")
        else:
            say(f"It is kept in {summary.folder}:")
            say(f"  governors verify log {summary.folder}")
            say(f"  governors replay {summary.folder}")
            say(f"  governors serve --data-dir {summary.folder}   and then   governors receipts courier")
        if not summary.ok:
            say(Text("The hour did NOT come out as it must.", style="bold red"))

    # Lines

    def _tell_decision(self, event: Decided) -> None:
        adjusted = (event.tenant, event.governor, event.subject)
        moved = event.state != event.previous_state
        before = self._adjusted.get(adjusted, 0)
        if not moved and event.decision in ADJUSTMENTS:
            self._adjusted[adjusted] = before + 1
            if before and not self._every:
                self._untold.add(event.receipt)
                return
        elif moved:
            self._adjusted[adjusted] = 0
        self._line(event, self._headline(event, moved=moved, untold=max(0, before - 1) * (not self._every)))
        self._under(Text(event.reason))

    def _headline(self, event: Decided, *, moved: bool, untold: int) -> Text:
        who = GOVERNORS.get(event.governor, event.governor)
        line = Text.assemble((f"{who} {event.subject}".rstrip() + ": ", "dim"))
        if event.outcome == "refused":
            return line.append("refused", style="magenta")
        if moved:
            line.append(event.previous_state, style=_style(event.previous_state))
            line.append(f" {self._arrow} ", style="dim")
            line.append(event.state, style=_style(event.state))
        else:
            line.append(event.decision, style="bold").append(", stays ").append(event.state, style=_style(event.state))
        if moved and untold:
            line.append(f" (after {untold} more adjustment{'s' * (untold > 1)})", style="dim")
        return line

    def _tell_action(self, event: Acted) -> None:
        if event.receipt in self._untold:
            return
        what = Text(f"{self._then} {event.text}")
        if (event.tenant, event.second) == self._last:
            self._under(what)
        else:
            self._line(event, what)

    def _tell_admission(self, event: Asked) -> None:
        parts = [f"{event.passed[name]} of {asked} {name}" for name, asked in event.asked.items()]
        answer = "all may" if event.passed == event.asked else " and ".join(parts) + " may"
        if not any(event.passed.values()):
            answer = "none may"
        count = sum(event.asked.values())
        self._line(event, Text.assemble(f"{count} {event.what} ask to be let in: ", (answer, "bold")))
        if event.why:
            self._under(Text(f"{event.why}; come back in {event.retry_after_s} s"))

    def _line(self, event: Event, what: Text) -> None:
        self._last = (event.tenant, event.second)
        head = Text.assemble((event.at[11:19], "dim"), "  ", (event.tenant.ljust(TENANT_WIDTH), "bold"), "  ")
        row = Table.grid()
        row.add_column(width=INDENT, no_wrap=True)
        row.add_column()
        row.add_row(head, what)
        self._console.print(row)

    def _under(self, what: Text) -> None:
        self._console.print(Padding(what, (0, 0, 0, INDENT), expand=False))

    # Tables

    def _board(self, second: int) -> Table:
        """Who is where, right now."""
        board = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title_style="")
        board.title = Text.assemble(
            ("\n" + _clock(second) + "  ", "bold"), ("━" * (40 * second // HOUR_S)).ljust(40, "·") + "\n"
        )
        board.show_header = False
        for tally in self._play.tallies.values() if self._play is not None else ():
            states = Text()
            for machine, path in tally.states.items():
                name = machine.rpartition("/")[2]
                states.append(f"{name} ", style="dim").append(path[-1], style=_style(path[-1])).append("  ")
            board.add_row(Text(tally.tenant, style="bold"), Text(f"{tally.receipts} receipts", style="dim"), states)
        return board

    def _sums(self, summary: Summary) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("tenant")
        for name in ("signals", "repeated", "refused", "receipts", "decisions", "actions"):
            table.add_column(name, justify="right")
        table.add_column("at the end")
        for one in summary.tenants:
            numbers = (one.signals, one.repeated, one.refused, one.receipts, one.decisions, one.actions)
            cells = [f"{number:,}" if number else "-" for number in numbers]
            table.add_row(Text(one.tenant, style="bold"), *cells, Text(one.state, style=_style(one.state)))
        return table


def _console() -> Console:
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PLAIN_WIDTH)


def _style(state: str) -> str:
    return STYLES.get(state, _HARMLESS)


def _clock(second: int) -> str:
    return f"{9 + second // 3_600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
