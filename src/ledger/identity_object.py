"""The log's identity in the object store: without it a copy of the log can be checked, but not gone on with.

`ctl/identity` holds the log's name, the key of its tenants' pseudonyms (secret, as the segments' payloads are) and the
number of its partitions. It is created once and never changes, so two folders with different keys cannot write one log.
"""

import random
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ledger import durable
from ledger.backoff import PATIENCE_S, Backoff, with_patience
from ledger.errors import IdentityError
from ledger.identity import (
    KEY_FILE,
    LEDGER_FOLDER,
    ORIGIN_FILE,
    PARTITIONS_MAX,
    Identity,
    read_partitions,
    write_partitions,
)
from ledger.protocol.places import PLACE_KEY
from ledger.store.object_store import CREATE, ObjectStore, Unknown
from ledger.store.settled import put_settled
from ledger.store.split import SplitStore

IDENTITY_KEY: Final = "ctl/identity"


class IdentityObject(Struct, frozen=True, forbid_unknown_fields=True):
    """`pseudonym_key` is 32 bytes, in base64. `partitions` is absent where there is one."""

    origin: str
    pseudonym_key: bytes
    v: int = 1
    partitions: Annotated[int, Meta(ge=1, le=PARTITIONS_MAX)] | UnsetType = UNSET


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(IdentityObject).decode


async def read_identity(store: ObjectStore, rng: random.Random) -> Identity | None:
    """The identity that the store has, None for a store without a log.

    Raises IdentityError, StoreUnavailableError, StoreRefusedError.
    """
    found = await with_patience(lambda: store.get(IDENTITY_KEY), Backoff(rng), PATIENCE_S)
    if found is None:
        if not isinstance(store, SplitStore) and (elsewhere := await _elsewhere(store, rng)) is not None:
            raise IdentityError(elsewhere)
        return None
    try:
        known = _decode(found.data)
    except msgspec.DecodeError as error:
        raise IdentityError(f"{IDENTITY_KEY} in the store is not an identity: {error}") from error
    if known.v != 1:
        raise IdentityError(f"{IDENTITY_KEY} in the store has version {known.v}; this program knows version 1")
    return Identity(known.origin, known.pseudonym_key, 1 if known.partitions is UNSET else known.partitions)


def install_identity(data_dir: Path, identity: Identity) -> None:
    """Give a data folder that has no log yet the identity of one. Blocking.

    Raises IdentityError if it has a log, another one; OSError.
    """
    folder = data_dir / LEDGER_FOLDER
    durable.make_folder(folder)
    # The key first: a folder with an origin has had its key.
    durable.create_once(folder / KEY_FILE, identity.key, 0o600)
    write_partitions(folder, identity.partitions)
    durable.create_once(folder / ORIGIN_FILE, identity.name.encode() + b"\n", 0o644)
    origin = (folder / ORIGIN_FILE).read_text(encoding="utf-8").removesuffix("\n")
    if Identity(origin, (folder / KEY_FILE).read_bytes(), read_partitions(folder)) != identity:
        raise IdentityError(f"{folder} belongs to the log {origin!r} already: name an empty data folder")


class PlaceObject(Struct, frozen=True, forbid_unknown_fields=False):
    """Beside what is written once, where the rest is elsewhere: `control` is the URL of that."""

    control: str
    v: int = 1


_encode_place = msgspec.json.Encoder(order="deterministic").encode
_decode_place = msgspec.json.Decoder(PlaceObject).decode


async def agree_on_place(store: ObjectStore, control_url: str | None, rng: random.Random) -> None:
    """Make sure that everybody who writes this log has its head in the same place: two heads would be two writers.

    The word of it is written before any identity is, and looked for after: of two who begin one log differently, at
    least one finds the other out. `store` is the whole store, a SplitStore where there is a `control_url`.

    Raises IdentityError, StoreUnavailableError, StoreRefusedError.
    """
    if control_url is not None:
        assert isinstance(store, SplitStore)  # noqa: S101 - open_store() makes one where there is a control URL
        data = _encode_place(PlaceObject(control_url))
        if not await put_settled(store, PLACE_KEY, data, if_generation=CREATE, backoff=Backoff(rng)):
            raise IdentityError(await _elsewhere(store, rng) or f"{PLACE_KEY} is gone again from the store")
        if await with_patience(lambda: store.once.get(IDENTITY_KEY), Backoff(rng), PATIENCE_S) is not None:
            raise IdentityError(
                f"the store has a log that was begun without a control store: {IDENTITY_KEY} is beside it. Leave "
                "store.control_url out, or move what is replaced there (docs/operations.md)"
            )
    elif (elsewhere := await _elsewhere(store, rng)) is not None:
        raise IdentityError(elsewhere)


async def _elsewhere(store: ObjectStore, rng: random.Random) -> str | None:
    """Words for where the store says that its head is; None where it says nothing."""
    found = await with_patience(lambda: store.get(PLACE_KEY), Backoff(rng), PATIENCE_S)
    if found is None:
        return None
    try:
        where = _decode_place(found.data).control
    except msgspec.DecodeError as error:
        raise IdentityError(f"{PLACE_KEY} in the store cannot be read: {error}") from error
    return f"the log's head and identity are in {where}: name that as store.control_url (or --control)"


async def share_identity(store: ObjectStore, identity: Identity, rng: random.Random) -> None:
    """Make sure that the store has this identity and no other.

    Raises IdentityError if it has another one, StoreUnavailableError, StoreRefusedError.
    """
    partitions = identity.partitions if identity.partitions > 1 else UNSET
    data = _encode(IdentityObject(identity.name, identity.key, partitions=partitions))
    backoff = Backoff(rng)
    while (there := await read_identity(store, rng)) is None:
        outcome = await store.put(IDENTITY_KEY, data, if_generation=CREATE)
        if isinstance(outcome, Unknown):
            await backoff.wait(outcome.retry_after_s)
    if there != identity:
        raise IdentityError(_difference(there, identity))


def _difference(there: Identity, here: Identity) -> str:
    if there.name != here.name:
        return f"the store has the log {there.name!r} and this folder {here.name!r}"
    if there.partitions != here.partitions:
        return (
            f"the log {here.name!r} has {there.partitions} partitions in the store and {here.partitions} in this folder"
        )
    return (
        f"the store and this folder have different pseudonym keys for the log {here.name!r}: "
        "they are two logs under one name"
    )
