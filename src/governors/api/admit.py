"""`GET /v1/admit`: may this request of this tenant pass now? Gateways ask for every request, so it does little."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from governors.admission import CLASSES, Admitted, Refused, Viewed
from governors.api.problem import ProblemError
from governors.api.service import AdmitAnswer
from ingest.signals import TENANT_RULE, is_tenant

CLASS_DEFAULT: Final = "normal"
COST_MAX: Final = 1_000_000
NAME_CHARS_MAX: Final = 128
USER_CHARS_MAX: Final = 256
PARAMETERS: Final = dict.fromkeys(("tenant", "class", "user", "cost")).keys()
INVALID: Final = "invalid-field"
# A rate is told as a quota over a minute: rates under one a second still make whole numbers.
QUOTA_WINDOW_S: Final = 60
BODIES: Final[Mapping[str, bytes]] = {
    basis: msgspec.json.encode(AdmitAnswer(basis)) for basis in ("rules", "unrestricted", "unknown_tenant")
}
"""What is answered to what passes, by its basis."""


class Asked(Struct, frozen=True, gc=False):
    """For which request admission is asked; `user` is empty where nobody is named."""

    tenant: str
    klass: str
    user: str
    cost: int


def read_query(query: bytes) -> Asked:
    """What the query asks. Raises ProblemError naming the parameter."""
    if b"%" in query or b"+" in query or not query.isascii():
        parts = [(name, "=", value) for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
    else:
        # The same, where nothing is written in another way than it is meant.
        parts = [part.partition("=") for part in query.decode("ascii").split("&") if part]
    given = {name: value for name, _, value in parts}
    if len(given) != len(parts) or not given.keys() <= PARAMETERS:
        raise _misnamed([name for name, _, _ in parts])
    klass, cost = given.get("class", CLASS_DEFAULT), given.get("cost", "1")
    return read_asked(given.get("tenant", ""), klass, given.get("user", ""), cost)


def _misnamed(names: Sequence[str]) -> ProblemError:
    for name in names:
        if name not in PARAMETERS:
            return invalid(name, f"unknown parameter; expected {', '.join(PARAMETERS)}")
    return invalid(next(name for name in names if names.count(name) > 1), "given twice")


def read_asked(tenant: str, klass: str, user: str, cost: str, prefix: str = "") -> Asked:
    """What is asked, if it can be. Raises ProblemError naming what is wrong, by its name behind `prefix`."""
    if not tenant:
        raise invalid(f"{prefix}tenant", "required")
    if len(tenant) > NAME_CHARS_MAX or not is_tenant(tenant):
        raise invalid(f"{prefix}tenant", TENANT_RULE)
    if klass not in CLASSES:
        raise invalid(f"{prefix}class", f"expected one of {', '.join(CLASSES)}")
    if len(user) > USER_CHARS_MAX:
        raise invalid(f"{prefix}user", f"expected at most {USER_CHARS_MAX} characters")
    if cost == "1":
        return Asked(tenant, klass, user, 1)
    if len(cost) <= len(str(COST_MAX)) and cost.isascii() and cost.isdigit() and 1 <= int(cost) <= COST_MAX:
        return Asked(tenant, klass, user, int(cost))
    raise invalid(f"{prefix}cost", f"expected an integer from 1 to {COST_MAX}")


def invalid(field: str, detail: str) -> ProblemError:
    """A parameter or header that cannot be."""
    return ProblemError(INVALID, detail, field=field)


def viewed_body(admitted: Admitted, viewed: Viewed) -> bytes:
    """What is answered to what passes by a view."""
    return msgspec.json.encode(AdmitAnswer(admitted.basis, viewed.age_ms))


def viewed_refusal(tenant: str, refused: Refused, viewed: Viewed) -> ProblemError:
    """A refusal by a view."""
    problem = refusal(tenant, refused)
    problem.members = {**problem.members, "view_age_ms": viewed.age_ms}
    return problem


def refusal(tenant: str, refused: Refused) -> ProblemError:
    """429 with the headers of draft-ietf-httpapi-ratelimit-headers. Retry-After is jittered where it was decided."""
    retry = refused.retry_after_s
    partition = f"pk=:{b64encode(tenant.encode()).decode()}:"
    headers = {"Retry-After": str(retry), "RateLimit": f'"{refused.policy}";r=0;t={retry};{partition}'}
    if refused.rate_milli_per_s is not None:
        quota = refused.rate_milli_per_s * QUOTA_WINDOW_S // 1_000
        headers["RateLimit-Policy"] = f'"{refused.policy}";q={quota};w={QUOTA_WINDOW_S};{partition}'
    members = {"violated-policies": [refused.policy], "reason": refused.reason}
    return ProblemError(refused.type, _sentence(tenant, refused), headers=headers, members=members)


def _sentence(tenant: str, refused: Refused) -> str:
    match refused.reason:
        case "fraction":
            return f"{(refused.fraction_ppm or 0) / 10_000:g} % of {tenant}'s requests pass now, and not this one"
        case "rate":
            return f"{(refused.rate_milli_per_s or 0) / 1_000:g} a second of {tenant}'s requests pass now"
        case "critical_only":
            return f"only {tenant}'s requests of class critical pass now"
        case "not_active":
            return f"tenant {tenant} is {refused.detail or 'not active'}"
        case "unknown_tenant":
            return f"tenant {tenant} is not known"
        case "view_stale":
            return f"what holds for {tenant} was not told here for too long, and until it is no request passes"
