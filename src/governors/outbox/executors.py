"""Those who carry actions out. Each answers with what it knows: unknown is not success."""

from typing import Protocol

import structlog
from msgspec import Struct

from governors.tenants.tenant import OpenWork


class Done(Struct, frozen=True):
    """How an action ended. `detail` is a short sentence for the receipt."""

    ok: bool
    detail: str = ""


class Executor(Protocol):
    """Carries out an action; called again under the same action id after a crash, so it must be idempotent."""

    async def execute(self, work: OpenWork) -> Done: ...


class LogExecutor:
    """Says in the log what is to be done: the executor of a service that nothing else is connected to."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("governors.action")

    async def execute(self, work: OpenWork) -> Done:
        self._log.warning(
            f"action {work.action.kind} for {work.tenant}",
            tenant=work.tenant,
            governor=work.governor,
            subject=work.subject,
            action_id=work.action.id,
            action=work.action.kind,
            params=work.action.params,
            receipt=work.receipt,
        )
        return Done(ok=True, detail="logged")
