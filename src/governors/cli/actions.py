"""Commands about actions that have not ended: what they wait for, trying again at once, giving up."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from governors.cli.client import DEFAULT_URL, Url, answer_of, pages_of, service_at
from governors.cli.operate import By, Reason, by_whom
from governors.cli.output import AsJson, print_json, print_table

Tenant = Annotated[str, typer.Argument(help="Whose action.")]
ActionId = Annotated[str, typer.Argument(help="Its id, as `governors actions` prints it.")]


def actions(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the actions that have not ended: who carries them out, how often they were tried, and what came of it.

    Exit 2: the service could not be asked.

    Example: governors actions acme
    """
    with service_at(url) as client:
        found = [one for one in pages_of(client, "/v1/actions", "actions") if tenant in {None, one["tenant"]}]
    if as_json:
        print_json({"actions": found})
        return
    head = ["ID", "TENANT", "MACHINE", "ACTION", "EXECUTOR", "ATTEMPTS", "NEXT", "GIVEN UP", "LAST ANSWER"]
    print_table(head, [_row(one) for one in found])


def retry(
    tenant: Tenant,
    action_id: ActionId,
    reason: Reason,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Try an action again now, also where its executor is being left alone after failures.

    Exit 1: there is no such open action. 2: the service could not be asked.

    Example: governors retry acme act-3f9a2c1b7e5d4086-41 --reason "the receiver is back"
    """
    _ask("retry", tenant, action_id, reason, by, url, as_json=as_json)


def abandon(
    tenant: Tenant,
    action_id: ActionId,
    reason: Reason,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Try an action no more. Its machine is told, and asks anew for what is to be so then.

    Exit 1: there is no such open action. 2: the service could not be asked.

    Example: governors abandon acme act-3f9a2c1b7e5d4086-41 --reason "done by hand"
    """
    _ask("abandon", tenant, action_id, reason, by, url, as_json=as_json)


def _ask(
    verb: str, tenant: str, action_id: str, reason: str, by: str | None, url: str, *, as_json: bool
) -> None:  # fmt: skip
    path = f"/v1/tenants/{quote(tenant, safe='')}/actions/{quote(action_id, safe='')}/{verb}"
    with service_at(url) as client:
        result = answer_of(client.post(path, json={"reason": reason, **by_whom(by)}))
    if as_json:
        print_json(result)
    else:
        print(f"{result['id']}  {'is tried now' if verb == 'retry' else 'is given up'}")


def _row(one: dict[str, Any]) -> list[str]:
    attempts = f"{one['attempts']}, perhaps done" if one["doubtful"] else str(one["attempts"])
    where = f"{one['governor']}/{one['subject']}"
    return [
        one["id"], one["tenant"], where, one["action"], one["executor"], attempts,
        _seconds(one["next_attempt_in_s"]), _seconds(one["given_up_in_s"]), one["detail"],
    ]  # fmt: skip


def _seconds(value: float | None) -> str:
    return "" if value is None else f"in {value:.0f} s"
