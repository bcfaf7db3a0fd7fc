"""`governors pubsub`: what Google Pub/Sub must have before the service can pull from it."""

import asyncio
from typing import Annotated, Final

import typer

from governors.cli.config import ConfigPath, load_settings
from governors.cli.output import EXIT_BAD, AsJson, fail, print_json
from governors.settings import PubSubSettings
from ingest.errors import SourceRefusedError, SourceUnavailableError

app = typer.Typer(help="Prepare Google Pub/Sub.", no_args_is_help=True)

# The words that setup's steps begin with when something was changed.
_CHANGED: Final = ("created", "updated")


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
    as_json: AsJson = False,
) -> None:
    """Create the topics and the subscription, or bring into line what is there. Safe to run again.

    Options win over the configuration's `pubsub` section. With PUBSUB_EMULATOR_HOST set it speaks to the emulator,
    else to Google with Application Default Credentials.

    Exit 0: it is as it should be; each step says what was done or found. 1: something is there that cannot be changed,
    or a permission is missing. 2: Pub/Sub could not be reached.

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
        steps = asyncio.run(_set_up(settings, settings.topic, filter_, ordering=ordering))
    except SourceRefusedError as error:
        fail(str(error), EXIT_BAD)
    except SourceUnavailableError as error:
        fail(f"Pub/Sub cannot be reached: {error}")
    if as_json:
        print_json({"ok": True, "changed": any(step.startswith(_CHANGED) for step in steps), "steps": steps})
    else:
        for step in steps:
            print(step)


async def _set_up(settings: PubSubSettings, topic: str, filter_: str, *, ordering: bool) -> list[str]:
    # Google's client takes a third of a second to import, which other commands need not wait for.
    from ingest.pubsub import open_channel  # noqa: PLC0415
    from ingest.pubsub_setup import SetupPlan, setup  # noqa: PLC0415

    plan = SetupPlan(
        project=settings.project,
        topic=topic,
        subscription=settings.subscription,
        dead_letter_topic=settings.dead_letter_topic,
        filter=filter_,
        ordering=ordering,
        ack_deadline_s=settings.ack_deadline_s,
    )
    channel = await open_channel()
    try:
        return await setup(channel, plan)
    finally:
        await channel.close()
