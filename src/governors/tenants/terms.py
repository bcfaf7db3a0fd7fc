"""On what terms a tenant is governed at a moment: which policies, and which governors act on what they decide. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from governors.machines.conduct import ACTS, Asking, Conduct
from governors.machines.profiles import Profile
from governors.tenants.windows import NEVER_US, Window

STOPPED: Final = Conduct(observes="emergency stop")


class Terms(Struct, frozen=True, gc=False):
    """`profile` holds the policies in force. `conducts` has the governors that do not simply act, by name. They may be
    others from `until_us` on.
    """

    profile: Profile
    conducts: Mapping[str, Conduct]
    until_us: int

    def conduct(self, governor: str) -> Conduct:
        """How a governor acts."""
        return self.conducts.get(governor, ACTS)


class Book(Struct, frozen=True):
    """All terms that a policy has. `profiles` are by name, `overridden` those of single tenants, by tenant and name."""

    profiles: dict[str, Profile]
    overridden: dict[tuple[str, str], Profile]
    windows: tuple[Window, ...]
    governors: tuple[str, ...]
    standing: dict[str, Terms]
    """By profile: the terms of all those with whom nothing else is arranged."""

    def plain(self, profile: str) -> Terms:
        """The terms of a tenant that is not known: nothing is arranged with it. Raises KeyError."""
        return self.standing[profile]

    def of(self, tenant: str, profile: str, now_us: int, *, stopped: bool) -> Terms:
        """The terms of a tenant with this profile. Raises KeyError for a profile that there is not."""
        windows = [one for one in self.windows if one.concerns(tenant)]
        if not windows and not stopped and (tenant, profile) not in self.overridden:
            return self.standing[profile]
        is_open = [one for one in windows if one.is_open(now_us)]
        named = next((one.profile for one in is_open if one.profile), profile)
        in_force = self.overridden.get((tenant, named)) or self.profiles[named]
        until_us = min((one.changes_us(now_us) for one in windows), default=NEVER_US)
        conducts = dict.fromkeys(self.governors, STOPPED) if stopped else self._conducts(is_open)
        return Terms(in_force, conducts, until_us)

    def _conducts(self, windows: Sequence[Window]) -> dict[str, Conduct]:
        found: dict[str, Conduct] = {}
        for governor in self.governors:
            mine = [one for one in windows if not one.governors or governor in one.governors]
            observes = next((f"window {one.name}" for one in mine if one.observe), "")
            asks: dict[str, Asking] = {}
            for one in mine:
                if one.approval is not None:
                    asking = Asking(one.approval.wait_s * 1_000_000, one.approval.then)
                    asks = dict.fromkeys(one.approval.actions, asking) | asks
            if observes or asks:
                found[governor] = Conduct(observes, asks)
        return found


def make_book(
    profiles: dict[str, Profile],
    overridden: dict[tuple[str, str], Profile],
    windows: tuple[Window, ...],
    governors: Iterable[str],
) -> Book:
    """The book of a policy's parts."""
    standing = {name: Terms(profile, {}, NEVER_US) for name, profile in profiles.items()}
    return Book(profiles, overridden, windows, tuple(governors), standing)
