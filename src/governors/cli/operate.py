"""Commands of operators: overrides, what machines ask people about, emergency stops, the policies in force."""

import getpass
import os
import re
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from governors.cli.client import DEFAULT_URL, TOKEN_VARIABLE, Url, answer_of, pages_of, service_at
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json, print_table
from ingest.signals import DEFAULT_SUBJECT

_TTL: Final = re.compile(r"(\d+(?:\.\d+)?)(s|min|h|d)?")
_SECONDS: Final = {"": 1, "s": 1, "min": 60, "h": 3_600, "d": 86_400}

Tenant = Annotated[str, typer.Argument(help="Whose machine.")]
Governor = Annotated[str, typer.Argument(help="cost_guard, rollback_guard or backlog_valve.")]
Subject = Annotated[str, typer.Option(help="Which budget, service or queue.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the receipt.")]
By = Annotated[
    str | None,
    typer.Option(
        help=f"Whose decision it is. Default: whoever the token in {TOKEN_VARIABLE} is of, else the user here."
    ),
]
Ttl = Annotated[str, typer.Option(metavar="TIME", help="How long it holds: 90s, 30min, 2h, 1d.")]


class Mode(StrEnum):
    """What an override does."""

    HOLD = "hold"
    RELEASE = "release"
    FORCE = "force"
    EXTRA_BUDGET = "extra_budget"
    END = "end"


