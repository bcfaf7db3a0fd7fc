"""The worlds by themselves: what they send can be read, and they obey what is decided."""

from collections.abc import Callable
from random import Random

import orjson
import pytest

from governors.demo.deploys import Deploys
from governors.demo.noise import Level, Trickle, poisson
from governors.demo.play import CAST
from governors.demo.sale import SALE_AT_S, Sale
from governors.demo.script import HOUR_S, SECOND_US, START_US, TICK_S, Wire, World
from governors.demo.training import Training
from governors.machines.overlays import OpenAction
from ingest.decode.native import decode_native

Making = Callable[[Random], World]


def live(world: World, until_s: int = HOUR_S, since_s: int = 0) -> list[Wire]:
    return [signal for second in range(since_s, until_s + 1, TICK_S) for signal in world.tick(second).signals]


def action(kind: str, **params: int | str) -> OpenAction:
    return OpenAction("act-1", kind, params, establishes=None)


@pytest.mark.parametrize("make", CAST)
def test_every_signal_of_the_hour_can_be_read(make: Making) -> None:
    world = make(Random("7"))
    signals = live(world)
    assert len(signals) > 100
    for signal in signals:
        read = decode_native(orjson.dumps(signal), START_US + HOUR_S * SECOND_US)
        assert read.tenant == world.tenant
    assert len({signal["id"] for signal in signals}) == len(signals)


@pytest.mark.parametrize("make", CAST)
def test_the_same_seed_brings_the_same_hour_and_another_one_another(make: Making) -> None:
    assert live(make(Random("7"))) == live(make(Random("7")))
    assert live(make(Random("7"))) != live(make(Random("8")))


def test_a_training_job_that_is_throttled_spends_less() -> None:
    def spent(world: World) -> float:
        signals = live(world, 30 * 60, 20 * 60 + TICK_S)
        return sum(float(signal["data"]["amount"]) for signal in signals if signal["kind"] == "cost.delta")

    free, throttled, stopped = (Training(Random("7")) for _ in range(3))
    for world in (free, throttled, stopped):
        live(world, 20 * 60)
    throttled.obey("daily-gpu", action("throttle", fraction_ppm=500_000), 20 * 60)
    stopped.obey("daily-gpu", action("stop"), 20 * 60)
    assert spent(throttled) == pytest.approx(spent(free) / 2, rel=0.05)
    assert 0 < spent(stopped) < spent(free) / 20


def test_a_queue_that_is_shed_drains_and_one_that_is_not_grows() -> None:
    left, shed = Sale(Random("7")), Sale(Random("7"))
    for world in (left, shed):
        live(world, SALE_AT_S + 120)
    before = shed.depth
    assert before > 1_000
    shed.obey("orders", action("shed", rate_milli_per_s=30_000), SALE_AT_S + 120)
    for world in (left, shed):
        live(world, SALE_AT_S + 180, SALE_AT_S + 120 + TICK_S)
    assert shed.depth < before < left.depth


def test_a_deploy_that_was_rolled_back_errs_as_little_as_its_baseline() -> None:
    def errors_per_request(world: World, since_s: int, until_s: int) -> float:
        samples = [
            signal["data"]
            for signal in live(world, until_s, since_s)
            if signal["kind"] == "deploy.sample" and signal["subject"] == "checkout"
            if signal["data"]["arm"] == "canary"
        ]
        errors, requests = (sum(int(one[name]) for one in samples) for name in ("errors", "requests"))
        return errors / requests

    world = Deploys(Random("7"))
    live(world, 24 * 60)
    bad = errors_per_request(world, 24 * 60 + TICK_S, 27 * 60)
    world.obey("checkout", action("rollback", to="r41"), 27 * 60)
    good = errors_per_request(world, 27 * 60 + TICK_S, 31 * 60)
    assert bad > 4 * good > 0


def test_counts_have_the_mean_that_was_asked_for() -> None:
    rng = Random("7")
    for mean in (0.3, 5.0, 200.0):
        assert sum(poisson(rng, mean) for _ in range(20_000)) / 20_000 == pytest.approx(mean, rel=0.05)
    trickle = Trickle(rng)
    assert sum(trickle.take(0.3) for _ in range(4_000)) / 4_000 == pytest.approx(0.3, rel=0.05)
    assert poisson(rng, 0.0) == 0


def test_a_level_stays_about_one() -> None:
    level = Level(Random("7"), bursts_per_h=8.0)
    levels = [level.at(second, TICK_S) for second in range(0, HOUR_S, TICK_S)]
    assert 0.9 < sum(levels) / len(levels) < 1.1
    assert min(levels) > 0.5
    assert len(set(levels)) == len(levels)
