"""What OpenAPI says of the answers: schemas made from the very structs that are sent, with an example of each."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from governors.api.problem import MEDIA_TYPE, TYPES, URN
from governors.api.proof_views import ReceiptProof, VerifyAnswer
from governors.api.service import (
    ActionAsked,
    ActionsPage,
    ActionView,
    AdmitAnswer,
    ClusterView,
    Health,
    OperationsPage,
    OverrideResult,
    PoliciesView,
    ReceiptsPage,
    ReceiptView,
    Reloaded,
    SignalResult,
    StopResult,
    TenantsPage,
    TenantView,
    UnreadableResult,
)
from governors.json_schema import portable
from governors.supervision.report import TreeNode
from ingest.signals import KINDS, EpochMicros, Micros
from ledger.verify.documents import CONSISTENCY, TENANT_BUNDLE, Consistency, TenantBundle

REF: Final = "#/components/schemas/"


_MACHINE: Final = {
    "governor": "cost_guard",
    "subject": "prod-budget",
    "state": "THROTTLE",
    "since": "2026-11-22T10:00:00.120000Z",
    "reason": "cost 910.25 of 1000.00 USD is at or over 90 %",
    "deadline": "2026-11-22T10:15:00Z",
    "last_receipt": "0:1234",
    "open_actions": [
        {"id": "act-0-1234", "kind": "throttle", "params": {"fraction_ppm": 400_000}, "attempts": 1, "doubtful": False}
    ],
    "override": None,
    "blind": False,
    "withheld": None,
}
_ACTION: Final = {
    "id": "act-3f9a2c1b7e5d4086-41",
    "tenant": "acme",
    "governor": "cost_guard",
    "subject": "prod-budget",
    "action": "throttle",
    "params": {"fraction_ppm": 400_000},
    "receipt": "0:1234",
    "executor": "platform",
    "since": "2026-11-22T10:00:00.120000Z",
    "attempts": 3,
    "detail": "answered 503",
    "next_attempt_in_s": 6.2,
    "doubtful": False,
    "given_up_in_s": 113.5,
}
_TENANT: Final = {
    "tenant": "acme",
    "entitlement": "active",
    "profile": "standard",
    "state": "THROTTLE",
    "machines": [_MACHINE],
    "stopped": False,
}
_RESULT: Final = {
    "id": "b-20261122-0007",
    "tenant": "acme",
    "governor": "cost_guard",
    "subject": "prod-budget",
    "outcome": "decided",
    "decision": "throttle",
    "state": "THROTTLE",
    "previous_state": "WARN",
    "reason": "cost 910.25 of 1000.00 USD is at or over 90 %",
    "receipt": "0:1234",
    "durability": "local",
}
_UNREADABLE: Final = {
    "outcome": "rejected",
    "id": "b-20261122-0008",
    "tenant": "acme",
    "error": {
        "reason": "bad_field",
        "field": "data.cost_amount",
        "detail": 'expected a decimal string, like "910.25"',
    },
}
_RECEIPT: Final = {
    "id": "0:1234",
    "index": 1234,
    "receipt": {"decision": "throttle", "event_id": "b-20261122-0007", "tseq": 41},
    "leaf": "eyJkZWNpc2lvbiI6InRocm90dGxlIn0=",
    "committed": True,
}
_OPERATION: Final = {
    "id": "0:1241",
    "at": "2026-11-22T10:00:00Z",
    "operation": {
        "at_us": 1_795_341_600_000_000,
        "by": "alice@example.com",
        "action": "POST /v1/tenants/{tenant}/overrides",
        "path": "/v1/tenants/acme/overrides",
        "status": 201,
        "address": "10.4.0.17",
        "tenant": "acme",
        "reason": "launch day",
        "asked": '{"governor": "cost_guard", "subject": "prod-budget", "mode": "release", "reason": "launch day"}',
        "asked_bytes": 92,
        "receipt": "0:1240",
    },
    "receipt": {"decision": "operate", "event_id": "operation-1795341600000000", "tseq": 7},
    "leaf": "eyJkZWNpc2lvbiI6Im9wZXJhdGUifQ==",
    "committed": True,
}
_HASH: Final = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
_NOTE: Final = (
    f"governors.local/3f9a2c1b7e5d4086/0\n20852\n{_HASH}\n\n\N{EM DASH} governors.local/3f9a2c1b7e5d4086/0 …\n"
)
EXAMPLES: Final[dict[type, Any]] = {
    ReceiptProof: {
        "id": "0:1234",
        "index": 1234,
        "leaf": "eyJkZWNpc2lvbiI6InRocm90dGxlIn0=",
        "path": [_HASH],
        "size": 20852,
        "root": "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62",
        "checkpoint": _NOTE,
        "text": f"c2sp.org/tlog-proof@v1\nextra …\nindex 1234\n{_HASH}\n\n{_NOTE}",
    },
    Consistency: {
        "type": CONSISTENCY,
        "checkpoint": _NOTE,
        "from": {"size": 1000, "root": _HASH},
        "to": {"size": 20852, "root": _HASH},
        "proof": [_HASH],
        "checkpoint_proof": [],
    },
    TenantBundle: {
        "type": TENANT_BUNDLE,
        "checkpoint": _NOTE,
        "tenant": "6b1f0c4de2a94d7f8a53b0c19e7d2f46",
        "receipts": [{"index": 1234, "leaf": "eyJkZWNpc2lvbiI6InRocm90dGxlIn0="}],
        "heads": {
            "index": 20000,
            "leaf": "eyJkZWNpc2lvbiI6Im5vbmUifQ==",
            "next_tseq": 42,
            "head": _HASH,
            "position": 17,
            "path": [_HASH],
        },
        "proof": [_HASH],
        "more": False,
    },
    VerifyAnswer: {
        "ok": False,
        "error": "withheld: the tenant had 42 receipts at the heads receipt 20000, and the bundle ends with number 39: "
        "the last 2 are missing",
        "origin": None,
        "size": None,
        "root": None,
        "found": {},
        "says": [],
    },
    SignalResult: _RESULT,
    UnreadableResult: _UNREADABLE,
    TenantView: _TENANT,
    TenantsPage: {"tenants": [_TENANT], "next": None},
    ReceiptView: _RECEIPT,
    OperationsPage: {"operations": [_OPERATION], "next": "0:1241"},
    ReceiptsPage: {"receipts": [_RECEIPT], "next": 1234, "dropped_before": 0},
    OverrideResult: {
        "tenant": "acme",
        "governor": "cost_guard",
        "subject": "prod-budget",
        "decision": "override",
        "state": "WARN",
        "previous_state": "THROTTLE",
        "reason": "alice@example.com set release until 2026-11-22T11:00:00Z: launch day",
        "receipt": "0:1240",
        "until": "2026-11-22T11:00:00Z",
    },
    ActionView: _ACTION,
    ActionsPage: {"actions": [_ACTION], "next": None},
    ActionAsked: {"id": "act-3f9a2c1b7e5d4086-41", "tenant": "acme", "asked": "retry"},
    StopResult: {"tenant": None, "stopped": True, "receipt": "0:1242"},
    PoliciesView: {
        "digest": "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62",
        "stopped": False,
        "profiles": ["enterprise", "premium", "standard"],
        "tenants": ["acme"],
        "windows": [{"name": "black-friday", "open": False, "changes": "2026-11-27T00:00:00Z"}],
    },
    Reloaded: {
        "changed": True,
        "digest": "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62",
    },
    Health: {"version": "0.1.0", "down": []},
    ClusterView: {
        "worker": "governors-1-5f0c9a21",
        "workers": [
            {"worker": "governors-0-1b7e4d90", "url": "https://10.4.0.17:8080", "state": "owner", "heard_s_ago": 2.1},
            {"worker": "governors-1-5f0c9a21", "url": "https://10.4.1.9:8080", "state": "waiting", "heard_s_ago": 0.4},
        ],
        "partitions": [{"partition": 0, "owner": "governors-0-1b7e4d90", "epoch": 7}],
    },
    TreeNode: {
        "name": "governors",
        "kind": "supervisor",
        "state": "running",
        "children": [{"name": "ledger", "kind": "worker", "state": "running", "restart": "permanent"}],
    },
    AdmitAnswer: {"basis": "rules", "view_age_ms": 340},
}
ANSWER_EXAMPLE: Final = {"results": [_RESULT, _UNREADABLE]}
SIGNAL_EXAMPLE: Final = {
    "id": "b-20261122-0007",
    "source": "billing",
    "tenant": "acme",
    "kind": "cost.snapshot",
    "subject": "prod-budget",
    "observed_at": "2026-11-22T10:00:00Z",
    "data": {
        "cost_amount": "910.25",
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": "2026-11-01T00:00:00Z",
    },
}
# By hand, because one list holds two structs that are told apart by `error`, not by a tag.
ANSWER_SCHEMA: Final = {
    "type": "object",
    "description": "One entry for each signal, in order.",
    "properties": {
        "results": {
            "type": "array",
            "items": {"anyOf": [{"$ref": f"{REF}SignalResult"}, {"$ref": f"{REF}UnreadableResult"}]},
        }
    },
    "required": ["results"],
}
PROBLEM_SCHEMA: Final = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457. `type` is stable; `field` names the field to blame where there is one.",
    "properties": {
        "type": {"type": "string", "enum": [URN + name for name in TYPES]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
        "reason": {"type": "string", "description": "For what was sent: a stable word, as in the metrics."},
    },
    "required": ["type", "title", "status", "detail"],
}


def answers(body: type[Struct] | dict[str, Any], *problems: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: a view (or what OpenAPI shall say of the answer), and its problems' statuses."""
    if isinstance(body, dict):
        media = body
        description = "The answer."
    else:
        media = {"schema": {"$ref": REF + body.__name__}, "example": EXAMPLES[body]}
        description = (body.__doc__ or "").partition("\n\n")[0]
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": description, "content": {"application/json": media}}
    }
    return responses | problem_answers(*problems)


