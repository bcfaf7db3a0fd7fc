"""What can be read about a tree: its nodes, its events, its errors. All of it plain data that becomes JSON."""

import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

TRACEBACK_CHARS_MAX: Final = 4_000


class State(StrEnum):
    """Where a child or a supervisor is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    GIVEN_UP = "given_up"  # failed once more than its intensity allows
    ABANDONED = "abandoned"  # was told to end, still runs past its deadline, and is nobody's child any more


class ExitReason(StrEnum):
    """Why a child is gone."""

    NORMAL = "normal"  # it returned
    ERROR = "error"  # it raised
    CANCELLED = "cancelled"  # a CancelledError that its supervisor had not asked for
    SHUTDOWN = "shutdown"  # its supervisor told it to end, and it did


class ErrorReport(Struct, frozen=True):
    """An exception as text. `message` is its type and message, `traceback` ends with it and begins with its causes."""

    message: str
    traceback: str


class TreeNode(Struct, frozen=True, omit_defaults=True):
    """One child, or one supervisor with its children in start order.

    `restarts` counts how often it was started again, whoever's exit was the reason; `since_s` for how many seconds
    it has been in `state`; `last_error_ago_s` how long ago `last_error` was. A dynamic supervisor lists only its
    troubled children, a bounded number of them, and counts all in `counts`.
    """

    name: str
    kind: Literal["worker", "supervisor"]
    state: State
    restart: str = ""
    restarts: int = 0
    since_s: float = 0.0
    last_error: ErrorReport | None = None
    last_error_ago_s: float | None = None
    counts: dict[str, int] = {}
    children: tuple["TreeNode", ...] = ()


class EventKind(StrEnum):
    """What happened to a child."""

    STARTED = "started"
    RESTARTED = "restarted"
    START_FAILED = "start_failed"
    EXITED = "exited"
    GIVEN_UP = "given_up"
    ABANDONED = "abandoned"
    ABANDONED_ENDED = "abandoned_ended"


class SupervisionEvent(Struct, frozen=True):
    """One event, for logs and metrics. `reason` is there for exits, `error` wherever one is known."""

    kind: EventKind
    supervisor: str
    child: str
    reason: ExitReason | None = None
    error: ErrorReport | None = None


OnEvent = Callable[[SupervisionEvent], None]


def describe(error: BaseException) -> ErrorReport:
    """The report of an exception. A long traceback loses its middle: the first cause and the last frame say most."""
    text = "".join(traceback.format_exception(error))
    if len(text) > TRACEBACK_CHARS_MAX:
        half = TRACEBACK_CHARS_MAX // 2
        text = f"{text[:half]}\n  ... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return ErrorReport(traceback.format_exception_only(error)[0].strip()[:500], text)
