"""The Backlog Valve's statuses and its state.

Its parts are encoded as arrays (a third of the bytes): new fields go to their ends, with a default, so that states
kept before can still be read.
"""

from enum import StrEnum

from msgspec import Struct

from governors.machines.valve_control import Control
from governors.machines.valve_sensor import Sensor


class ValveStatus(StrEnum):
    """How far the valve is open."""

    OPEN = "OPEN"
    SHEDDING = "SHEDDING"
    DRAINING = "DRAINING"
    PROBING = "PROBING"


class ValveState(Struct, frozen=True, gc=False):
    """One queue's valve: its status since `since_us`, what it senses, what it does."""

    status: ValveStatus = ValveStatus.OPEN
    since_us: int = 0
    sensor: Sensor = Sensor()
    control: Control = Control()
