"""The policy files: profiles, what differs for single tenants, and windows of time in which other terms hold.

One file, or a folder of them. They are read as a whole and hold as a whole: with anything wrong in any of them, all of
what held before goes on. docs/policies.md describes them, docs/schema/policies.json is for editors.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from governors.machines.catalog import BY_NAME, GOVERNORS
from governors.machines.profiles import PROFILE_NAMES, PolicyOverrides, ProfileError, build_profile
from governors.settings import SettingsError, TenantName, Word
from governors.settings_file import FileUnreadableError, read_mapping
from governors.settings_layers import Problem, shown
from governors.tenants.windows import Approval, Window, read_weekly

KEY: Final = "policies"
SUFFIXES: Final = frozenset({".yaml", ".yml"})

ACTIONS: Final = sorted({kind for one in GOVERNORS for kind in (*one.undo, *one.undo.values(), *one.lasting)})
"""All that a person can be asked about first."""

Changes = dict[str, dict[str, Any]]


class WindowText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A window of time, and what holds while it is open: at least one of `observe`, `profile` and `approval`.

    Without a time it is always open: so `observe` alone is a shadow mode, and `approval` alone asks a person always.
    """

    name: Word
    """Told in receipts and to people."""
    tenants: tuple[TenantName, ...] = ()
    """Whom it is for; none named: all."""
    governors: tuple[str, ...] = ()
    """Which governors `observe` and `approval` are for; none named: all."""
    from_: datetime | None = field(name="from", default=None)
    """It opens at this moment, with its zone: `2026-11-27T00:00:00+01:00`."""
    until: datetime | None = None
    """It closes at this moment."""
    weekly: tuple[str, ...] = ()
    """It is open in these spans only: `Mon-Fri 09:00-18:00`, `Sat 22:00-02:00`, or `03:00-04:00` for each day."""
    utc_offset: Annotated[str, Meta(pattern=r"^[+-]\d\d:\d\d$")] = "+00:00"
    """How far the clock of `weekly` is ahead of UTC. A fixed one, without summer time: what a zone's will be may be
    decided anew, and a decision must come out the same whenever it is taken again."""
    observe: bool = False
    """Governors decide and leave receipts, and act on nothing; admission lets everything through."""
    profile: Word | None = None
    """The profile in force, instead of the tenant's own. The first open window that names one holds."""
    approval: Approval | None = None
    """Actions that a person is asked about first."""


class PolicyText(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a policy file says."""

    profiles: dict[str, Changes] = {}
    """Profile -> governor -> policy key -> value, beside and over those of the configuration."""
    tenants: dict[TenantName, Changes] = {}
    """Tenant -> governor -> policy key -> value: what differs for it, whatever profile it has."""
    windows: tuple[WindowText, ...] = ()


class Policies(Struct, frozen=True):
    """All of it, checked."""

    profiles: Mapping[str, PolicyOverrides] = MappingProxyType({})
    tenants: Mapping[str, PolicyOverrides] = MappingProxyType({})
    windows: tuple[Window, ...] = ()


NO_POLICIES: Final = Policies()


def read_policies(path: Path | None, configured: Mapping[str, PolicyOverrides]) -> Policies:
    """The policies of a file or of all files of a folder; none without a path.

    `configured` are the profiles of the configuration. Raises SettingsError with everything that is wrong.
    """
    if path is None:
        return NO_POLICIES
    problems: list[Problem] = []
    texts: list[tuple[Path, PolicyText]] = []
    for one in _files(path):
        try:
            texts.append((one, msgspec.convert(dict(read_mapping(one)), PolicyText)))
        except FileUnreadableError as error:
            problems.append(Problem(KEY, shown(str(one)), "file", str(error)))
        except msgspec.ValidationError as error:
            problems.append(Problem(KEY, "", f"file {one}", str(error)))
    profiles = _joined("profiles", ((one, text.profiles) for one, text in texts), problems)
    tenants = _joined("tenants", ((one, text.tenants) for one, text in texts), problems)
    packs: dict[str, PolicyOverrides] = {**{name: {} for name in PROFILE_NAMES}, **configured, **profiles}
    _check_packs(packs, tenants, problems)
    windows = [window for one, text in texts for window in _windows(one, text.windows, packs, problems)]
    names = Counter(window.name for window in windows)
    problems += [
        Problem("windows", shown(name), "file", "expected names that differ") for name in names if names[name] > 1
    ]
    if problems:
        raise SettingsError(problems)
    return Policies(profiles, tenants, tuple(windows))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.iterdir() if one.suffix in SUFFIXES)


def _joined(
    section: str, found: Iterable[tuple[Path, Mapping[str, Changes]]], problems: list[Problem]
) -> dict[str, Changes]:
    joined: dict[str, Changes] = {}
    for path, values in found:
        for name, changes in values.items():
            if name in joined:
                problems.append(Problem(f"{section}.{name}", "", f"file {path}", "is in another file too"))
            joined.setdefault(name, changes)
    return joined


def _check_packs(
    packs: Mapping[str, PolicyOverrides], tenants: Mapping[str, PolicyOverrides], problems: list[Problem]
) -> None:
    """A tenant's changes must go together with every profile that it may come to have."""
    for name, pack in packs.items():
        try:
            build_profile(name, pack)
        except ProfileError as error:
            problems.append(Problem(error.key, "", KEY, error.message))
            continue
        for tenant, changes in tenants.items():
            merged = {one: {**pack.get(one, {}), **changes.get(one, {})} for one in {**pack, **changes}}
            try:
                build_profile(name, merged)
            except ProfileError as error:
                governor = error.key.rpartition(".")[2]
                said = f"{error.message} (with the profile {name})"
                problems.append(Problem(f"tenants.{tenant}.{governor}", "", KEY, said))


def _windows(
    path: Path, texts: Iterable[WindowText], packs: Mapping[str, PolicyOverrides], problems: list[Problem]
) -> Iterable[Window]:
    for text in texts:
        key, origin = f"windows.{text.name}", f"file {path}"
        problems += [
            Problem(key, shown(governor), origin, f"expected one of {', '.join(BY_NAME)}")
            for governor in text.governors
            if governor not in BY_NAME
        ]
        problems += [
            Problem(key, shown(action), origin, f"expected one of {', '.join(ACTIONS)}")
            for action in (text.approval.actions if text.approval else ())
            if action not in ACTIONS
        ]
        if text.approval is not None and not text.approval.actions:
            problems.append(Problem(key, "", origin, "expected actions to ask about"))
        if text.profile is not None and text.profile not in packs:
            problems.append(Problem(key, shown(text.profile), origin, f"expected one of {', '.join(packs)}"))
        if not (text.observe or text.profile or text.approval):
            problems.append(Problem(key, "", origin, "expected observe, profile or approval: it changes nothing"))
        try:
            _check_times(text)
            yield Window(
                name=text.name,
                tenants=text.tenants,
                governors=text.governors,
                from_us=_moment_us(text.from_),
                until_us=_moment_us(text.until),
                weekly=read_weekly(text.weekly, text.utc_offset),
                observe=text.observe,
                profile=text.profile or "",
                approval=text.approval,
            )
        except ValueError as error:
            problems.append(Problem(key, "", origin, str(error)))


def _check_times(text: WindowText) -> None:
    from_us, until_us = _moment_us(text.from_), _moment_us(text.until)
    if from_us is not None and until_us is not None and until_us <= from_us:
        raise ValueError("it is never open: expected until after from")


def _moment_us(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no zone: expected one like 2026-11-27T00:00:00+01:00")
    return int(moment.timestamp()) * 1_000_000
