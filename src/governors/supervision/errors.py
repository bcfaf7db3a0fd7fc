"""What supervision raises, each error saying what happened to the tree."""


class SupervisionError(Exception):
    """Root of everything this package raises."""


class BadChildSpecError(SupervisionError):
    """A specification contradicts itself or its supervisor: nothing was started; correct the program."""


class NotRunningError(SupervisionError):
    """The supervisor has not been started, or is stopping: nothing was done."""


class AlreadyStartedError(SupervisionError):
    """A child of this name is there already: nothing was done."""


class ExitedBeforeStartedError(SupervisionError):
    """A child returned without ever having said that it started."""


class StartTimeoutError(SupervisionError):
    """A child did not say within its start deadline that it started; it was terminated."""


class ChildStartError(SupervisionError):
    """A child failed at the supervisor's start; those started before it were stopped. `__cause__` says why."""

    def __init__(self, supervisor: str, child: str) -> None:
        super().__init__(f"supervisor {supervisor!r} could not start: its child {child!r} failed to start")
        self.supervisor = supervisor
        self.child = child


class IntensityExceededError(SupervisionError):
    """Children failed more often than the supervisor may restart them; it stopped them all and gave up.

    `child` is the one whose exit was one too many, `__cause__` its error (None when it had returned).
    """

    def __init__(self, supervisor: str, child: str, restarts: int, period_s: float) -> None:
        super().__init__(
            f"supervisor {supervisor!r} gave up: restart {restarts} within {period_s:g} s was due, of child {child!r}"
        )
        self.supervisor = supervisor
        self.child = child
        self.restarts = restarts
        self.period_s = period_s
