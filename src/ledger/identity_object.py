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
from ledger.store.object_store import CREATE, ObjectStore, Unknown

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
