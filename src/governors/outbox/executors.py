"""Those who carry actions out, and what they can answer. Unknown is not success."""

from typing import Literal, Protocol

import structlog
from msgspec import Struct

from governors.tenants.tenant import OpenWork


class Order(Struct, frozen=True):
    """An action whose receipt is committed, with what that receipt says of why.

    `receipt` is its id (`partition:index`), `receipt_sha256` the SHA-256 (hex) of its leaf's bytes, `decided_us` when
    it was decided, `reason` the sentence for people. `maybe`: an attempt before this one may have done it without our
    hearing of it; `acknowledged`: the other side has said that it has it.
    """

    work: OpenWork
    receipt: str
    receipt_sha256: str
    decided_us: int
    reason: str
    maybe: bool = False
    acknowledged: bool = False


class Done(Struct, frozen=True):
    """It is so now. `detail` is a short sentence for the receipt; `proof` is how that is known: `acknowledged` by the
    answer of whoever was asked, or `read_back` from there.
    """

    detail: str = ""
    proof: Literal["", "acknowledged", "read_back"] = ""


class Refused(Struct, frozen=True):
    """It will not be done, however often it is asked for. `maybe`: some of it was."""

    detail: str = ""
    maybe: bool = False


class TryAgain(Struct, frozen=True):
    """It is not known to be done, and may be done another time.

    `maybe`: the other side may have done it without our hearing of it. `after_s`: how long the other side wants to be
    left alone; None where it did not say. `ails`: whether this says that the other side is unwell, for everybody.
    `acknowledged`: it says that it has the order, which need not be sent there again.
    """

    detail: str
    maybe: bool = True
    after_s: float | None = None
    ails: bool = True
    acknowledged: bool = False


Answer = Done | Refused | TryAgain


class Executor(Protocol):
    """Carries out orders at one place. It is asked again under the same action id after a failure or a crash, so asking
    twice must do no more than asking once.
    """

    @property
    def name(self) -> str:
        """What operators call it; whatever fails at it is counted for it alone."""

    def takes(self, work: OpenWork) -> bool:
        """Whether this action is one for it."""

    async def execute(self, order: Order) -> Answer:
        """One attempt. The caller sets the deadline."""


class LogExecutor:
    """Says in the log what is to be done, and does nothing: what takes the actions that are nobody else's."""

    name = "log"

    def __init__(self) -> None:
        self._log = structlog.get_logger("governors.action")

    def takes(self, work: OpenWork) -> bool:  # noqa: ARG002 - every action
        return True

    async def execute(self, order: Order) -> Answer:
        work = order.work
        self._log.warning(
            f"action {work.action.kind} for {work.tenant}",
            tenant=work.tenant,
            governor=work.governor,
            subject=work.subject,
            action_id=work.action.id,
            action=work.action.kind,
            params=work.action.params,
            receipt=order.receipt,
            reason=order.reason,
        )
        return Done("logged")