def problem_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` for problems alone."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in statuses:
        responses[problem] = {
            "description": " · ".join(name for name, kind in TYPES.items() if kind.status == problem),
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"{REF}Problem"}, "example": _problem_example(problem)}},
        }
    responses["default"] = {
        "description": "Any other problem.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"{REF}Problem"}}},
    }
    return responses


def _problem_example(status: int) -> dict[str, Any]:
    name, kind = next((name, kind) for name, kind in TYPES.items() if kind.status == status)
    return {"type": URN + name, "title": kind.title, "status": status, "detail": "what is wrong with this request"}


def component_schemas() -> dict[str, Any]:
    """Every schema that the document refers to."""
    structs = [*EXAMPLES, *KINDS.values()]
    schemas, components = msgspec.json.schema_components(structs, schema_hook=_own_types, ref_template=REF + "{name}")
    refs = dict(zip(structs, schemas, strict=True))
    signals = {f"Signal.{kind}": _signal_schema(kind, refs[data]) for kind, data in KINDS.items()}
    components |= signals
    components["Signal"] = {
        "oneOf": [{"$ref": REF + name} for name in signals],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {name.removeprefix("Signal."): REF + name for name in signals},
        },
    }
    components |= {"SignalsAnswer": ANSWER_SCHEMA, "Problem": PROBLEM_SCHEMA}
    schemas_of_all: dict[str, Any] = portable(components)
    return schemas_of_all


def _signal_schema(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": 256},
            "source": {"type": "string", "minLength": 1, "maxLength": 256},
            "tenant": {"type": "string", "minLength": 1, "maxLength": 128},
            "kind": {"const": kind},
            "subject": {"type": ["string", "null"], "minLength": 1, "maxLength": 128},
            "observed_at": {"type": "string", "format": "date-time"},
            "data": data,
            "extra": {"type": ["object", "null"], "description": "The sender's own fields."},
        },
        "required": ["id", "source", "tenant", "kind", "observed_at", "data"],
        "additionalProperties": False,
    }


def _own_types(kind: type) -> dict[str, Any]:
    if kind is Micros:
        return {"type": "string", "format": "decimal", "examples": ["910.25"]}
    if kind is EpochMicros:
        return {"type": "string", "format": "date-time"}
    raise NotImplementedError
