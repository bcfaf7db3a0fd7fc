"""What OpenAPI says of the push routes."""

from typing import Any, Final

from governors.api.documents import REF, answers

_TAKEN: Final = {"outcome": "taken"}
_MESSAGE: Final = {
    "message": {
        "attributes": {
            "billingAccountId": "01D4EE-079462-DFD6EC",
            "budgetId": "de72f49d-779b-4945-a127-4d6ce8def0bb",
            "schemaVersion": "1.0",
        },
        "data": (
            "eyJjb3N0QW1vdW50IjoxNDAuMzIxLCJidWRnZXRBbW91bnQiOjE1Mi41NTcsImN1cnJlbmN5Q29kZSI6IlVTRCIs"
            "ImNvc3RJbnRlcnZhbFN0YXJ0IjoiMjAyNi0xMS0wMVQwODowMDowMFoifQ=="
        ),
        "messageId": "8840",
        "publishTime": "2026-11-22T10:00:00Z",
    },
    "subscription": "projects/my-project/subscriptions/budgets",
}
_ALERT: Final = {
    "status": "firing",
    "labels": {"alertname": "HighErrorRate", "severity": "critical", "service": "checkout", "tenant": "acme"},
    "annotations": {},
    "startsAt": "2026-11-22T09:58:00Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph",
    "fingerprint": "5ef77f1f8a3ecfb5",
}
_GROUP: Final = {"version": "4", "groupKey": "{}", "truncatedAlerts": 0, "receiver": "governors", "alerts": [_ALERT]}
_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "object", "additionalProperties": _TEXT}

_PUSH_ANSWER: Final = {
    "type": "object",
    "properties": {
        "outcome": {"type": "string", "enum": ["taken", "dead_lettered"]},
        "reason": _TEXT,
        "detail": _TEXT,
    },
    "required": ["outcome"],
}
_ALERTS_ANSWER: Final = {
    "type": "object",
    "properties": {
        "results": {
            "type": "array",
            "items": {"anyOf": [{"$ref": f"{REF}SignalResult"}, {"$ref": f"{REF}UnreadableResult"}]},
        },
        "truncated_alerts": {"type": "integer", "minimum": 0},
    },
    "required": ["results", "truncated_alerts"],
}


def push_operations() -> dict[str, dict[str, Any]]:
    """The routes' `post` by their paths."""
    return {
        "/v1/push/pubsub": _operation(
            "post_push_pubsub",
            "A message that Google Pub/Sub pushes",
            "Answers 200 once what the message tells is committed, or once it lies with the dead letters.",
            {
                "type": "object",
                "properties": {
                    "message": {
                        "type": "object",
                        "properties": {
                            "attributes": _TEXTS,
                            "data": {"type": "string", "contentEncoding": "base64"},
                            "messageId": _TEXT,
                            "publishTime": {"type": "string", "format": "date-time"},
                        },
                    },
                    "subscription": _TEXT,
                },
                "required": ["message"],
            },
            _MESSAGE,
            {"schema": _PUSH_ANSWER, "example": _TAKEN},
        ),
        "/v1/push/alertmanager": _operation(
            "post_push_alertmanager",
            "A notification of Alertmanager (version 4)",
            "One result for each alert. What cannot be read lies with the dead letters.",
            {
                "type": "object",
                "properties": {
                    "version": {"const": "4"},
                    "alerts": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "status": {"enum": ["firing", "resolved"]},
                                "labels": _TEXTS,
                                "startsAt": {"type": "string", "format": "date-time"},
                                "endsAt": {"type": "string", "format": "date-time"},
                                "fingerprint": _TEXT,
                            },
                            "required": ["status", "labels", "startsAt", "fingerprint"],
                        },
                    },
                    "truncatedAlerts": {"type": "integer"},
                },
                "required": ["version", "alerts"],
            },
            _GROUP,
            {"schema": _ALERTS_ANSWER},
        ),
    }


def _operation(
    operation_id: str,
    summary: str,
    description: str,
    schema: dict[str, Any],
    example: dict[str, Any],
    answer: dict[str, Any],
) -> dict[str, Any]:
    responses = {str(status): one for status, one in answers(answer, 400, 408, 413, 415, 503).items()}
    return {
        "tags": ["push"],
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
        "responses": responses,
    }
