"""Play the hour: step its clock, let the worlds live, tell what was decided, and check that it came out as it must."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final

from governors.demo.bystanders import Quiet, Suspended
from governors.demo.clock import SteppedClock
from governors.demo.deploys import Deploys
from governors.demo.milestones import milestones
from governors.demo.sale import Sale
from governors.demo.script import HOUR_S, SECOND_US, START_US, TICK_S, Ask, Entitle, Happening, Wire, World
from governors.demo.stage import Stage, staged
from governors.demo.story import Decided, Event, Summary, Tally, TenantSummary, told
from governors.demo.training import Training
from ledger import fsck

CAST: Final[tuple[Callable[[Random], World], ...]] = (Training, Sale, Deploys, Quiet, Suspended)
# Senders deliver at least once: some signals come again with the next batch, and must not be decided again.
REPEATED_SHARE: Final = 0.02


class Play:
    """One hour of five tenants, the same for the same seed.

    `tell` gets every event worth a line; `pace(second)` is awaited before each tick of the clock, and may let time pass
    or look at the `tallies`.
    """

    def __init__(self, seed: int, tell: Callable[[Event], None], pace: Callable[[int], Awaitable[None]]) -> None:
        self._seed = seed
        self._tell = tell
        self._pace = pace
        # A generator each: one world's history must not hang on how much chance another one took.
        worlds = [make(Random(f"{seed}/{number}")) for number, make in enumerate(CAST)]
        self._worlds = {world.tenant: world for world in worlds}
        self._chance = Random(f"{seed}/post")
        self._clock = SteppedClock(START_US)
        self._again: list[Wire] = []
        self.tallies = {world.tenant: Tally(world.tenant, world.about) for world in self._worlds.values()}

    async def run(self, folder: Path) -> Summary:
        """Play it with its ledger in `folder`. Raises LedgerError, OSError, StageError where it cannot be played."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with staged(folder, self._clock, self._worlds) as stage:
            for second in range(0, HOUR_S + 1, TICK_S):
                await self._pace(second)
                await self._tick(stage, second)
            states = {tenant: await stage.state(tenant) for tenant in self._worlds}
            receipts = stage.receipts_untold + sum(tally.receipts for tally in self.tallies.values())
        report = await asyncio.to_thread(fsck.verify_log, folder)
        found = milestones(self.tallies)
        return Summary(
            ok=report.ok and report.receipts == receipts and all(one.seen for one in found),
            seed=self._seed,
            seconds=round(loop.time() - began_s, 1),
            signals=sum(tally.signals for tally in self.tallies.values()),
            receipts=receipts,
            tenants=[self._summary(tally, states[tally.tenant]) for tally in self.tallies.values()],
            milestones=found,
            ledger=report.as_dict(),
            folder=str(folder),
        )

    async def _tick(self, stage: Stage, second: int) -> None:
        self._clock.step_to(START_US + second * SECOND_US)
        await stage.settle()
        self._report(stage)
        signals: list[Wire] = []
        asks: list[tuple[str, Ask]] = []
        for tenant, world in self._worlds.items():
            tick = world.tick(second)
            signals += tick.signals
            for cue in tick.cues:
                match cue:
                    case Happening():
                        self._note(told(second, tenant, cue.text))
                    case Entitle():
                        self._note(told(second, tenant, cue.text))
                        await stage.entitle(tenant, cue.entitlement)
                    case Ask():
                        asks.append((tenant, cue))
        await self._send(stage, signals)
        await stage.settle()
        self._report(stage)
        for tenant, ask in asks:
            self._note(await stage.ask(tenant, ask))

    async def _send(self, stage: Stage, signals: list[Wire]) -> None:
        batch = self._again + signals
        self._again = [signal for signal in signals if self._chance.random() < REPEATED_SHARE]
        for result in await stage.send(batch):
            tally = self.tallies[result["tenant"]]
            tally.signals += 1
            tally.again += result["outcome"] == "duplicate"

    def _report(self, stage: Stage) -> None:
        for event in stage.take_events():
            self._note(event)
            if isinstance(event, Decided):
                world = self._worlds[event.tenant]
                world.hear(event.subject, event.decision, event.state, event.second)

    def _note(self, event: Event) -> None:
        if self.tallies[event.tenant].note(event):
            self._tell(event)

    def _summary(self, tally: Tally, state: str) -> TenantSummary:
        return TenantSummary(
            tenant=tally.tenant,
            about=tally.about,
            state=state,
            signals=tally.signals,
            repeated=tally.again,
            refused=tally.outcomes["refused"],
            receipts=tally.receipts,
            decisions=sum(len(decisions) for decisions in tally.decisions.values()),
            actions=len(tally.actions),
        )
