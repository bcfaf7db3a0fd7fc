"""Pages of one list that comes from several partitions, joined to one. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from governors.api.service import ActionsPage, OperationsPage, OperationView, TenantsPage

CURSOR_PATTERN: Final = r"^([0-9]{1,4}:[0-9]{1,15}(,[0-9]{1,4}:[0-9]{1,15})*)?$"
CURSOR_CHARS_MAX: Final = 2_000
"""A hundred partitions of a billion receipts each: the head of a request has a limit too."""


def join_tenants(pages: Sequence[TenantsPage], limit: int) -> TenantsPage:
    """In order of their names."""
    all_of_them = sorted((one for page in pages for one in page.tenants), key=lambda one: one.tenant)
    shown = all_of_them[:limit]
    has_more = len(all_of_them) > limit or any(page.next is not None for page in pages)
    # Where one page was full, others may have names before its last one, but none of them after this page's last.
    return TenantsPage(shown, shown[-1].tenant if shown and has_more else None)


def join_actions(pages: Sequence[ActionsPage], limit: int) -> ActionsPage:
    """In order of their ids."""
    all_of_them = sorted((one for page in pages for one in page.actions), key=lambda one: one.id)
    shown = all_of_them[:limit]
    has_more = len(all_of_them) > limit or any(page.next is not None for page in pages)
    return ActionsPage(shown, shown[-1].id if shown and has_more else None)


def join_operations(pages: Sequence[OperationsPage], after: str, limit: int) -> OperationsPage:
    """Oldest first."""
    timed: list[tuple[str, tuple[int, int], OperationView]] = []
    for page in pages:
        latest = ""
        for one in page.operations:
            # No partition's order changes where its clock went backwards.
            latest = max(latest, one.at.removesuffix("Z"))
            timed.append((latest, _place(one), one))
    all_of_them = [one for _, _, one in sorted(timed, key=lambda entry: entry[:2])]
    shown = all_of_them[:limit]
    has_more = len(all_of_them) > limit or any(page.next is not None for page in pages)
    seen = dict(read_cursor(after)) | dict(map(_place, shown))
    return OperationsPage(shown, write_cursor(seen) if has_more else None)


def read_cursor(text: str) -> Mapping[int, int]:
    """Of each partition the last receipt that was shown; of one that is absent, none was."""
    places = (one.partition(":") for one in text.split(",") if one)
    return {int(partition): int(index) for partition, _, index in places}


def write_cursor(seen: Mapping[int, int]) -> str:
    """What `read_cursor` reads."""
    return ",".join(f"{partition}:{index}" for partition, index in sorted(seen.items()))


def _place(one: OperationView) -> tuple[int, int]:
    partition, _, index = one.id.partition(":")
    return int(partition), int(index)
