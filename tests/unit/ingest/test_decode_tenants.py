"""Rules that say whose a message is."""

from typing import Any

import msgspec
import pytest

from ingest.decode.tenants import FACTS, Routing, Rule
from ingest.errors import SignalRejectedError

FACTS_OF_ONE = {
    "format": "alertmanager",
    "service": "web-7",
    "label.team": "payments",
    "label.odd": "a b",
    "label.no": "",
}


def tenant(*rules: Rule, **facts: str) -> str:
    return Routing(rules).route(FACTS_OF_ONE | facts).tenant


def rejected(*rules: Rule) -> tuple[str, str, str]:
    with pytest.raises(SignalRejectedError) as caught:
        Routing(rules).route(FACTS_OF_ONE)
    return caught.value.reason, caught.value.field, caught.value.message


def test_the_first_rule_that_matches_holds() -> None:
    rules = (
        Rule(when={"service": "api"}, tenant="one"),
        Rule(when={"service": "web-*"}, tenant="two"),
        Rule(tenant="three"),
    )
    assert Routing(rules).route(FACTS_OF_ONE).rule == 2
    assert tenant(*rules) == "two"
    assert tenant(*rules, service="api") == "one"
    assert tenant(*rules, service="else") == "three"


def test_every_fact_that_a_rule_names_must_be_so() -> None:
    both = Rule(when={"service": "web-*", "label.team": "payments"}, tenant="both")
    assert tenant(both, Rule(tenant="rest")) == "both"
    assert tenant(Rule(when={**both.when, "label.zone": "*"}, tenant="both"), Rule(tenant="rest")) == "rest"


@pytest.mark.parametrize(
    ("wanted", "is_so"), [("web-7", True), ("web-*", True), ("*", True), ("web", False), ("*7", False)]
)
def test_a_star_at_the_end_stands_for_anything(wanted: str, is_so: bool) -> None:
    assert tenant(Rule(when={"service": wanted}, tenant="yes"), Rule(tenant="no")) == ("yes" if is_so else "no")


def test_a_fact_can_name_the_tenant_and_the_subject() -> None:
    route = Routing([Rule(tenant_from="label.team", subject_from="service")]).route(FACTS_OF_ONE)
    assert (route.tenant, route.subject) == ("payments", "web-7")


def test_a_rule_whose_fact_is_absent_does_not_match() -> None:
    rest = Rule(tenant="rest")
    assert tenant(Rule(tenant_from="label.tenant"), rest) == "rest"
    assert tenant(Rule(tenant_from="label.no"), rest) == "rest"


def test_a_subject_whose_fact_is_absent_is_left_to_the_format() -> None:
    assert Routing([Rule(tenant="t", subject_from="label.none")]).route(FACTS_OF_ONE).subject is None


def test_what_cannot_be_a_tenants_name_is_refused_and_no_other_rule_is_asked() -> None:
    assert rejected(Rule(tenant_from="label.odd"), Rule(tenant="rest"))[:2] == ("bad_field", "label.odd")
    assert rejected(Rule(tenant="t", subject_from="label.odd"), Rule(tenant="rest"))[:2] == ("bad_field", "label.odd")


def test_no_match_says_what_was_known() -> None:
    reason, field, message = rejected(Rule(when={"service": "api"}, tenant="t"))
    assert (reason, field) == ("no_tenant", "")
    assert "service web-7" in message
    assert "there are no rules" in rejected()[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"when": {"service": "x"}},
        {"tenant": "a", "tenant_from": "service"},
        {"tenant": "a/b"},
        {"tenant": ""},
        {"tenant": "x" * 129},
        {"tenant": "a", "subject": "no name"},
        {"tenant": "a", "subject": "s", "subject_from": "service"},
        {"tenant_from": "sevrice"},
        {"tenant_from": "label."},
        {"tenant_from": "lable.team"},
        {"tenant_from": "label"},
        {"tenant": "a", "when": {"buget": "1"}},
        {"tenant": "a", "when": {"budget": 7}},
        {"tenant": "a", "wehn": {"budget": "7"}},
    ],
)
def test_a_rule_that_can_never_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Rule)


def test_every_fact_can_be_asked_for() -> None:
    for fact in FACTS:
        Rule(tenant_from=fact + ("x" if fact.endswith(".") else ""))
