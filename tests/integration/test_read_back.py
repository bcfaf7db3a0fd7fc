"""Pages and messages that are read back where they went, at stand-ins that follow what PagerDuty and Slack document."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.notified import API_TOKEN, BOT_TOKEN, CHANNEL, ROUTING_KEY, Notified, PagerDuty, Slack
from support.receiver import Receiver

from governors.machines.overlays import OpenAction
from governors.outbox.configured import executors_of
from governors.outbox.executors import Answer, Done, Executor, Order, Refused, TryAgain
from governors.settings import ActionSettings, SettingsError, VerifySettings, WebhookSettings, load
from governors.tenants.tenant import OpenWork

NOW_US = 1_795_348_800_000_000
ACTION = OpenAction("act-0123456789abcdef-7", "page", {}, None)
ORDER = Order(OpenWork("acme", "k", "cost_guard", "prod", ACTION, 12), "0:12", "ab" * 32, NOW_US, "it costs")
# What the outbox says of attempts before.
UNHEARD, TAKEN = replace(ORDER, maybe=True), replace(ORDER, maybe=True, acknowledged=True)


@pytest.fixture(params=[False, True], ids=["key of its alert", "key of its own"])
def pagerduty(request: pytest.FixtureRequest) -> Iterator[PagerDuty]:
    pagerduty = PagerDuty(keyed=request.param)
    with pagerduty.listening():
        yield pagerduty


@pytest.fixture
def slack() -> Iterator[Slack]:
    slack = Slack()
    with slack.listening():
        yield slack


class Desk:
    """Makes executors, and the files that they need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, name: str, text: str) -> Path:
        path = self._folder / name
        path.write_text(text)
        return path

    def executor(self, **given: Any) -> Executor:
        hook = WebhookSettings(name="ops", private=True, **given)
        return executors_of(ActionSettings(webhooks=(hook,)), lambda: NOW_US, "worker")[0]

    def pager(self, pagerduty: Notified, token: str = API_TOKEN, **more: Any) -> Executor:
        headers = self.file("headers", f"# who asks\nAuthorization: Token token={token}\n")
        verify = VerifySettings(url=f"{pagerduty.url}/incidents?incident_key={{action_id}}", headers_file=headers)
        return self.executor(
            format="pagerduty", url=f"{pagerduty.url}/v2/enqueue", secrets_file=self.file("key", ROUTING_KEY),
            **{"verify": verify} | more,
        )  # fmt: skip

    def chat(self, slack: Notified, token: str = BOT_TOKEN, **more: Any) -> Executor:
        url = f"{slack.url}/api/conversations.history?channel={{channel}}&oldest={{since_s}}&include_all_metadata=true"
        return self.executor(
            format="slack_api", url=f"{slack.url}/api/chat.postMessage", secrets_file=self.file("token", token),
            **{"channel": CHANNEL, "verify": VerifySettings(url=url)} | more,
        )  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


URL = "https://hooks.slack.com/services/T0/B0/x"
READ_BACK = "and it is done when read back"


# PagerDuty


async def test_a_page_is_done_once_there_is_an_incident_with_its_key(pagerduty: PagerDuty, desk: Desk) -> None:
    assert await desk.pager(pagerduty).execute(ORDER) == Done(
        f"answered 202, success for this event, {READ_BACK}", "read_back"
    )
    assert list(pagerduty.incidents.values()).count(ACTION.id) == 1


async def test_a_page_that_is_not_there_yet_is_only_asked_for_until_it_is(pagerduty: PagerDuty, desk: Desk) -> None:
    executor = desk.pager(pagerduty)
    pagerduty.unseen = 2
    not_yet = TryAgain(
        "answered 202, success for this event, and it is not there when read back", ails=False, acknowledged=True
    )
    assert await executor.execute(ORDER) == not_yet
    still_not = TryAgain("it was taken, and it is not there when read back", ails=False, acknowledged=True)
    assert await executor.execute(TAKEN) == still_not
    assert await executor.execute(TAKEN) == Done("it is done when read back, and was not sent again", "read_back")
    assert len(pagerduty.posted) == 1


async def test_a_page_that_pagerduty_took_and_lost_is_never_called_done(pagerduty: PagerDuty, desk: Desk) -> None:
    executor = desk.pager(pagerduty)
    pagerduty.posts.append("lost")
    for order in (ORDER, TAKEN, TAKEN):
        answer = await executor.execute(order)
        assert isinstance(answer, TryAgain)
        assert (answer.maybe, answer.acknowledged) == (True, True)


async def test_a_page_whose_answer_was_lost_is_found_and_not_sent_twice(pagerduty: PagerDuty, desk: Desk) -> None:
    executor = desk.pager(pagerduty)
    pagerduty.posts.append("unanswered")
    answer = await executor.execute(ORDER)
    assert isinstance(answer, TryAgain)
    assert (answer.maybe, answer.acknowledged) == (True, False)
    assert await executor.execute(UNHEARD) == Done("it is done when read back, and was not sent again", "read_back")
    assert len(pagerduty.posted) == 1


