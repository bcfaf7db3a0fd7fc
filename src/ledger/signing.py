"""The key that a log signs with: an Ed25519 seed in a file, as Go's sumdb tools write signing keys.

    PRIVATE+KEY+<name of the log>+<key id>+<base64 of type and seed>

One key signs all partitions of a log, each under its own origin: `Signer(identity.origin(partition), seed)`. Who has it
can sign another history in the log's name; who loses it has to ask every verifier to trust another one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ledger import durable
from ledger.errors import IdentityError, KeyInvalidError
from ledger.format.note import SEED_BYTES, Signer
from ledger.identity import LEDGER_FOLDER

SIGNING_KEY_FILE: Final = "signing.key"

_FILE_BYTES_MAX: Final = 1_000


def open_signing_key(data_dir: Path, name: str, entropy: Callable[[int], bytes], path: Path | None = None) -> bytes:
    """The seed (32 bytes) of the log `name` (its origin without the partition).

    From `path` if one is configured, which must exist: several machines that write one log have one key. Otherwise from
    the data folder, where it is created the first time, with mode 0600; safe for several processes at once. Raises
    IdentityError, which names the file and shows nothing of the key.
    """
    if path is None:
        folder = data_dir / LEDGER_FOLDER
        path = folder / SIGNING_KEY_FILE
        if not path.exists():
            durable.make_folder(folder)
            durable.create_once(path, f"{Signer(name, entropy(SEED_BYTES)).skey}\n".encode(), 0o600)
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise IdentityError(f"the signing key {path} cannot be read: {error.strerror}") from error
    try:
        signer = Signer.parse(content.decode().removesuffix("\n"))
    except (UnicodeDecodeError, KeyInvalidError) as error:
        why = error if isinstance(error, KeyInvalidError) else "it is not text"
        raise IdentityError(f"{path} does not hold a signing key ({why}): restore it from a backup") from None
    if signer.name != name:
        raise IdentityError(f"{path} holds the key of the log {signer.name!r}, not of {name!r}: name that log's key")
    return signer.seed
