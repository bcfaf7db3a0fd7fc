"""Which tenant a message of another system belongs to: configured rules, of which the first that matches holds. Pure.

A budget's notification knows its budget and an alert its labels; neither knows our tenants. Each format states *facts*
about its message (docs/formats/sources.md lists them), and a rule asks for some of them:

    when: {budget: de72f49d-779b-4945-a127-4d6ce8def0bb}  # every fact named must be so; "web-*" is what begins so
    tenant: acme                                          # or tenant_from: label.tenant, the fact that names it
    subject: prod-budget                                  # or subject_from, or neither: then the format chooses
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from ingest.decode.strict import field_path
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import NAME_RULE, TENANT_RULE, is_name, is_tenant

NAME_LENGTH_MAX: Final = 128

# Fact -> what it is. Those with a dot take a name of the sender's behind it.
FACTS: Final[Mapping[str, str]] = {
    "format": "budget, monitoring, cloud_deploy or alertmanager",
    "subscription": "the Pub/Sub subscription, by its full name",
    "attribute.": "an attribute of the Pub/Sub message",
    "budget": "the budget's id",
    "budget_name": "the budget's display name",
    "billing_account": "the billing account's id",
    "project": "the project: its id in an incident, its number in a deploy",
    "service": "the service: of an alert its label, of an incident its label or its resource's service_name",
    "policy": "the alerting policy's name",
    "condition": "the alerting condition's name",
    "resource": "the type of the monitored resource",
    "label.": "a label of an alert, or of an incident's policy",
    "resource_label.": "a label of the monitored resource",
    "metric_label.": "a label of the metric",
    "pipeline": "the delivery pipeline",
    "target": "the deploy's target",
    "location": "the region of the delivery pipeline",
    "receiver": "the receiver in Alertmanager's configuration",
}

Facts = Mapping[str, str]


class Rule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule. A rule without `when` matches whatever has the fact that it takes the tenant from."""

    when: dict[str, str] = {}
    tenant: str | None = None
    tenant_from: str | None = None
    subject: str | None = None
    subject_from: str | None = None

    def __post_init__(self) -> None:
        if (self.tenant is None) == (self.tenant_from is None):
            raise ValueError("expected either tenant or tenant_from")
        if self.subject is not None and self.subject_from is not None:
            raise ValueError("expected subject or subject_from, not both")
        if self.tenant is not None and not _is_tenant(self.tenant):
            raise ValueError(f"tenant: {TENANT_RULE}")
        if self.subject is not None and not _is_name(self.subject):
            raise ValueError(f"subject: {NAME_RULE}")
        for fact in (*self.when, self.tenant_from, self.subject_from):
            if fact is not None and not _is_fact(fact):
                raise ValueError(f"unknown fact {fact[:80]!r}, expected one of {', '.join(FACTS)}")

    def matches(self, facts: Facts) -> bool:
        """Whether every fact asked for is as asked, and the tenant's is there."""
        if self.tenant_from is not None and not facts.get(self.tenant_from):
            return False
        return all(name in facts and _is_like(facts[name], wanted) for name, wanted in self.when.items())


class Route(Struct, frozen=True):
    """Where a message goes. `rule` counts from 1; `subject` is None where the rule leaves it to the format."""

    tenant: str
    subject: str | None
    rule: int


class Routing:
    """The rules in their order."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def route(self, facts: Facts) -> Route:
        """The tenant, and perhaps the subject, of a message with these facts.

        Raises SignalRejectedError: `no_tenant` where no rule matches, `bad_field` where the fact that a rule takes a
        name from cannot be one. No later rule is asked then: what says whose it is must not become somebody else's.
        """
        for number, rule in enumerate(self._rules, start=1):
            if rule.matches(facts):
                return Route(_tenant(rule, facts), _subject(rule, facts), number)
        known = ", ".join(f"{name} {value[:80]}" for name, value in facts.items() if "." not in name)
        said = "no rule matches" if self._rules else "there are no rules"
        raise SignalRejectedError(Reason.NO_TENANT, "", field_path(f"{said} in ingest.routing: {known}"))


NO_ROUTING: Final = Routing()


def _tenant(rule: Rule, facts: Facts) -> str:
    if rule.tenant is not None:
        return rule.tenant
    fact = rule.tenant_from or ""
    if not _is_tenant(facts[fact]):
        raise SignalRejectedError(Reason.BAD_FIELD, field_path(fact), f"names the tenant: {TENANT_RULE}")
    return facts[fact]


def _subject(rule: Rule, facts: Facts) -> str | None:
    fact = rule.subject_from
    if fact is None or not facts.get(fact):
        return rule.subject
    if not _is_name(facts[fact]):
        raise SignalRejectedError(Reason.BAD_FIELD, field_path(fact), f"names the subject: {NAME_RULE}")
    return facts[fact]


def _is_like(value: str, wanted: str) -> bool:
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def _is_fact(name: str) -> bool:
    prefix, dot, own = name.partition(".")
    return f"{prefix}." in FACTS and bool(own) if dot else name in FACTS


def _is_tenant(value: str) -> bool:
    return len(value) <= NAME_LENGTH_MAX and is_tenant(value)


def _is_name(value: str) -> bool:
    return len(value) <= NAME_LENGTH_MAX and is_name(value)
