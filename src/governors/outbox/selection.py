"""Which actions an executor takes. Pure."""

from msgspec import Struct

from governors.tenants.tenant import OpenWork


class Selection(Struct, frozen=True):
    """What an action must be like: of the kinds, governors and tenants that are named; where none is, of any."""

    kinds: tuple[str, ...] = ()
    governors: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()

    def takes(self, work: OpenWork) -> bool:
        """Whether an action is like that."""
        return (
            (not self.kinds or work.action.kind in self.kinds)
            and (not self.governors or work.governor in self.governors)
            and (not self.tenants or work.tenant in self.tenants)
        )
