"""Whether an action that was asked for is still what its machine wants: what has not left can be taken back. Pure."""

from typing import Any

from governors.machines.conflicts import NOTICES
from governors.machines.governor import Governor
from governors.machines.overlays import MachineState, OpenAction, wanted_action


def still_wanted(governor: Governor, state: MachineState[Any], action: OpenAction, policy: Any) -> bool:
    """Whether the machine would ask for it now. One that knows nothing of the action does not."""
    if state.in_flight is None or state.in_flight.id != action.id:
        return False
    if action.kind in NOTICES:
        # Words to people stay true when the machine has moved on, and nothing takes them back.
        return True
    desired = governor.effect(state.core, governor.status(state.status), policy)
    if desired == state.applied and state.doubt is None:
        return False
    now = wanted_action(governor, state, desired)
    return now is not None and (now.kind, now.establishes) == (action.kind, action.establishes)
