"""What a load test measured, and whether that is within its limits. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

RATE_SHARE: Final = 0.98
"""Below this share of the rate the test did not test what was asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run has to keep within."""

    p99_ms: float
    rss_mb: float
    rss_growth_mb: float

    def plain(self, rate_per_s: float) -> dict[str, float]:
        """As they are printed."""
        return {
            "p99_ms": self.p99_ms,
            "rss_mb": self.rss_mb,
            "rss_growth_mb": self.rss_growth_mb,
            "lost": 0,
            "duplicates": 0,
            "rate_per_s": round(rate_per_s * RATE_SHARE, 1),
        }


@dataclass(slots=True)
class Figures:
    """Grows while the test runs. Seconds of an answer are from when its signals were due, so that a service that is
    slow does not make its load lighter.
    """

    tenants: int
    rate_per_s: float
    seconds: float
    sent: int = 0
    answered: int = 0
    again: int = 0
    """Requests that were sent once more: refused for now, or not answered."""
    seconds_of: Counter[float] = field(default_factory=Counter)
    """Seconds until an answer, to a tenth of a millisecond -> signals."""
    late_s: Counter[float] = field(default_factory=Counter)
    """How late the sender itself woke, in the same grain: on a busy machine it is the sender that is measured."""
    outcomes: Counter[str] = field(default_factory=Counter)
    states: dict[str, set[str]] = field(default_factory=dict)
    """Governor -> the states that its machines were in."""
    rss_mb: list[float] = field(default_factory=list)
    lasted_s: float = 0.0
    missing: int | None = None
    """Answered signals of which there is no receipt; None: nobody looked."""
    decided_twice: int = 0

    def answer(self, seconds: float, results: Iterable[dict[str, Any]]) -> None:
        """A request was answered."""
        count = 0
        for result in results:
            count += 1
            self.outcomes[result["outcome"]] += 1
            if governor := result.get("governor"):
                self.states.setdefault(governor, set()).add(result["state"])
        self.answered += count
        self.seconds_of[round(seconds, 4)] += count

    def woke(self, late_s: float) -> None:
        """The sender woke this much later than it had asked for."""
        self.late_s[round(late_s, 4)] += 1

    def quantile_ms(self, share: float) -> float:
        """Milliseconds within which this share of the signals was answered; 0 where none was."""
        return _quantile_ms(self.seconds_of, share)

    @property
    def lost(self) -> int:
        """Signals that were not answered, or of whose answer nothing remains."""
        return self.sent - self.answered + (self.missing or 0)

    def report(self, limits: Limits) -> dict[str, Any]:
        """All of it, and the verdict."""
        rss_start, rss_end = (self.rss_mb[0], self.rss_mb[-1]) if self.rss_mb else (None, None)
        reached = round(self.answered / self.lasted_s, 1) if self.lasted_s else 0.0
        report: dict[str, Any] = {
            "tenants": self.tenants,
            "rate_per_s": self.rate_per_s,
            "seconds": self.seconds,
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "duplicates": self.decided_twice,
            "sent_again": self.again,
            "reached_per_s": reached,
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "p999_ms": self.quantile_ms(0.999),
            "sender_late_p99_ms": _quantile_ms(self.late_s, 0.99),
            "rss_mb_start": rss_start,
            "rss_mb_end": rss_end,
            "outcomes": dict(self.outcomes),
            "states": {governor: sorted(states) for governor, states in sorted(self.states.items())},
            "receipts_checked": self.missing is not None,
            "limits": limits.plain(self.rate_per_s),
        }
        report["past"] = self._past(report, limits)
        report["ok"] = not report["past"]
        return report

    def _past(self, report: dict[str, Any], limits: Limits) -> list[str]:
        """A sentence for each limit that was passed."""
        found = []
        if report["p99_ms"] > limits.p99_ms:
            found.append(f"p99 is {report['p99_ms']} ms, over {limits.p99_ms:g}")
        if report["lost"]:
            found.append(f"{report['lost']:,} signals were lost")
        if report["duplicates"]:
            found.append(f"{report['duplicates']:,} signals were decided twice")
        if report["reached_per_s"] < self.rate_per_s * RATE_SHARE:
            found.append(
                f"{report['reached_per_s']:,} signals a second were answered of the {self.rate_per_s:,g} asked for"
            )
        wrong = self.answered - sum(self.outcomes[outcome] for outcome in ("decided", "duplicate", "stale"))
        if wrong:
            found.append(f"{wrong:,} signals came to nothing: {dict(self.outcomes)}")
        if self.rss_mb:
            if max(self.rss_mb) > limits.rss_mb:
                found.append(f"{max(self.rss_mb):.0f} MB were resident, over {limits.rss_mb:g}")
            if self.rss_mb[-1] - self.rss_mb[0] > limits.rss_growth_mb:
                found.append(f"memory grew by {self.rss_mb[-1] - self.rss_mb[0]:.0f} MB, over {limits.rss_growth_mb:g}")
        return found


def _quantile_ms(seconds_of: Counter[float], share: float) -> float:
    wanted = share * seconds_of.total()
    total = 0
    for seconds in sorted(seconds_of):
        total += seconds_of[seconds]
        if total >= wanted:
            return round(seconds * 1_000, 1)
    return 0.0
