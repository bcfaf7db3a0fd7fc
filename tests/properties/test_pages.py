"""A list of which each worker has a part is read as if it were one, however it is cut into pages."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from governors.api.pages import (
    CURSOR_PATTERN,
    join_actions,
    join_operations,
    join_tenants,
    read_cursor,
    write_cursor,
)
from governors.api.service import (
    ActionsPage,
    ActionView,
    OperationsPage,
    OperationView,
    TenantsPage,
    TenantView,
)
from ingest.signals import format_time

Page = TypeVar("Page", TenantsPage, ActionsPage, OperationsPage)
PARTITIONS = 5
NOON_US = 1_795_348_800_000_000
short = settings(max_examples=40, deadline=None)

workers = st.lists(st.integers(0, 2), min_size=PARTITIONS, max_size=PARTITIONS)
"""Of each partition, the worker that has it."""
limits = st.lists(st.integers(1, 7), min_size=1, max_size=5)
"""Of one page after the other, again and again."""
homes = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(0, PARTITIONS - 1), max_size=25)
"""Of each name, the partition that has it."""
# Few times, in any order: clocks that agree, that differ, and that go backwards.
clocks = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=PARTITIONS, max_size=PARTITIONS)


def tenant(name: str) -> TenantView:
    return TenantView(name, "active", "standard", "NORMAL", [])


def action(name: str) -> ActionView:
    return ActionView(name, "acme", "cost_guard", "s", "throttle", {}, "0:1", "log", "", 0, "", None, False, None)


def operation(partition: int, index: int, tenths: int) -> OperationView:
    at = format_time(NOON_US + tenths * 100_000)
    return OperationView(f"{partition}:{index}", at, None, Raw(b"{}"), b"", committed=True)


def joined(parts: Sequence[Page], owners: Sequence[int], join: Callable[[list[Page]], Page]) -> Page:
    """As it is done: each worker joins the pages of its partitions, and who was asked joins those of the workers."""
    by_worker = [
        join([page for page, owner in zip(parts, owners, strict=True) if owner == worker]) for worker in range(3)
    ]
    return join(by_worker)


@short
@given(homes, workers, limits)
def test_every_tenant_is_shown_once_in_order(home: dict[str, int], owners: list[int], limits: list[int]) -> None:
    def part(partition: int, after: str, limit: int) -> TenantsPage:
        names = [name for name in sorted(home) if home[name] == partition and name > after]
        return TenantsPage([*map(tenant, names[:limit])], names[limit - 1] if len(names) > limit else None)

    shown: list[str] = []
    after: str | None = ""
    while after is not None:
        limit = limits[len(shown) % len(limits)]
        parts = [part(partition, after, limit) for partition in range(PARTITIONS)]
        page = joined(parts, owners, lambda pages, limit=limit: join_tenants(pages, limit))  # type: ignore[misc]
        assert len(page.tenants) == limit or page.next is None
        shown += [one.tenant for one in page.tenants]
        after = page.next
    assert shown == sorted(home)


@short
@given(homes, workers, limits)
def test_every_action_is_shown_once_in_order(home: dict[str, int], owners: list[int], limits: list[int]) -> None:
    def part(partition: int, after: str, limit: int) -> ActionsPage:
        names = [name for name in sorted(home) if home[name] == partition and name > after]
        return ActionsPage([*map(action, names[:limit])], names[limit - 1] if len(names) > limit else None)

    shown: list[str] = []
    after: str | None = ""
    while after is not None:
        limit = limits[len(shown) % len(limits)]
        parts = [part(partition, after, limit) for partition in range(PARTITIONS)]
        page = joined(parts, owners, lambda pages, limit=limit: join_actions(pages, limit))  # type: ignore[misc]
        shown += [one.id for one in page.actions]
        after = page.next
    assert shown == sorted(home)


def read_operations(kept: list[list[OperationView]], owners: list[int], limits: list[int]) -> list[OperationView]:
    """All of them, by one page after the other."""

    def part(partition: int, after: str, limit: int) -> OperationsPage:
        last = read_cursor(after).get(partition, -1)
        ones = [one for one in kept[partition] if int(one.id.partition(":")[2]) > last]
        more = write_cursor({partition: int(ones[limit - 1].id.partition(":")[2])}) if len(ones) > limit else None
        return OperationsPage(ones[:limit], more)

    shown: list[OperationView] = []
    after: str | None = ""
    while after is not None:
        limit, cursor = limits[len(shown) % len(limits)], after
        parts = [part(partition, cursor, limit) for partition in range(PARTITIONS)]

        def join(pages: list[OperationsPage], limit: int = limit, cursor: str = cursor) -> OperationsPage:
            return join_operations(pages, cursor, limit)

        page = joined(parts, owners, join)
        assert len(page.operations) == limit or page.next is None
        shown += page.operations
        after = page.next
    return shown


@short
@given(clocks, workers, limits)
def test_every_operation_is_shown_once_and_no_partitions_order_changes_by_its_clock(
    times: list[list[int]], owners: list[int], limits: list[int]
) -> None:
    kept = [[operation(number, 3 * at, when) for at, when in enumerate(part)] for number, part in enumerate(times)]
    shown = read_operations(kept, owners, limits)
    assert len(shown) == sum(map(len, kept))
    for number, part in enumerate(kept):
        assert [one.id for one in shown if one.id.startswith(f"{number}:")] == [one.id for one in part]


@short
@given(clocks, workers, limits)
def test_where_clocks_only_go_forward_operations_are_shown_oldest_first(
    times: list[list[int]], owners: list[int], limits: list[int]
) -> None:
    kept = [[operation(number, at, when) for at, when in enumerate(sorted(part))] for number, part in enumerate(times)]
    shown = read_operations(kept, owners, limits)
    when = {
        one.id: time
        for part, ones in zip(times, kept, strict=True)
        for one, time in zip(ones, sorted(part), strict=True)
    }
    assert [when[one.id] for one in shown] == sorted(time for part in times for time in part)


@given(st.dictionaries(st.integers(0, 9_999), st.integers(0, 10**15 - 1)))
def test_a_cursor_is_read_as_it_was_written_and_is_one_that_the_edge_takes(seen: dict[int, int]) -> None:
    written = write_cursor(seen)
    assert read_cursor(written) == seen
    assert re.fullmatch(CURSOR_PATTERN, written)
