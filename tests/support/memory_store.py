"""An object store in memory that answers a test's script: each fault landed or not, now or later."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won, check_key

LANDED = "landed, and nobody was told"
NOT_LANDED = "not landed, and nobody was told"
LATE = "lands when the test says so"
REFUSED = "refused for good"
HELD = "waits until the test lets go"


@dataclass
class MemoryStore:
    """`faults`: for each key that begins so, the fates of its next writes; those after them are answered at once.

    `before_put` may do something right before a write is looked at; `unreadable` is how many reads fail.
    """

    objects: dict[str, Object] = field(default_factory=dict)
    faults: dict[str, deque[str]] = field(default_factory=dict)
    puts: list[tuple[float, str]] = field(default_factory=list)
    late: list[tuple[str, bytes, int]] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    before_put: Callable[[str], object] = lambda _: None
    unreadable: int = 0
    takes_s: float = 0.01
    _generation: int = 0

    def fail(self, prefix: str, *fates: str) -> None:
        self.faults.setdefault(prefix, deque()).extend(fates)

    def land(self, key: str, data: bytes, if_generation: int) -> PutOutcome:
        found = self.objects[key].generation if key in self.objects else CREATE
        if found != if_generation:
            return Lost(found)
        self._generation += 1
        self.objects[key] = Object(data, self._generation)
        return Won(self._generation)

    def land_late_ones(self) -> list[PutOutcome]:
        late, self.late = self.late, []
        return [self.land(*one) for one in late]

    def write_to(self, folder: Path) -> Path:
        """A copy in a folder, as verifiers read one."""
        for key, held in self.objects.items():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(held.data)
        return folder

    async def get(self, key: str) -> Object | None:
        await asyncio.sleep(self.takes_s)
        if self.unreadable:
            self.unreadable -= 1
            raise StoreUnavailableError("on demand", 0.5)
        return self.objects.get(check_key(key))

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        check_key(key)
        self.before_put(key)
        self.puts.append((asyncio.get_running_loop().time(), key))
        fate = next((fates.popleft() for prefix, fates in self.faults.items() if fates and key.startswith(prefix)), "")
        if fate == HELD:
            await self.let_go.wait()
        await asyncio.sleep(self.takes_s)
        match fate:
            case "" | "waits until the test lets go":
                return self.land(key, data, if_generation)
            case "landed, and nobody was told":
                self.land(key, data, if_generation)
            case "lands when the test says so":
                self.late.append((key, data, if_generation))
            case "refused for good":
                raise StoreRefusedError("on demand")
        return Unknown("on demand", 0.5)

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        return await self.put(key, path.read_bytes(), if_generation=CREATE)  # noqa: ASYNC240 - small, and no threads here

    async def list(self, prefix: str, after: str = "") -> list[str]:
        await asyncio.sleep(self.takes_s)
        return sorted(key for key in self.objects if key.startswith(prefix) and key > after)

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def close(self) -> None:
        """Nothing is open."""
