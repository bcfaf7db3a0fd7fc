"""`governors pubsub setup` against a Pub/Sub of our own."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import open_channel, unary
from ingest.pubsub_setup import GetSubscriptionRequest, Subscription

NAMES = ("--project", "governors-test", "--topic", "signals", "--subscription", "governors")


@pytest.fixture
async def fake() -> AsyncIterator[FakePubSub]:
    async with FakePubSub(clock_us=lambda: time.time_ns() // 1_000) as running:
        yield running


async def set_up(host: str, *args: str) -> tuple[int, str, str]:
    """Run it as a process, for which this one's Pub/Sub is another machine's; returns code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "governors", "pubsub", "setup", *args),
        env={**os.environ, "PUBSUB_EMULATOR_HOST": host},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def subscription(host: str, name: str) -> Any:
    channel = await open_channel(host)
    try:
        get = unary(channel, "Subscriber/GetSubscription", GetSubscriptionRequest, Subscription)
        return await get(GetSubscriptionRequest(subscription=f"projects/governors-test/subscriptions/{name}"))
    finally:
        await channel.close()


async def test_it_makes_what_is_missing_and_finds_it_the_next_time(fake: FakePubSub) -> None:
    code, out, err = await set_up(fake.host, *NAMES)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "created topic projects/governors-test/topics/signals",
        "created subscription projects/governors-test/subscriptions/governors",
        "the service's account needs roles/pubsub.subscriber on subscription governors",
        "whoever sends signals needs roles/pubsub.publisher on topic signals",
    ]
    made = await subscription(fake.host, "governors")
    assert made.topic == "projects/governors-test/topics/signals"
    assert made.enable_message_ordering

    code, out, err = await set_up(fake.host, *NAMES, "--json")
    assert (code, err) == (0, "")
    again = json.loads(out)
    assert (again["ok"], again["changed"]) == (True, False)
    assert [step["did"] for step in again["steps"]] == ["found", "found"]
    assert [step["said"].rpartition(" ")[2] for step in again["steps"]] == ["there", "there"]


async def test_a_check_says_what_is_missing_or_differs_changes_nothing_and_ends_with_1(fake: FakePubSub) -> None:
    code, out, _ = await set_up(fake.host, *NAMES, "--check")
    assert code == 1
    assert out.splitlines()[:2] == [
        "topic projects/governors-test/topics/signals is missing",
        "subscription projects/governors-test/subscriptions/governors is missing",
    ]
    assert (await set_up(fake.host, *NAMES))[0] == 0
    assert (await set_up(fake.host, *NAMES, "--check"))[0] == 0
    code, out, _ = await set_up(fake.host, *NAMES, "--exactly-once", "--check", "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["ok"], told["changed"]) == (False, False)
    assert told["steps"][1]["differences"] == [
        {"key": "enable_exactly_once_delivery", "has": "false", "wanted": "true"}
    ]
    assert not (await subscription(fake.host, "governors")).enable_exactly_once_delivery
    code, out, _ = await set_up(fake.host, *NAMES, "--exactly-once")
    assert code == 0
    assert "enable_exactly_once_delivery from false to true" in out
    assert (await subscription(fake.host, "governors")).enable_exactly_once_delivery


async def test_the_configuration_says_what_to_make_and_options_win_over_it(fake: FakePubSub, tmp_path: Path) -> None:
    file = tmp_path / "governors.yaml"
    file.write_text(
        "pubsub:\n  project: governors-test\n  topic: from-file\n  subscription: from-file\n"
        "  dead_letter_topic: letters\n  ack_deadline_s: 90\n"
    )
    code, out, err = await set_up(fake.host, "--config", str(file), "--subscription", "from-option", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["changed"] is True
    made = await subscription(fake.host, "from-option")
    assert made.topic == "projects/governors-test/topics/from-file"
    assert made.ack_deadline_seconds == 90
    assert made.dead_letter_policy.dead_letter_topic == "projects/governors-test/topics/letters"
    kept = await subscription(fake.host, "letters")
    assert kept.topic == "projects/governors-test/topics/letters", "dead letters that nobody subscribes to are gone"


async def test_what_cannot_be_changed_ends_with_1_and_what_to_do(fake: FakePubSub) -> None:
    assert (await set_up(fake.host, *NAMES))[0] == 0
    code, out, err = await set_up(fake.host, *NAMES, "--no-ordering")
    assert (code, out) == (1, "")
    assert "enable_message_ordering" in err
    assert "delete it, or choose another name" in err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "--project, --topic and --subscription"),
        (("--project", "governors-test", "--subscription", "governors"), "pubsub.topic is not set"),
        (("--project", "governors-test"), "pubsub.subscription"),
        (("--project", "?", "--topic", "signals", "--subscription", "governors"), "pubsub.project"),
    ],
)
async def test_what_is_missing_or_wrong_is_named(args: tuple[str, ...], expected: str) -> None:
    code, out, err = await set_up("127.0.0.1:1", *args)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert expected in err


async def test_a_pubsub_that_is_not_there_is_a_sentence_and_exit_2() -> None:
    code, out, err = await set_up("127.0.0.1:1", *NAMES)
    assert (code, out) == (2, "")
    assert err.startswith("Pub/Sub cannot be reached: ")
    assert len(err.splitlines()) == 1
