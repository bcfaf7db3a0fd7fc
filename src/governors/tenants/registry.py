"""All tenants of a partition: who is active, who is only known, and how work finds them.

A tenant is a task while there is something for it to do. One that was idle for long is passivated: its records stay
as the bytes they have in the ledger, and the next signal, timer or operator brings it back.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

from governors.machines.events import Event, Timeout
from governors.supervision.dynamic import DynamicSupervisor
from governors.tenants.decide import Decided
from governors.tenants.outcome import Ticket
from governors.tenants.records import (
    HEADER_KEY,
    SEPARATOR,
    Entitlement,
    Header,
    MachineRecord,
    decode_header,
    decode_machine,
    encode_record,
    split_state_key,
)
from governors.tenants.tenant import MOVED_ON, Group, Internal, OpenWork, Shared, Tenant
from ingest.signals import Signal, TenantEntitlement
from ledger.errors import LedgerClosedError

# Receipts about tenants that do not exist need a chain; no sender can name this one.
UNKNOWN_TENANT: Final = "_unknown"
SWEEP_S: Final = 15.0
PASSIVE_PER_TURN: Final = 256


class Registry:
    """Routes signals and events to tenants, and keeps as few of them alive as needed.

    At most `queued_max` signals wait in all mailboxes together; `submit` waits for room.
    """

    def __init__(
        self,
        shared: Shared,
        supervisor: DynamicSupervisor,
        *,
        auto_create: bool,
        default_profile: str,
        queued_max: int,
        idle_passivate_us: int,
    ) -> None:
        self._shared = shared
        self._supervisor = supervisor
        self._auto_create = auto_create
        self._default_profile = default_profile
        self._queued_max = queued_max
        self._idle_passivate_us = idle_passivate_us
        self._active: dict[str, Tenant] = {}
        self._passive: dict[str, dict[str, bytes]] = {}
        self._incarnations = 0
        self._room: list[asyncio.Future[None]] = []
        self._emptied: list[asyncio.Future[None]] = []
        self._closed: str | None = None
        self.queued = 0

    @property
    def active_count(self) -> int:
        """Tenants that are tasks now."""
        return len(self._active)

    @property
    def known_count(self) -> int:
        """Tenants that have a record, active or not."""
        return len(self._active) + len(self._passive)

    @property
    def is_idle(self) -> bool:
        """Whether every mailbox is empty: nothing waits or is being decided."""
        return not any(tenant.mailbox for tenant in self._active.values())

    def names(self) -> list[str]:
        """Every known tenant, sorted."""
        names = self._active.keys() | self._passive.keys()
        names.discard(UNKNOWN_TENANT)
        return sorted(names)

    def view(self, name: str) -> tuple[Header, dict[str, MachineRecord[Any]]] | None:
        """A tenant's records as they are now, without waking it; None when it is not known."""
        tenant = self._active.get(name)
        if tenant is not None:
            return tenant.header, {key: machine.record() for key, machine in tenant.machines.items()}
        records = self._passive.get(name)
        return None if records is None else _decode(records)

    def is_stopped(self, name: str) -> bool:
        """Whether an emergency stop of its own is on the tenant."""
        tenant = self._active.get(name)
        if tenant is not None:
            return tenant.header.stopped
        records = self._passive.get(name)
        return records is not None and decode_header(records[HEADER_KEY]).stopped

    # Recovery

    def load(self, key: str, value: bytes) -> None:
        """Take a state frame from the log; the last one for a key holds."""
        tenant, machine = split_state_key(key)
        self._passive.setdefault(tenant, {})[machine] = value

    def by_profile(self) -> dict[str, list[str]]:
        """The profiles that tenants have, each with those who have it."""
        found: dict[str, list[str]] = {}
        for name, tenant in self._active.items():
            found.setdefault(tenant.header.profile, []).append(name)
        for name, records in self._passive.items():
            found.setdefault(decode_header(records[HEADER_KEY]).profile, []).append(name)
        return found

    def restore(self) -> Iterator[OpenWork]:
        """Set timers and admission from what was loaded; yields the actions that were still open."""
        for records in self._passive.values():
            header, machines = _decode(records)
            tenant = Tenant(self._shared, header, machines, header_kept=True)
            tenant.restore()
            yield from tenant.open_work()

    # Work

    async def submit(self, signals: Sequence[Signal]) -> Ticket:
        """Hand signals to their tenants, in order for each; waits for room first. Raises LedgerClosedError."""
        while self.queued and self.queued + len(signals) > self._queued_max and self._closed is None:
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room
        if self._closed is not None:
            raise LedgerClosedError(self._closed)
        self.queued += len(signals)
        ticket = Ticket(signals)
        positions: dict[str, list[int]] = {}
        for position, signal in enumerate(signals):
            mine = positions.get(signal.tenant)
            if mine is None:
                positions[signal.tenant] = [position]
            else:
                mine.append(position)
        for name, mine in positions.items():
            tenant = self._active.get(name) or self._find(name, ticket, mine)
            tenant.deliver(Group(ticket, mine))
        return ticket

    def close(self, why: str) -> None:
        """No tenant decides any more. Whoever waits for what is left is told so: it is for its sender to repeat, and
        perhaps for another worker to decide.
        """
        self._closed = why
        for tenant in self._active.values():
            for work in tenant.mailbox:
                work.fail(LedgerClosedError(why))
        waiting, self._room = self._room, []
        _wake(waiting)

    async def empty(self) -> None:
        """Return once no signal waits to be decided."""
        while self.queued:
            emptied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._emptied.append(emptied)
            await emptied

    def settled(self, count: int) -> None:
        """Signals have left their mailboxes."""
        self.queued -= count
        if self._room and self.queued < self._queued_max:
            # All of them look again: one that was woken may be gone by the time it runs.
            waiting, self._room = self._room, []
            _wake(waiting)
        if self._emptied and not self.queued:
            waiting, self._emptied = self._emptied, []
            _wake(waiting)

    def tell(self, name: str, key: str, event: Event) -> "asyncio.Future[tuple[Decided, int] | None]":
        """Tell one machine something; the future has what became of it, None when there is no such machine."""
        done: asyncio.Future[tuple[Decided, int] | None] = asyncio.get_running_loop().create_future()
        tenant = self._active.get(name) or self._wake(name)
        if tenant is None:
            done.set_result(None)
        else:
            tenant.deliver(Internal(key, event, done))
        return done

    def on_due(self, name: str, key: str) -> None:
        """A machine's deadline has passed, or the tenant's terms may be others."""
        tenant = self._active.get(name) or self._wake(name)
        if tenant is None:
            return
        if key == HEADER_KEY:
            tenant.look_at_terms()
            return
        now_us = self._shared.clock_us()
        governor, _, subject = key.partition(SEPARATOR)
        event = Event(f"timeout-{governor}-{subject}-{now_us}", now_us, Timeout())
        tenant.deliver(Internal(key, event, None))

    async def look_at_terms(self) -> None:
        """Everybody's terms may be others now: govern all tenants on theirs."""
        for tenant in list(self._active.values()):
            tenant.look_at_terms()
        for number, name in enumerate(list(self._passive)):
            records = self._passive.get(name)
            if records is not None:
                header, machines = _decode(records)
                Tenant(self._shared, header, machines, header_kept=True).restore()
            if number % PASSIVE_PER_TURN == 0:
                await asyncio.sleep(0)

    def why_not(self, work: OpenWork) -> str:
        """Why an action that was asked for shall not be done any more; "" where it shall."""
        tenant = self._active.get(work.tenant)
        if tenant is None:
            records = self._passive.get(work.tenant)
            if records is None:
                return MOVED_ON
            header, machines = _decode(records)
            tenant = Tenant(self._shared, header, machines, header_kept=True)
        return tenant.why_not(work)

    def set_emergency_stop(self, name: str, *, stopped: bool, why: str) -> int | None:
        """Stop a tenant's governors or let them act; returns the receipt's index, None when the tenant is not known."""
        tenant = self._active.get(name) or self._wake(name)
        if tenant is None:
            return None
        return tenant.set_emergency_stop(stopped=stopped, why=why)

    def set_quarantine(self, name: str, *, quarantined: bool, why: str) -> int | None:
        """Quarantine or release a tenant; returns the receipt's index, None when the tenant is not known."""
        tenant = self._active.get(name) or self._wake(name)
        if tenant is None:
            return None
        return tenant.set_quarantine(quarantined=quarantined, why=why)

    def given_up(self, name: str, error: BaseException) -> None:
        """A tenant passed its restart intensity: quarantine it alone, and start it again to empty its mailbox."""
        tenant = self._active[_tenant_name(name)]
        tenant.failed = repr(error)
        self._start(tenant)

    async def run(self) -> None:
        """Passivate tenants that have been idle for long."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.passivate_idle()

    def passivate_idle(self) -> None:
        """Let every tenant end that has had nothing to do for long."""
        before_us = self._shared.clock_us() - self._idle_passivate_us
        for tenant in list(self._active.values()):
            if not tenant.mailbox and tenant.idle_since_us < before_us:
                tenant.retire()

    # Activation

    def _find(self, name: str, ticket: Ticket, positions: list[int]) -> Tenant:
        tenant = self._wake(name)
        if tenant is not None:
            return tenant
        if self._auto_create:
            return self._create(name, "active")
        entitles = any(isinstance(ticket.signals[position].data, TenantEntitlement) for position in positions)
        if entitles:
            return self._create(name, "unknown")
        unknown = self._active.get(UNKNOWN_TENANT) or self._wake(UNKNOWN_TENANT)
        return unknown or self._create(UNKNOWN_TENANT, "unknown")

    def _wake(self, name: str) -> Tenant | None:
        records = self._passive.pop(name, None)
        if records is None:
            return None
        header, machines = _decode(records)
        return self._activate(Tenant(self._shared, header, machines, header_kept=True))

    def _create(self, name: str, entitlement: Entitlement) -> Tenant:
        shared = self._shared
        header = Header(
            name, entitlement, self._default_profile, shared.clock_us(), pseudonym=shared.ledger.pseudonym(name)
        )
        return self._activate(Tenant(self._shared, header, {}, header_kept=False))

    def _activate(self, tenant: Tenant) -> Tenant:
        self._active[tenant.header.tenant] = tenant
        self._start(tenant)
        return tenant

    def _start(self, tenant: Tenant) -> None:
        # A tenant that comes back while its last task is still being buried needs a name of its own.
        self._incarnations += 1
        child = f"{tenant.header.tenant}#{self._incarnations}"

        async def run() -> None:
            await tenant.run()
            self._passivate(tenant)

        self._supervisor.start_child(child, run)

    def _passivate(self, tenant: Tenant) -> None:
        records = {key: encode_record(machine) for key, machine in tenant.machines.items()}
        records[HEADER_KEY] = encode_record(tenant.header)
        del self._active[tenant.header.tenant]
        self._passive[tenant.header.tenant] = records


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


def _decode(records: dict[str, bytes]) -> tuple[Header, dict[str, MachineRecord[Any]]]:
    header = decode_header(records[HEADER_KEY])
    machines = {key: decode_machine(key, data) for key, data in records.items() if key != HEADER_KEY}
    return header, machines


def _tenant_name(child: str) -> str:
    return child.rpartition("#")[0]
