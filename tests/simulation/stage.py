"""Actors for supervision tests: children that do as they are told, and a script of what happened to them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from governors.supervision.child import Child, Restart, Started
from governors.supervision.report import SupervisionEvent, TreeNode
from governors.supervision.supervisor import Supervisor


class CrashError(Exception):
    """What an actor raises when told to crash."""


async def settle() -> None:
    """Let everything happen that can happen without time passing (but for a microsecond)."""
    await asyncio.sleep(1e-6)


def be_started() -> None:
    """For those who run a supervisor by hand and need not know."""


@dataclass
class Stage:
    """`script` holds `+a` when a is started, `?a` when it cannot start, `-a` when it is told to end,
    `!a` when it crashes, `.a` when it returns.
    """

    script: list[str] = field(default_factory=list)
    events: list[SupervisionEvent] = field(default_factory=list)
    orders: dict[str, asyncio.Queue[BaseException | None]] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    failing_starts: dict[str, int] = field(default_factory=dict)  # how many of the next starts fail
    alive: dict[str, int] = field(default_factory=dict)

    def child(self, name: str, restart: Restart = Restart.PERMANENT, **spec: Any) -> Child:
        return Child(name, self.life(name), restart, **spec)

    def life(self, name: str) -> Callable[[Started], Coroutine[Any, Any, None]]:
        async def live(started: Started) -> None:
            self.tasks[name] = asyncio.current_task()  # type: ignore[assignment] # it runs in one
            if self.failing_starts.get(name, 0) > 0:
                self.failing_starts[name] -= 1
                self.script.append(f"?{name}")
                raise CrashError(f"{name} cannot start")
            self.script.append(f"+{name}")
            self.orders[name] = asyncio.Queue()
            self.alive[name] = self.alive.get(name, 0) + 1
            started()
            try:
                await self._obey(name)
            finally:
                self.alive[name] -= 1

        return live

    def member_life(self, name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        """The same for a dynamic supervisor."""
        life = self.life(name)
        return lambda: life(be_started)

    async def _obey(self, name: str) -> None:
        try:
            order = await self.orders[name].get()
        except asyncio.CancelledError:
            self.script.append(f"-{name}")
            raise
        self.script.append(f".{name}" if order is None else f"!{name}")
        if order is not None:
            raise order

    def tell(self, name: str, order: BaseException | None) -> None:
        """None: return. An exception: raise it."""
        self.orders[name].put_nowait(order)

    async def crash(self, *names: str) -> list[str]:
        """They crash in this order before anybody can react. Returns what happened since."""
        return await self._after(*((name, CrashError(name)) for name in names))

    async def finish(self, name: str) -> list[str]:
        return await self._after((name, None))

    async def cancel_from_outside(self, name: str) -> list[str]:
        before = len(self.script)
        self.tasks[name].cancel()
        await settle()
        return self.script[before:]

    async def _after(self, *orders: tuple[str, BaseException | None]) -> list[str]:
        before = len(self.script)
        for name, order in orders:
            self.tell(name, order)
        await settle()
        return self.script[before:]

    @asynccontextmanager
    async def play(self, supervisor: Supervisor) -> AsyncIterator[asyncio.Task[None]]:
        """The supervisor runs inside the block, and is stopped after it if it has not ended."""
        task = asyncio.create_task(supervisor.run(be_started), name=supervisor.name)
        await settle()
        try:
            yield task
        finally:
            await stop(task)


async def stop(task: asyncio.Task[Any]) -> BaseException | None:
    """Cancel, wait, and say what it raised."""
    task.cancel()
    await asyncio.wait([task])
    try:
        return task.exception()
    except asyncio.CancelledError as cancelled:
        return cancelled


def by_name(tree: TreeNode) -> dict[str, TreeNode]:
    """Every node below, by its name."""
    nodes: dict[str, TreeNode] = {}
    for node in tree.children:
        nodes[node.name] = node
        nodes.update(by_name(node))
    return nodes
