"""Orders as webhooks, at a real receiver: what is sent, what an answer means, and where nothing is sent."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from support.receiver import Receiver

from governors.machines.overlays import OpenAction
from governors.outbox.addresses import is_public
from governors.outbox.configured import executors_of
from governors.outbox.executors import Answer, Done, Executor, LogExecutor, Order, Refused, TryAgain
from governors.settings import ActionSettings, SettingsError, WebhookSettings
from governors.tenants.tenant import OpenWork
from ingest.signals import format_time

NOW_US = 1_795_348_800_000_000
OLD, NEW = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_bW9yZSB0aGFuIHR3ZW50eS1mb3VyIGJ5dGVz"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().listening() as listening:
        yield listening


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    path = tmp_path / "secrets"
    path.write_text(f"# the newest first\n{NEW}\n\n{OLD}\n")
    return path


def order(kind: str = "throttle", reason: str = "cost <90> & more", **params: int | str) -> Order:
    action = OpenAction("act-0123456789abcdef-7", kind, params, None)
    return Order(OpenWork("acme", "k", "cost_guard", "prod", action, 12), "0:12", "ab" * 32, NOW_US, reason)


def webhook(url: str | None, secrets: Path | None, **more: Any) -> Executor:
    given = {"name": "ops", "url": url, "secrets_file": secrets, "private": True} | more
    executor, last = executors_of(ActionSettings(webhooks=(WebhookSettings(**given),)), now_us, "worker")
    assert isinstance(last, LogExecutor)
    return executor


def now_us() -> int:
    """The official library looks at the clock of this machine."""
    import time  # noqa: PLC0415

    return time.time_ns() // 1000


async def test_the_official_library_verifies_what_is_sent(receiver: Receiver, secrets: Path) -> None:
    assert await webhook(receiver.url, secrets).execute(order(fraction_ppm=400_000)) == Done(
        "answered 204", "acknowledged"
    )
    (got,) = receiver.got
    for secret in (NEW, OLD):
        assert Webhook(secret).verify(got.body, got.headers) == {
            "type": "governors.action.throttle",
            "timestamp": format_time(NOW_US),
            "data": {
                "action_id": "act-0123456789abcdef-7", "action": "throttle", "params": {"fraction_ppm": 400_000},
                "tenant": "acme", "governor": "cost_guard", "subject": "prod", "reason": "cost <90> & more",
                "receipt": "0:12", "receipt_sha256": "ab" * 32,
            },
        }  # fmt: skip
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "QUFB" * 10).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(got.body + b" ", got.headers)
    assert got.headers["webhook-id"] == "act-0123456789abcdef-7"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_another_attempt_has_the_same_id_and_body_and_new_secrets_count_at_once(
    receiver: Receiver, secrets: Path
) -> None:
    executor = webhook(receiver.url, secrets)
    await executor.execute(order())
    await asyncio.to_thread(secrets.write_text, NEW)
    await executor.execute(order())
    first, second = receiver.got
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert first.headers["webhook-signature"].count("v1,") == 2
    assert second.headers["webhook-signature"].count("v1,") == 1


@pytest.mark.parametrize(
    ("status", "headers", "answer"),
    [
        (200, {}, Done("answered 200", "acknowledged")),
        (299, {}, Done("answered 299", "acknowledged")),
        (400, {}, Refused("answered 400")),
        (401, {}, Refused("answered 401")),
        (404, {}, Refused("answered 404")),
        (302, {"location": "/elsewhere"}, Refused("answered 302: redirects are not followed")),
        (408, {}, TryAgain("answered 408", maybe=False, ails=False)),
        (429, {"retry-after": "17"}, TryAgain("answered 429", maybe=False, after_s=17.0)),
        (429, {"retry-after": "soon"}, TryAgain("answered 429", maybe=False)),
        (500, {}, TryAgain("answered 500")),
        (502, {}, TryAgain("answered 502", maybe=False)),
        (503, {"retry-after": "3"}, TryAgain("answered 503", maybe=False, after_s=3.0)),
        (504, {}, TryAgain("answered 504")),
        (599, {}, TryAgain("answered 599")),
    ],
)
async def test_what_an_answer_means(
    receiver: Receiver, secrets: Path, status: int, headers: dict[str, str], answer: Answer
) -> None:
    receiver.answers.append((status, headers))
    assert await webhook(receiver.url, secrets).execute(order()) == answer
    assert len(receiver.got) == 1


async def test_a_receiver_can_be_asked_whether_it_is_done_and_is_not_sent_again_what_it_has(
    receiver: Receiver, secrets: Path
) -> None:
    executor = webhook(receiver.url, secrets, read_back=True)
    receiver.answers.append((202, {}))
    receiver.readings.append(404)
    first = await executor.execute(order())
    assert first == TryAgain("answered 202, and 404 when read back", ails=False, acknowledged=True)
    again = msgspec.structs.replace(order(), maybe=True, acknowledged=True)
    assert await executor.execute(again) == Done("it is done when read back, and was not sent again", "read_back")
    assert len(receiver.got) == 1
    assert {one.headers["webhook-id"] for one in (*receiver.got, *receiver.read)} == {"act-0123456789abcdef-7"}
    asked = receiver.read[0].headers
    at = datetime.fromtimestamp(int(asked["webhook-timestamp"]), UTC)
    signatures = [Webhook(secret).sign(asked["webhook-id"], at, "") for secret in (NEW, OLD)]
    assert asked["webhook-signature"] == " ".join(signatures)
    receiver.answers.append((503, {}))
    assert isinstance(await executor.execute(order()), TryAgain)
    assert len(receiver.read) == 2, "who has not taken it is not asked"


async def test_a_receiver_that_is_gone_gets_nothing_more(receiver: Receiver, secrets: Path) -> None:
    executor = webhook(receiver.url, secrets)
    receiver.answers.append((410, {}))
    assert await executor.execute(order()) == Refused("answered 410")
    assert await executor.execute(order()) == Refused("the receiver is gone (410)")
    assert len(receiver.got) == 1


async def test_nobody_there_is_known_not_to_have_done_it(secrets: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answer = await webhook(f"http://127.0.0.1:{port}/", secrets).execute(order())
    assert isinstance(answer, TryAgain)
    assert not answer.maybe


async def test_a_private_address_is_not_gone_to_unless_it_is_allowed(secrets: Path) -> None:
    answer = await webhook("https://localhost:1/", secrets, private=False).execute(order())
    assert isinstance(answer, Refused)
    assert "not of the public network" in answer.detail


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:10.0.0.1", False), ("::", False),
        ("::ffff:93.184.216.34", True), ("64:ff9b::5db8:d822", True), ("2002:5db8:d822::1", True),
        ("64:ff9b::a9fe:a9fe", False), ("64:ff9b:1::5db8:d822", False), ("2002:a00:1::1", False),
        ("2002:e000:1::1", False), ("::10.0.0.1", False), ("fec0::1", False), ("ff02::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_slack_gets_one_line_with_its_markup_escaped(receiver: Receiver, tmp_path: Path) -> None:
    address = tmp_path / "address"
    address.write_text(receiver.url + "\n")
    executor = webhook(None, None, url_file=address, format="slack")
    await executor.execute(order("page", action="throttle"))
    assert orjson.loads(receiver.got[0].body) == {
        "text": "acme/prod: page (action throttle): cost &lt;90&gt; &amp; more [receipt 0:12]"
    }
    assert "webhook-signature" not in receiver.got[0].headers


async def test_pagerduty_gets_an_event_that_a_repetition_does_not_double(receiver: Receiver, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("R0UT1NG\n")
    await webhook(receiver.url, key, format="pagerduty").execute(order("page"))
    event = orjson.loads(receiver.got[0].body)
    assert (event["routing_key"], event["event_action"]) == ("R0UT1NG", "trigger")
    assert event["dedup_key"] == "act-0123456789abcdef-7"
    assert event["payload"]["severity"] == "critical"
    assert event["payload"]["summary"].startswith("acme/prod: page")


async def test_a_reason_of_any_length_fits_into_a_body(receiver: Receiver, secrets: Path) -> None:
    assert isinstance(await webhook(receiver.url, secrets).execute(order(reason="\U0001f600" * 100_000)), Done)
    assert len(receiver.got[0].body) < 20_000


async def test_what_was_chosen_for_others_is_not_taken(secrets: Path) -> None:
    work = order().work
    assert webhook("https://example.com", secrets, kinds=("stop", "throttle"), tenants=("acme",)).takes(work)
    assert not webhook("https://example.com", secrets, kinds=("stop",)).takes(work)
    assert not webhook("https://example.com", secrets, governors=("backlog_valve",)).takes(work)
    assert not webhook("https://example.com", secrets, tenants=("other",)).takes(work)


async def test_a_dry_run_sends_nothing(receiver: Receiver, secrets: Path) -> None:
    hook = WebhookSettings(name="ops", url=receiver.url, secrets_file=secrets, private=True, kinds=("stop",))
    executor, _ = executors_of(ActionSettings(webhooks=(hook,), dry_run=True), now_us, "worker")
    assert (executor.name, executor.takes(order("stop").work), executor.takes(order().work)) == ("ops", True, False)
    assert await executor.execute(order("stop")) == Done("dry run: not sent")
    assert not receiver.got


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "https://a.example"}, "secrets_file is needed for native"),
        ({"url": "https://a.example", "format": "pagerduty"}, "secrets_file is needed for pagerduty"),
        ({"url": "https://a.example", "format": "slack", "secrets_file": Path("s")}, "secrets_file is not for slack"),
        ({"format": "slack"}, "expected either url or url_file"),
        ({"url": "https://a.example", "format": "slack", "read_back": True}, "read_back is for native"),
        ({"url": "https://a.example", "url_file": Path("u"), "secrets_file": Path("s")}, "expected either"),
        ({"url": "http://a.example", "secrets_file": Path("s")}, "http:// only with private"),
        ({"url": "ftp://a.example", "secrets_file": Path("s"), "private": True}, "expected an https:// address"),
        ({"url": "https://", "secrets_file": Path("s")}, "not an address"),
        ({"url": "https://a.example:99999", "secrets_file": Path("s")}, "not an address"),
    ],
)
def test_a_receiver_that_cannot_be_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^ops: .*{said}"):
        WebhookSettings(name="ops", **given)


@pytest.mark.parametrize("text", ["", "# nothing", "secret", "whsec_QUFB"])
def test_secrets_that_cannot_be_used_stop_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secrets"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"actions\.webhooks = 'ops' .*secret"):
        webhook("https://a.example", path)
