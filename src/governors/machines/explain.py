"""Turn a rule and its evidence into the one sentence that a person reads.

Formats understood in a rule's sentence: `{x:money}` micros, `{x:estimate}` micros to the cent, `{x:percent}` ppm,
`{x:duration}` milliseconds, `{x:rate}` thousandths a second, `{x:time}` microseconds since the epoch, `{x:nats}`
milli-nats, `{x:e}` milli-nats as an e-value; `{x}` prints as it is.
"""

import math
import string
from collections.abc import Mapping
from typing import Any

from ingest.signals import format_micros, format_time


class _Sentence(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if not isinstance(value, int):
            return str(value)
        match format_spec:
            case "money":
                return format_micros(value)
            case "estimate":
                # More digits would claim to be known.
                return format_micros(round(value, -4) if abs(value) >= 1_000_000 else value)
            case "percent":
                return f"{value / 10_000:.4g} %"
            case "duration":
                return _duration(value)
            case "rate":
                return f"{value / 1000:.4g}/s"
            case "time":
                return format_time(value)
            case "nats":
                return f"{value / 1000:.3f}"
            case "e":
                return f"{math.exp(min(value / 1000, 700.0)):.3g}"
            case _:
                return str(value)


def _duration(ms: int) -> str:
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.3g} {unit}"
    return f"{seconds:.3g} s"


_SENTENCE = _Sentence()


def explain(rules: Mapping[str, str], rule: str, evidence: Mapping[str, int | str]) -> str:
    """The sentence for `rule`; the rule's bare name where the evidence does not fill it, never an error."""
    try:
        sentence = _SENTENCE.vformat(rules[rule], (), evidence)
    except (KeyError, IndexError, ValueError):
        return rule
    if "withheld" in evidence:
        sentence += f"; not asked for is {evidence['withheld']}: {evidence.get('withheld_why', '')}"
    return sentence
