"""`governors pubsub`: what Google Pub/Sub must have before the service can pull from it."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from governors.cli.config import ConfigPath, load_settings
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from governors.settings import PubSubSettings
from ingest.errors import SourceRefusedError, SourceUnavailableError

if TYPE_CHECKING:
    from ingest.pubsub_setup import Step

app = typer.Typer(help="Prepare Google Pub/Sub.", no_args_is_help=True)


@app.callback()
def pubsub() -> None:
    """Prepare Google Pub/Sub."""


@app.command()
def setup(
    config: ConfigPath = None,
    project: Annotated[str | None, typer.Option(help="Google Cloud project.")] = None,
    topic: Annotated[str | None, typer.Option(help="Topic that senders publish signals to.")] = None,
    subscription: Annotated[str | None, typer.Option(help="Subscription that the service pulls from.")] = None,
    dead_letter_topic: Annotated[
        str | None, typer.Option(help="Topic for what cannot be handled, with a subscription of its own that keeps it.")
    ] = None,
    filter_: Annotated[
        str, typer.Option("--filter", help="Which messages the subscription gets, by their attributes. Default: all.")
    ] = "",
    ordering: Annotated[bool, typer.Option(help="Whether messages of one ordering key come in order.")] = True,
    exactly_once: Annotated[
        bool | None, typer.Option(help="Whether delivery is exactly once. Default: as it is, off for a new one.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what is missing or differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create the topics and the subscription, or bring into line what is there. Safe to run again.

    Options win over the configuration's `pubsub` section. With PUBSUB_EMULATOR_HOST set it speaks to the emulator,
    else to Google with Application Default Credentials.

    Exit 0: it is as it should be; each step says what was found and what was done, then comes what IAM has to grant. 1:
    something is there that cannot be changed, a permission is missing, or --check found a difference. 2: Pub/Sub could
    not be reached.

    Example: governors pubsub setup --project my-project --topic signals --subscription governors
    """
    options = {
        "pubsub.project": project,
        "pubsub.topic": topic,
        "pubsub.subscription": subscription,
        "pubsub.dead_letter_topic": dead_letter_topic,
    }
    settings = load_settings(config, options).settings.pubsub
    if settings is None:
        fail("nothing says what to set up: give --project, --topic and --subscription, or --config", EXIT_BAD)
    if settings.topic is None:
        fail("pubsub.topic is not set: give --topic, or name it in the configuration", EXIT_BAD)
    try:
        steps, needed = asyncio.run(
            _set_up(settings, settings.topic, filter_, ordering=ordering, exactly_once=exactly_once, change=not check)
        )
    except SourceRefusedError as error:
        fail(str(error), EXIT_BAD)
    except SourceUnavailableError as error:
        fail(f"Pub/Sub cannot be reached: {error}")
    changed = any(step.did in {"created", "updated"} for step in steps)
    is_right = not any(step.did in {"missing", "differs"} for step in steps)
    if as_json:
        told = [{**asdict(step), "said": str(step)} for step in steps]
        print_json({"ok": is_right, "changed": changed, "steps": told, "permissions": needed})
    else:
        for line in (*steps, *needed):
            print(line)
    if not is_right:
        raise typer.Exit(EXIT_BAD)


async def _set_up(
    settings: PubSubSettings, topic: str, filter_: str, *, ordering: bool, exactly_once: bool | None, change: bool
) -> tuple[list["Step"], list[str]]:
    # Google's client takes a third of a second to import, which other commands need not wait for.
    from ingest.pubsub import open_channel  # noqa: PLC0415
    from ingest.pubsub_setup import SetupPlan, permissions, setup  # noqa: PLC0415

    plan = SetupPlan(
        project=settings.project,
        topic=topic,
        subscription=settings.subscription,
        dead_letter_topic=settings.dead_letter_topic,
        filter=filter_,
        ordering=ordering,
        exactly_once=exactly_once,
        ack_deadline_s=settings.ack_deadline_s,
    )
    channel = await open_channel()
    try:
        return await setup(channel, plan, change=change), permissions(plan)
    finally:
        await channel.close()
