"""What can go wrong, as data: a schedule is a list of these, so that it can be told, repeated and shrunk."""

from dataclasses import dataclass
from enum import Enum


class DiskFate(Enum):
    """What becomes of one system call on a file."""

    KILL_BEFORE = "the process is killed before it"
    KILL_AFTER = "the process is killed after it"
    POWER_BEFORE = "the power fails before it"
    POWER_WITHIN = "the power fails within it"
    POWER_AFTER = "the power fails after it"
    EIO = "EIO, and nothing was done"
    EIO_LANDED = "EIO, and some of it was done"
    ENOSPC = "ENOSPC, and some of it was done"
    ROT = "a bit of the file flips before it is read"


class StoreFate(Enum):
    """What becomes of one request to the store."""

    LOST = "the request is lost"
    LANDED = "it lands, and the reply is lost"
    LATE = "it lands long after its deadline"
    TOO_MANY = "429"
    BROKEN = "503, and nothing was done"
    BROKEN_LANDED = "503, and it was done"
    SLOW = "it takes nearly all of its deadline"


@dataclass(frozen=True, slots=True)
class DiskFault:
    """On the machine's system call number `call`, counted over all its processes."""

    machine: int
    call: int
    fate: DiskFate

    def __str__(self) -> str:
        return f"machine {self.machine}, disk call {self.call}: {self.fate.value}"


@dataclass(frozen=True, slots=True)
class StoreFault:
    """On the machine's request number `call` to the store, counted over all its processes. `late_s`: for `LATE`."""

    machine: int
    call: int
    fate: StoreFate
    late_s: float = 0.0

    def __str__(self) -> str:
        late = f" ({self.late_s:.1f} s)" if self.late_s else ""
        return f"machine {self.machine}, store request {self.call}: {self.fate.value}{late}"


@dataclass(frozen=True, slots=True)
class KillAtStep:
    """The machine's process is killed before its step number `step`, counted over all its processes."""

    machine: int
    step: int

    def __str__(self) -> str:
        return f"machine {self.machine}, step {self.step}: killed"


class MachineFate(Enum):
    """What happens to a machine at some time."""

    KILL = "its process is killed"
    POWER = "its power fails"
    FREEZE = "its process is frozen"
    CUT_OFF = "it is cut off from the store"
    STOP = "its process is told to stop"
    CLOCK = "its wall clock is set"
    FLIP = "a bit of a sealed segment flips on its disk"
    WIPE = "its disk is lost"


@dataclass(frozen=True, slots=True)
class MachineFault:
    """At `at_s`; what can end ends after `for_s`. `by_s`: for `CLOCK`."""

    machine: int
    at_s: float
    fate: MachineFate
    for_s: float = 0.0
    by_s: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.for_s:.2f} s" if self.for_s else ""
        by = f" by {self.by_s:+.0f} s" if self.by_s else ""
        return f"machine {self.machine}, at {self.at_s:.2f} s: {self.fate.value}{by}{lasting}"


Fault = DiskFault | StoreFault | KillAtStep | MachineFault
