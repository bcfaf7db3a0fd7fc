"""Google's Pub/Sub emulator for tests: the one that runs already at PUBSUB_EMULATOR_HOST, else one of our own.

A test that wants it takes the session fixture `pubsub_emulator`, which is its "host:port". Where there is none the test
is skipped and says why; under CI=true it fails, because CI must have it.
"""

import os
from collections.abc import Iterator

import pytest

from benchmarks.support_emulator import EmulatorMissingError, PubSubEmulator, find_jar


def skip_or_fail(error: EmulatorMissingError) -> None:
    """What a test does that needs an emulator and has none."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have the Pub/Sub emulator: {error}")
    pytest.skip(f"no Pub/Sub emulator: {error}")


@pytest.fixture(scope="session")
def pubsub_emulator() -> Iterator[str]:
    """Where an emulator listens, "host:port"; one for the whole session."""
    if running := os.environ.get("PUBSUB_EMULATOR_HOST"):
        yield running
        return
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    with PubSubEmulator() as emulator:
        yield emulator.host