def override(
    tenant: Tenant,
    governor: Governor,
    mode: Annotated[
        Mode,
        typer.Argument(
            help="hold: keep the state in force; release: lift restrictions; force: put --status in force; "
            "extra_budget: add --extra-amount; end: let the machine decide again."
        ),
    ],
    reason: Reason,
    subject: Subject = DEFAULT_SUBJECT,
    ttl: Ttl = "1h",
    status: Annotated[str, typer.Option(help="With force: the state.")] = "",
    extra_amount: Annotated[str | None, typer.Option(help="With extra_budget: how much more.")] = None,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Take a decision out of a machine's hands for a while, or give it back.

    It ends by itself, and leaves a receipt when it begins and when it ends. Exit 1: refused, or there is no such
    machine. 2: the service could not be asked.

    Example: governors override acme cost_guard release --subject prod-budget --ttl 2h --reason "launch day"
    """
    path = f"/v1/tenants/{quote(tenant, safe='')}/overrides"
    with service_at(url) as client:
        if mode is Mode.END:
            where = f"{path}/{quote(governor, safe='')}/{quote(subject, safe='/')}"
            result = answer_of(client.delete(where, params={"reason": reason, **by_whom(by)}))
        else:
            body = {
                "governor": governor,
                "subject": subject,
                "mode": str(mode),
                "ttl_s": _seconds(ttl),
                "reason": reason,
            }
            if status:
                body["status"] = status
            if extra_amount is not None:
                body["extra_amount"] = extra_amount
            result = answer_of(client.post(path, json={**body, **by_whom(by)}))
    _print_result(result, as_json=as_json)


def approvals(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List what machines ask people about: actions that they want and may not ask for without an answer.

    Exit 1: the service does not know this tenant. 2: it could not be asked.

    Example: governors approvals acme
    """
    with service_at(url) as client:
        if tenant is None:
            found = list(pages_of(client, "/v1/tenants", "tenants"))
        else:
            found = [answer_of(client.get(f"/v1/tenants/{quote(tenant, safe='')}"))]
    asked = [
        {
            "tenant": one["tenant"],
            "governor": machine["governor"],
            "subject": machine["subject"],
            "action": machine["withheld"]["kind"],
            "until": machine["withheld"]["until"],
            "state": machine["state"],
            "reason": machine["reason"],
        }
        for one in found
        for machine in one["machines"]
        if machine["withheld"] and machine["withheld"]["awaits"]
    ]
    if as_json:
        print_json({"approvals": asked})
        return
    keys = ("tenant", "governor", "subject", "action", "until", "reason")
    print_table([key.upper() for key in keys], [[str(one[key]) for key in keys] for one in asked])


def approve(
    tenant: Tenant,
    governor: Governor,
    reason: Reason,
    subject: Subject = DEFAULT_SUBJECT,
    ttl: Ttl = "1h",
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Approve what a machine asks about, a rollback that is held, or that a machine frozen by a storm acts again.

    Exit 1: nothing is asked there. 2: the service could not be asked.

    Example: governors approve acme rollback_guard --subject checkout --reason "saw the errors"
    """
    _answer(tenant, governor, subject, "approve", reason, ttl, by, url, as_json=as_json)


def refuse(
    tenant: Tenant,
    governor: Governor,
    reason: Reason,
    subject: Subject = DEFAULT_SUBJECT,
    ttl: Ttl = "1h",
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Refuse what a machine asks about. After --ttl it asks anew, if it is wanted still.

    Exit 1: nothing is asked there. 2: the service could not be asked.

    Example: governors refuse acme cost_guard --subject prod-budget --ttl 4h --reason "paid for already"
    """
    _answer(tenant, governor, subject, "refuse", reason, ttl, by, url, as_json=as_json)


def emergency_stop(
    reason: Reason,
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant. Default: everybody.")] = None,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Keep governors from acting: they decide and leave receipts, and admission lets everything through.

    Holds until `governors resume`, also over a restart. Exit 1: refused, or the tenant is not known. 2: the service
    could not be asked.

    Example: governors emergency-stop acme --reason "wrong budget"
    """
    with service_at(url) as client:
        result = answer_of(client.put(_stop_path(tenant), json={"reason": reason, **by_whom(by)}))
    _print_stop(result, as_json=as_json)


def resume(
    reason: Reason,
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's stop. Default: everybody's.")] = None,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Lift an emergency stop: governors act again, on what is so now.

    Exit 1: refused, or the tenant is not known. 2: the service could not be asked.

    Example: governors resume acme --reason "budget corrected"
    """
    with service_at(url) as client:
        result = answer_of(client.delete(_stop_path(tenant), params={"reason": reason, **by_whom(by)}))
    _print_stop(result, as_json=as_json)


def policies(
    reload: Annotated[
        bool, typer.Option("--reload", help="Have the service read its policy files again first.")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show under which policies a service decides now: profiles, tenants with their own, windows, emergency stop.

    Exit 1: the files that were to be read again are wrong, and those of before still hold. 2: the service could not be
    asked.

    Example: governors policies --reload
    """
    with service_at(url) as client:
        changed = answer_of(client.post("/v1/policies/reload"))["changed"] if reload else None
        found = answer_of(client.get("/v1/policies"))
    if as_json:
        print_json(found if changed is None else {**found, "changed": changed})
        return
    if changed is not None:
        print("changed" if changed else "nothing has changed")
    print(f"digest    {found['digest']}")
    print(f"profiles  {', '.join(found['profiles'])}")
    print(f"tenants   {', '.join(found['tenants']) or 'none has a policy of its own'}")
    print(f"stopped   {'yes: nobody acts' if found['stopped'] else 'no'}")
    for window in found["windows"]:
        state = "open" if window["open"] else "closed"
        print(f"window    {window['name']}: {state}, next change {window['changes'] or 'never'}")


def _answer(
    tenant: str, governor: str, subject: str, verdict: str, reason: str, ttl: str, by: str | None, url: str, *,
    as_json: bool,
) -> None:  # fmt: skip
    body = {"governor": governor, "subject": subject, "verdict": verdict, "reason": reason, "ttl_s": _seconds(ttl)}
    with service_at(url) as client:
        path = f"/v1/tenants/{quote(tenant, safe='')}/approvals"
        result = answer_of(client.post(path, json={**body, **by_whom(by)}))
    _print_result(result, as_json=as_json)


def _print_result(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    until = f" until {result['until']}" if result.get("until") else ""
    where = f"{result['tenant']} {result['governor']}/{result['subject']}"
    print(f"{result['receipt']}  {where}: {result['decision']}{until}, state {result['state']}: {result['reason']}")


def _print_stop(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    whom = result["tenant"] or "everybody"
    said = "stopped: decides, and acts on nothing" if result["stopped"] else "acts again"
    print(f"{result['receipt'] or 'as before'}  {whom} {said}")


def _stop_path(tenant: str | None) -> str:
    return "/v1/emergency-stop" if tenant is None else f"/v1/tenants/{quote(tenant, safe='')}/emergency-stop"


def by_whom(by: str | None) -> dict[str, str]:
    """Whose decision it is, as a request says it; nothing where the token does."""
    if by is not None:
        return {"by": by}
    if os.environ.get(TOKEN_VARIABLE):
        return {}
    try:
        return {"by": getpass.getuser()}
    except (KeyError, OSError):
        fail("who you are is not known here: give --by", EXIT_BAD)


def _seconds(ttl: str) -> float:
    match = _TTL.fullmatch(ttl)
    if match is None:
        fail(f"--ttl {ttl}: expected a time such as 90s, 30min, 2h or 1d", EXIT_BAD)
    return float(match[1]) * _SECONDS[match[2] or ""]
