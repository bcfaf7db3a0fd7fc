"""The soak itself, for seconds: `make soak` runs it for an hour."""

import json
import os

import pytest
from soak import __main__ as soak
from support.emulator import skip_or_fail

from benchmarks.support_emulator import EmulatorMissingError, find_jar

RATE_PER_S = 200


@pytest.fixture
def arguments() -> list[str]:
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    return ["--seconds", "4", "--rate", str(RATE_PER_S), "--tenants", "20", "--sample-s", "0.5", "--json"]


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.skipif("SOAK_S" not in os.environ, reason="`make soak` runs it: SOAK_S is not set")
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