async def test_a_page_that_did_not_arrive_is_sent_again_when_it_is_not_found(pagerduty: PagerDuty, desk: Desk) -> None:
    executor = desk.pager(pagerduty)
    pagerduty.posts.append(500)
    assert await executor.execute(ORDER) == TryAgain("answered 500")
    assert isinstance(await executor.execute(UNHEARD), Done)
    assert len(pagerduty.posted) == 2


@pytest.mark.parametrize(
    ("fault", "said", "after_s"),
    [(404, "404 when read back", None), (429, "429 when read back", 17.0), (503, "503 when read back", None)],
)
async def test_what_cannot_be_read_back_is_unknown(
    pagerduty: PagerDuty, desk: Desk, fault: int, said: str, after_s: float | None
) -> None:
    pagerduty.gets.append(fault)
    expected = TryAgain(
        f"answered 202, success for this event, and {said}", after_s=after_s, ails=False, acknowledged=True
    )
    assert await desk.pager(pagerduty).execute(ORDER) == expected


async def test_who_may_not_read_knows_nothing(pagerduty: PagerDuty, desk: Desk) -> None:
    answer = await desk.pager(pagerduty, token="another").execute(ORDER)
    assert isinstance(answer, TryAgain)
    assert answer.detail.endswith("and 401 when read back")


async def test_where_nothing_is_read_back_pagerduty_has_to_name_the_event(pagerduty: PagerDuty, desk: Desk) -> None:
    executor = desk.pager(pagerduty, verify=None)
    assert await executor.execute(ORDER) == Done("answered 202, success for this event", "acknowledged")
    assert not pagerduty.read


async def test_somebody_elses_incident_is_no_proof(pagerduty: PagerDuty, desk: Desk) -> None:
    # An address that does not narrow it down: what comes back are all incidents that there are.
    verify = VerifySettings(
        url=f"{pagerduty.url}/incidents?key={{action_id}}",
        headers_file=desk.file("h", f"authorization: Token token={API_TOKEN}"),
    )
    pagerduty.posts.append("lost")
    answer = await desk.pager(pagerduty, verify=verify).execute(ORDER)
    assert isinstance(answer, TryAgain)
    assert answer.detail.endswith("it is not there when read back")


@pytest.mark.parametrize("body", ["", "ok", "{}", '{"status": "success", "dedup_key": "another"}', "[1]", '"success"'])
async def test_an_answer_that_is_not_pagerdutys_proves_nothing(desk: Desk, body: str, receiver: Receiver) -> None:
    receiver.bodies.append(body.encode())
    executor = desk.executor(format="pagerduty", url=receiver.url, secrets_file=desk.file("key", ROUTING_KEY))
    assert await executor.execute(ORDER) == TryAgain("answered 202, and not success for this event", ails=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.answers = deque([(202, {})] * 10)
    with receiver.listening():
        yield receiver


# Slack


async def test_a_message_is_done_once_the_channel_has_one_of_its_action(slack: Slack, desk: Desk) -> None:
    executor = desk.chat(slack)
    assert await executor.execute(ORDER) == Done(f"answered 200, ok, {READ_BACK}", "read_back")
    (message,) = slack.messages
    assert message["metadata"]["event_payload"] == {"action_id": ACTION.id, "receipt": "0:12"}
    assert "oldest=1795348740" in slack.read[0]


async def test_a_message_whose_answer_was_lost_is_found_and_not_posted_twice(slack: Slack, desk: Desk) -> None:
    executor = desk.chat(slack)
    slack.posts.append("unanswered")
    assert isinstance(await executor.execute(ORDER), TryAgain)
    assert await executor.execute(UNHEARD) == Done("it is done when read back, and was not sent again", "read_back")
    assert len(slack.messages) == 1


async def test_a_message_that_is_not_there_yet_is_not_posted_twice(slack: Slack, desk: Desk) -> None:
    executor = desk.chat(slack)
    slack.unseen = 1
    answer = await executor.execute(ORDER)
    assert isinstance(answer, TryAgain)
    assert answer.acknowledged
    assert isinstance(await executor.execute(TAKEN), Done)
    assert len(slack.posted) == len(slack.messages) == 1


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"token": "xoxb-old"}, Refused("answered invalid_auth")),
        ({"channel": "C0"}, Refused("answered channel_not_found")),
    ],
)
async def test_what_slack_will_not_do_is_refused_whatever_its_status(
    slack: Slack, desk: Desk, given: dict[str, Any], answer: Answer
) -> None:
    assert await desk.chat(slack, **given).execute(ORDER) == answer
    assert not slack.read


async def test_slack_that_has_had_enough_is_left_alone_for_as_long_as_it_asks(slack: Slack, desk: Desk) -> None:
    slack.posts.append(429)
    assert await desk.chat(slack).execute(ORDER) == TryAgain("answered 429", maybe=False, after_s=17.0)


