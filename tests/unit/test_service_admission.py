from pathlib import Path

from support.runtime import World, running, send

from governors.admission import Admitted
from governors.runtime import Runtime
from governors.service import GovernorService
from governors.telemetry.metrics import Metrics


def service_of(runtime: Runtime) -> GovernorService:
    return GovernorService(runtime, Metrics("test"), missing=list)


async def throttled(runtime: Runtime, world: World) -> GovernorService:
    """acme is at 90 % of its budget: 80 % of what it asks for passes."""
    (outcome,) = await send(runtime, world.spend("900.00"))
    assert outcome.state == "THROTTLE"
    return service_of(runtime)


async def test_a_fraction_of_the_requests_that_name_no_user_passes(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        service = await throttled(runtime, world)
        passed = sum(isinstance(service.admit("acme", "normal", "", 1), Admitted) for _ in range(50))
    assert passed == 40


async def test_the_requests_of_one_user_pass_all_or_not_at_all(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        service = await throttled(runtime, world)
        answers = {
            user: {isinstance(service.admit("acme", "normal", user, 1), Admitted) for _ in range(3)}
            for user in ("ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kay", "lea")
        }
    assert all(len(both) == 1 for both in answers.values())
    assert {True} in answers.values()
    assert {False} in answers.values()
