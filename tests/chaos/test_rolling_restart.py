"""All workers are restarted, one after the other as a StatefulSet does it, and nobody who asks or sends notices.

Printed: how old signals were when they were decided, from when they were due to be published, and what was answered to
those who asked whether a request may pass. `make chaos` alone: a machine with others has pauses of its own.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from chaos.stage import ALL, GOES_ON, TENANTS, find, need, staged
from support.fleet import Fleet, Worker

from benchmarks.report import quantile

AGE_S_MAX: Final = 5.0
ASK_EVERY_S: Final = 0.02
ANSWERED: Final = {"200", "429"}


class Gateway:
    """Asks each worker that it may ask, all the time, whether a request of some tenant may pass."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._out: set[str] = set()
        self._begun_s = time.monotonic()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.seconds: list[float] = []

    def leave_out(self, name: str) -> None:
        """As a service does with a pod that is being stopped."""
        self._out.add(name)

    def take_in(self, name: str) -> None:
        """As a service does with a pod that is ready."""
        self._out.discard(name)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Those that there are now."""
        asking = [asyncio.create_task(self._ask(name), name=f"gateway to {name}") for name in self._fleet.workers]
        try:
            yield
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        for task in asking:
            assert task.cancelled(), task.exception()

    async def _ask(self, name: str) -> None:
        number = 0
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            if name in self._out:
                continue
            number += 1
            begun_s = time.monotonic()
            says = await self._answer(self._fleet.workers[name], f"tenant-{number % TENANTS:05d}")
            self.seconds.append(time.monotonic() - begun_s)
            self.answers[says] += 1
            # Asked before it was left out, and answered after: the stop lets it have its answer, and so it counts.
            if says not in ANSWERED:
                self.failures.append(f"at {begun_s - self._begun_s:.2f} s: {name}: {says}")

    async def _answer(self, worker: Worker, tenant: str) -> str:
        try:
            answer = await self._fleet.client.get(f"{worker.url}/v1/admit", params={"tenant": tenant})
        except httpx.TransportError as error:
            return type(error).__name__
        if answer.status_code in {httpx.codes.OK, httpx.codes.TOO_MANY_REQUESTS}:
            return str(answer.status_code)
        return f"{answer.status_code} {answer.json().get('detail')}"


@pytest.mark.skipif(not ALL, reason="make chaos")
@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.timeout(600)
async def test_a_rolling_restart_is_noticed_by_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need()
    stops_s: dict[str, float] = {}
    async with staged(tmp_path) as stage:
        fleet, gateway = stage.fleet, Gateway(stage.fleet)
        await fleet.settles()
        async with gateway.asking():
            for name in reversed(list(fleet.workers)):
                gateway.leave_out(name)
                begun_s = time.monotonic()
                assert await asyncio.to_thread(fleet.workers[name].process.stop) == 0
                stops_s[name] = round(time.monotonic() - begun_s, 1)
                await fleet.start(name)
                await fleet.recovers()
                gateway.take_in(name)
                await fleet.commits(GOES_ON)
        findings = await find(stage)
    ages_ms = sorted(age_ms for _, ages in findings.books.windows() for age_ms in ages)
    with capsys.disabled():
        print(  # noqa: T201 - asked for
            f"\nrolling restart of {len(fleet.workers)}, seconds to stop: {stops_s}",
            f"signals {len(ages_ms):,}: decided p50 {quantile(ages_ms, 0.5):.0f} ms, p99 {quantile(ages_ms, 0.99):.0f} "
            f"ms, at most {ages_ms[-1]:.0f} ms after they were due (publisher late by {stage.publisher.late_s:.2f} s)",
            f"older than 1, 2, 5, 10 s: {[sum(one > 1e3 * old_s for one in ages_ms) for old_s in (1, 2, 5, 10)]}",
            f"requests {sum(gateway.answers.values()):,}: p99 {quantile(sorted(gateway.seconds), 0.99) * 1e3:.0f} ms, "
            f"at most {max(gateway.seconds) * 1e3:.0f} ms",
            *(f"{count:,} times {says}" for says, count in gateway.answers.items()),
            *gateway.failures[:1],
            *gateway.failures[-1:],
            sep="\n  ",
        )
    assert gateway.failures == [], "a surviving worker did not answer"
    assert ages_ms[-1] < AGE_S_MAX * 1e3, "a signal waited too long"
