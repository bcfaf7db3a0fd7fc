"""Cloud Deploy's notifications: all of it in the attributes."""

import pytest
from support.foreign import APPROVAL, EVERYTHING_TO_ACME, NOON_US, ROLLOUT, message, rollout

from ingest.decode.foreign import Unheard
from ingest.decode.message import form_of, read_message
from ingest.decode.tenants import Routing, Rule
from ingest.errors import SignalRejectedError
from ingest.signals import DeployFinished, DeployStarted, Signal
from ingest.source import Delivery


def read(said: Delivery, routing: Routing = EVERYTHING_TO_ACME) -> Signal:
    signal = read_message(said, routing, NOON_US)
    assert not isinstance(signal, Unheard)
    return signal


def rejected(said: Delivery) -> tuple[str, str]:
    with pytest.raises(SignalRejectedError) as caught:
        read_message(said, EVERYTHING_TO_ACME, NOON_US)
    return caught.value.reason, caught.value.field


def test_a_rollout_that_starts_is_a_deploy() -> None:
    signal = read(rollout())
    assert form_of(rollout()) == "cloud_deploy"
    assert signal.data == DeployStarted("r20/r20-to-prod-0001", "r20", "last-successful")
    assert signal.subject == "web/prod"


@pytest.mark.parametrize(
    ("action", "result"),
    [("Succeed", "succeeded"), ("Failure", "failed"), ("Cancelled", "cancelled"), ("Terminated", "cancelled")],
)
def test_a_rollout_that_ends_ends_the_same_deploy(action: str, result: str) -> None:
    begun = read(rollout()).data
    assert isinstance(begun, DeployStarted)
    assert read(rollout(Action=action)).data == DeployFinished(begun.deploy_id, result)  # type: ignore[arg-type]


def test_a_rollout_that_is_turned_down_never_was() -> None:
    assert read(message(b"", APPROVAL)).data == DeployFinished("r20/r20-to-prod-0001", "cancelled")


@pytest.mark.parametrize(
    "attributes",
    [
        APPROVAL | {"Action": "Required"},
        APPROVAL | {"Action": "Approved"},
        ROLLOUT | {"Action": "Create"},
        ROLLOUT | {"Action": "Update"},
        ROLLOUT | {"Action": "Delete"},
        ROLLOUT | {"Action": "Start", "ResourceType": "Release"},
        ROLLOUT | {"Action": "Failure", "ResourceType": "JobRun", "JobRunId": "j1", "PhaseId": "stable"},
        {"Action": "Create", "ResourceType": "DeliveryPipeline", "Resource": "p", "ProjectNumber": "1"},
        {"Action": "Create", "ResourceType": "SomethingNew", "ProjectNumber": "1"},
    ],
)
def test_what_neither_begins_nor_ends_a_deploy_is_understood_and_no_signal(attributes: dict[str, str]) -> None:
    # Without a rule, too: what is nobody's signal needs no tenant.
    assert isinstance(read_message(message(b"", attributes), Routing(), NOON_US), Unheard)


def test_the_ids_of_phases_do_no_harm() -> None:
    assert read(rollout(PhaseId="canary-25", JobRunId="j1")).data == read(rollout()).data


def test_an_action_that_nobody_knows_is_not_guessed_at() -> None:
    assert rejected(rollout(Action="Paused")) == ("bad_field", "attributes.Action")


@pytest.mark.parametrize("name", ["DeliveryPipelineId", "TargetId", "ReleaseId", "RolloutId"])
def test_what_is_missing_is_named(name: str) -> None:
    without = {key: value for key, value in ROLLOUT.items() if key != name}
    assert rejected(message(b"", without)) == ("missing_field", f"attributes.{name}")
    assert rejected(rollout(**{name: ""})) == ("missing_field", f"attributes.{name}")


def test_the_longest_names_fit() -> None:
    signal = read(rollout(DeliveryPipelineId="p" * 63, TargetId="t" * 63, ReleaseId="r" * 63, RolloutId="o" * 63))
    assert signal.subject == "p" * 63 + "/" + "t" * 63
    assert isinstance(signal.data, DeployStarted)
    assert signal.data.deploy_id == "r" * 63 + "/" + "o" * 63


def test_a_message_with_data_is_something_else() -> None:
    assert form_of(Delivery(b"{}", ROLLOUT, "1", NOON_US, 1, "", "a")) == "native"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(when={"pipeline": "web", "target": "prod"}, tenant="acme"),
        Rule(when={"project": "1", "location": "us-*"}, tenant="acme"),
        Rule(when={"attribute.TargetId": "prod"}, tenant="acme"),
        Rule(when={"service": "web"}, tenant="acme", subject_from="service"),
    ],
)
def test_rules_can_ask_for_what_a_rollout_says(rule: Rule) -> None:
    signal = read(rollout(), Routing([Rule(when={"target": "staging"}, tenant="x"), rule]))
    assert signal.tenant == "acme"
    assert signal.subject == ("web" if rule.subject_from else "web/prod")


def test_two_deliveries_of_one_message_are_one_fact() -> None:
    first, again = read(rollout()), read(rollout())
    assert (first.id, first.source, first.payload) == (again.id, again.source, again.payload)
