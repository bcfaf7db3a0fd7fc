"""What an auditor brings along: keys from the command line or from trust files, and what was seen before."""

import os
from pathlib import Path
from typing import Annotated

import typer

from governors.cli.output import fail
from ledger.errors import KeyInvalidError, LedgerError
from ledger.format.note import Verifier
from ledger.verify.memory import Memory
from ledger.verify.trust import TrustFolder

Vkey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="The log's verifier key, from a source you trust. Default: that in the trust file."
    ),
]
Trust = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where your trust files are. Default: governors/trust in your configuration folder."
    ),
]
NoRemember = Annotated[
    bool, typer.Option("--no-remember", help="Compare with what was seen before, but write nothing.")
]


def trust_folder() -> Path:
    """The user's own, as the XDG Base Directory Specification has it."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "governors" / "trust"


class Auditor:
    """Ends the command with exit 2 where a key or a trust file cannot be used."""

    def __init__(self, vkey: str | None, trust: Path | None, *, remember: bool) -> None:
        self._folder = TrustFolder(trust or trust_folder())
        self._remember = remember
        self._given: Verifier | None = None
        if vkey is not None:
            try:
                self._given = Verifier.parse(vkey.strip())
            except KeyInvalidError as error:
                fail(f"could not check: --vkey: {error}")

    def recall(self, origin: str) -> Memory | None:
        """What is known of the log: by its trust file, or only the key that was given."""
        try:
            known = self._folder.find(origin)
        except (LedgerError, OSError) as error:
            fail(f"could not check: {error}")
        if self._given is None:
            return known
        if _log(self._given.name) != _log(origin):
            fail(f"could not check: the given key is of the log {self._given.name}, and this is {origin}")
        # One key signs all partitions of a log, each under its own origin.
        given = Verifier(origin, self._given.public_key)
        if known is None:
            return Memory(origin, given)
        if known.verifier.public_key != given.public_key:
            fail(
                f"could not check: the given key is not the one that {self._folder.path(origin)} has for {origin}. "
                "Find out which is the log's; if its owner has really changed it, remove that file"
            )
        return known

    def expect(self, origin: str) -> Memory:
        """What is known of a log of which something must be known."""
        memory = self.recall(origin)
        if memory is None:
            fail(
                f"could not check: no key is known for the log {origin}. Name it with --vkey once, from a source other "
                "than the one of the document; `governors ledger info` prints it beside the log"
            )
        return memory

    def remember(self, memory: Memory) -> None:
        """Keep what was learned, and say so the first time."""
        if not self._remember:
            return
        is_new = not self._folder.path(memory.origin).exists()
        try:
            path = self._folder.keep(memory)
        except OSError as error:
            fail(f"it was checked, but the trust file cannot be written: {error}")
        if is_new:
            typer.echo(f"key and checkpoint of {memory.origin} are remembered in {path}", err=True)


def _log(origin: str) -> str:
    """An origin without its partition."""
    return origin.rpartition("/")[0]
