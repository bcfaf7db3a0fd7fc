"""The report: Markdown for people to sign, plain data for CI."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from governors.checklist.plan import Answered
from governors.checklist.verdict import Status

MARK: Final = {Status.PASS: "pass", Status.FAIL: "**FAIL**", Status.SKIP: "skip", Status.SIGN: "☐ sign"}
ROLES: Final = ("Deployment sponsor", "Platform lead", "Security lead", "Operations lead")


def plain(answered: Sequence[Answered], phase: int, env: str, at: str, version: str) -> dict[str, Any]:
    """For `--json`."""
    counts = Counter(verdict.status for _, verdict in answered)
    return {
        "ok": counts[Status.FAIL] == 0,
        "phase": phase,
        "env": env,
        "at": at,
        "version": version,
        "counts": {str(status): counts[status] for status in Status},
        "lines": [
            {
                "line": line.name,
                "section": line.title,
                "text": line.text,
                "status": str(verdict.status),
                "seen": verdict.seen,
            }
            for line, verdict in answered
        ],
    }


def markdown(report: dict[str, Any]) -> str:
    """The same, with room for names and dates."""
    counts = report["counts"]
    told = (
        f"{report['at']}, by governors {report['version']}: {counts['pass']} passed, {counts['fail']} failed, "
        f"{counts['skip']} could not be looked at, {counts['sign']} to be signed."
    )
    out = [
        f"# Deployment checklist, phase {report['phase']}, {report['env']}",
        "",
        told,
    ]
    section = ""
    for line in report["lines"]:
        if line["section"] != section:
            section = line["section"]
            out += ["", f"## {section}", "", "| line | | what was seen |", "| --- | --- | --- |"]
        seen = line["seen"].replace("|", "\\|").replace("\n", " ")
        name = " ________________" if line["status"] == Status.SIGN else ""
        out.append(f"| {line['line']} {line['text']} | {MARK[Status(line['status'])]} | {seen}{name} |")
    out += ["", "## Sign-off", ""]
    for role in ROLES:
        out += [f"**{role}**: ______________________________ Date: ______________", ""]
    out += ["Started: ______________ Issues: ______________ Final status: LIVE / ROLLED BACK", ""]
    return "\n".join(out)
