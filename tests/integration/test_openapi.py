"""The OpenAPI document held against the service that it describes, by requests that are made up from it (schemathesis).

Good and bad requests alike: never a failure of ours, and every answer is one that the document foresees.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import Mock

import httpx
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from support.google import ACCOUNT, AUDIENCE, Google
from support.pushes import Handler, Sink, pusher_of
from support.service import ServiceProcess

from governors.api.app import build_api
from governors.api.push import PubSubDoor, Pushes
from governors.settings import Settings
from governors.telemetry.metrics import Metrics
from ingest.decode.tenants import Routing

TOKEN: Final = "gov_" + "t" * 43
# What the paths of good requests name, so that they are not all about what is not there.
EXISTING: Final[dict[str, Any]] = {
    "tenant": "acme",
    "governor": "cost_guard",
    "subject": "default",
    "receipt_id": "0:1",
    "partition": 0,
    "level": 0,
    "number": "000",
}
# Of a batch each entry has its own verdict, and a document that is handed in to be judged may be anything: both are
# answered with 200 by design.
JUDGED_INSIDE: Final = ("/v1/signals", "/v1/push/alertmanager", "/v1/push/pubsub", "/v1/verify")
SIGNALS: Final = [
    {
        "id": f"o-{number}",
        "source": "test",
        "tenant": "acme",
        "kind": "cost.snapshot",
        "observed_at": "2026-11-22T10:00:00Z",
        "data": {
            "cost_amount": f"{number}.00",
            "budget_amount": "1000.00",
            "currency": "USD",
            "interval_start": "2026-11-01T00:00:00Z",
        },
    }
    for number in range(300)  # more than a tile holds
]


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def as_lines(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """What a schema made up, as lines: texts as they are, anything else as one JSON value a line."""
    lines = value if isinstance(value, list) else [value]
    return b"\n".join(line.encode() if isinstance(line, str) else json.dumps(line).encode() for line in lines)


def describe() -> dict[str, Any]:
    """The document, of a service with every route, before any is running: pytest wants to know what to test."""
    pushes = Pushes(Routing(()), Sink(), PubSubDoor(pusher_of, Handler()))
    api = build_api(Mock(), Settings(), Metrics("0"), lambda: 0, random.Random(1), None, Mock(), pushes)
    document: dict[str, Any] = json.loads(json.dumps(api.openapi()))
    return document


CONFIG: Final = SchemathesisConfig.from_dict(
    {
        # No folder of schemathesis' own where the tests run, and the same requests every time.
        "generation": {"deterministic": True, "database": "none", "max-examples": 10},
        "operations": [
            # Its many kinds of signal would make 2,500 requests of the coverage phase, which the decoders' own tests
            # make already.
            {
                "include-path": "/v1/signals",
                "phases": {"coverage": {"enabled": False}},
                "generation": {"max-examples": 100},
            }
        ],
    }
)
# The stream's answers end only when somebody hangs up.
operations = schemathesis.openapi.from_dict(describe(), config=CONFIG).exclude(path="/v1/stream")


@dataclass(frozen=True, slots=True)
class Served:
    """Where the service is, and tokens for each of its doors."""

    url: str
    ours: dict[str, str]
    googles: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("openapi")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens = {"tokens": [{"name": "admin", "sha256": digest, "roles": ["admin"]}]}
    (folder / "tokens.yaml").write_text(json.dumps(tokens))
    google, ours = Google(folder / "google.json"), {"Authorization": f"Bearer {TOKEN}"}
    env = {
        "GOVERNORS_TENANTS__AUTO_CREATE": "true",
        "GOVERNORS_AUTH__TOKENS_FILE": str(folder / "tokens.yaml"),
        "GOVERNORS_PUSH__AUDIENCE": AUDIENCE,
        "GOVERNORS_PUSH__SERVICE_ACCOUNTS": ACCOUNT,
        "GOVERNORS_PUSH__KEYS": str(folder / "google.json"),
    }
    with ServiceProcess(folder / "data", env=env) as service, httpx.Client(base_url=service.url) as client:
        assert client.get("/openapi.json").json() == operations.raw_schema, "another document than the tested one"
        sent = client.post("/v1/signals", json=SIGNALS, params={"wait": "committed"}, headers=ours)
        assert sent.status_code == 200
        override = {"governor": "cost_guard", "mode": "hold", "reason": "a test", "by": "admin"}
        assert client.post("/v1/tenants/acme/overrides", json=override, headers=ours).status_code == 201
        # It has a checkpoint made that the tiles are under.
        assert client.get("/v1/receipts/0:299/proof", headers=ours).status_code == 200
        yield Served(service.url, ours, google.token())
        assert client.get("/readyz").status_code == 200
        assert service.stop() == 0
        assert [line for line in service.log if '"ERROR"' in line or '"CRITICAL"' in line] == []


@operations.parametrize()
def test_every_answer_is_one_that_the_document_foresees(case: Any, served: Served) -> None:
    if case.meta.generation.mode is GenerationMode.POSITIVE:
        for name in case.path_parameters.keys() & EXISTING.keys():
            case.path_parameters[name] = EXISTING[name]
    # The document's schemas say less than the rules: which fields go with which mode, which profiles there are.
    excluded = [positive_data_acceptance]
    if case.path in JUDGED_INSIDE:
        excluded.append(negative_data_rejection)
    headers = served.googles if case.path == "/v1/push/pubsub" else served.ours
    case.call_and_validate(base_url=served.url, headers=headers, excluded_checks=excluded)