async def test_where_nothing_is_read_back_slack_has_to_say_ok(slack: Slack, desk: Desk) -> None:
    executor = desk.chat(slack, verify=None)
    assert await executor.execute(ORDER) == Done("answered 200, ok", "acknowledged")
    hook = desk.executor(format="slack", url=f"{slack.url}/services/T0/B0/x")
    assert await hook.execute(ORDER) == Done("answered 200, ok", "acknowledged")
    assert not slack.read


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"ok": false, "error": "internal_error"}', TryAgain("answered internal_error")),
        ('{"ok": false, "error": "ratelimited"}', TryAgain("answered ratelimited", maybe=False)),
        ('{"ok": "yes"}', TryAgain("answered 202, and not ok", ails=False)),
        ("<html>", TryAgain("answered 202, and not ok", ails=False)),
    ],
)
async def test_what_slacks_answers_mean(desk: Desk, receiver: Receiver, body: str, answer: Answer) -> None:
    receiver.bodies.append(body.encode())
    executor = desk.executor(
        format="slack_api", url=receiver.url, secrets_file=desk.file("token", BOT_TOKEN), channel=CHANNEL
    )
    assert await executor.execute(ORDER) == answer


# Anybody


async def test_any_receiver_can_be_asked_at_an_address_of_its_own(desk: Desk, receiver: Receiver) -> None:
    verify = VerifySettings(
        url=f"http://127.0.0.1:{receiver.port}/orders?id={{action_id}}", headers_file=desk.file("h", "X-Key: 1: 2\n")
    )
    secrets = desk.file("secrets", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    executor = desk.executor(url=receiver.url, secrets_file=secrets, verify=verify)
    for document in ("[]", "{", f'{{"text": "about {ACTION.id}"}}', ("[" * 200) + f'"{ACTION.id}"' + ("]" * 200)):
        receiver.read_bodies.append(document.encode())
        answer = await executor.execute(ORDER)
        assert isinstance(answer, TryAgain), document
        assert answer.acknowledged
    receiver.read_bodies.append(f'{{"orders": [{{"id": "{ACTION.id}"}}]}}'.encode())
    assert await executor.execute(ORDER) == Done(f"answered 202, {READ_BACK}", "read_back")
    assert receiver.read[0].path == f"/orders?id={ACTION.id}"
    assert receiver.read[0].headers["x-key"] == "1: 2"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"format": "slack", "url": "https://a.example", "verify": {}}, "slack_api can"),
        ({"verify": {}}, "verify: url is needed for native"),
        ({"verify": {"url": "https://a.example"}}, r"expected \{action_id\} in it"),
        ({"verify": {"url": "ftp://a.example/{action_id}"}}, "verify: url: expected an https"),
        ({"verify": {"url": "https://a.example/{action_id}"}, "read_back": True}, "either read_back or verify"),
        ({"format": "slack_api"}, "channel is for slack_api, and needed there"),
        ({"channel": "C1"}, "channel is for slack_api"),
    ],
)
def test_what_cannot_be_read_back_that_way_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    verify = {"verify": VerifySettings(**given["verify"])} if "verify" in given else {}
    secrets = {} if given.get("format") == "slack" else {"secrets_file": Path("s")}
    with pytest.raises(ValueError, match=f"^ops: .*{said}"):
        WebhookSettings(**{"name": "ops", "url": "https://b.example"} | secrets | given | verify)


def test_what_the_documentation_shows_is_a_configuration(desk: Desk) -> None:
    page = (Path(__file__).parents[2] / "docs" / "actions.md").read_text(encoding="utf-8")
    examples = [block.partition("\n```")[0] for block in page.split("```yaml\n")[1:]]
    files = {"secrets_file": desk.file("s", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "url_file": desk.file("u", URL)}
    (webhooks,) = [text for text in examples if "webhooks:" in text]
    loaded = load(desk.file("governors.yaml", webhooks), {}, {}, {}).settings.actions
    assert [one.name for one in loaded.webhooks if one.verify or one.read_back] == [
        "pager", "spend", "platform", "deploys"
    ]  # fmt: skip
    headers = desk.file("h", "authorization: Token token=x")
    placed = [
        replace(
            one,
            **{name: path for name, path in files.items() if getattr(one, name) is not None},
            verify=one.verify and replace(one.verify, headers_file=one.verify.headers_file and headers),
        )
        for one in loaded.webhooks
    ]
    assert len(executors_of(replace(loaded, webhooks=tuple(placed)), lambda: NOW_US, "worker")) == len(placed) + 1


@pytest.mark.parametrize("text", ["authorization", ": x", "a b: c", "näme: x"])
def test_a_header_that_is_none_stops_the_start(desk: Desk, text: str) -> None:
    verify = VerifySettings(headers_file=desk.file("h", text))
    with pytest.raises(SettingsError, match="header 1"):
        desk.executor(
            format="pagerduty", url="https://a.example", secrets_file=desk.file("key", ROUTING_KEY), verify=verify
        )
