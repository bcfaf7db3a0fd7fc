"""Which object store a URL means, or two. The cloud's client is slow to import, so each kind is imported when it is
named.
"""

from concurrent.futures import Executor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ledger.errors import StoreRefusedError
from ledger.store.object_store import ObjectStore
from ledger.store.split import SplitStore


def open_store(url: str, control_url: str | None = None, *, executor: Executor | None = None) -> ObjectStore:
    """`file:///folder` or `gs://bucket/prefix` (the prefix may be missing). With `control_url`, of the same form, `url`
    has only what is written once.

    `executor` runs what blocks; None: threads of the store's own. Blocks itself, for as long as it takes to import a
    client or to find credentials. Raises StoreRefusedError.
    """
    if control_url is None:
        return _open(url, executor)
    # Nothing of a store that was opened needs closing before it is used.
    return SplitStore(_open(url, executor), _open(control_url, executor))


def _open(url: str, executor: Executor | None) -> ObjectStore:
    parts = urlsplit(url)
    match parts.scheme:
        case "file" if parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
            from ledger.store.folder import FolderStore  # noqa: PLC0415 - imported only where configured

            return FolderStore(Path(unquote(parts.path)), executor=executor)
        case "gs" if parts.netloc:
            from ledger.store.gcs import GcsStore  # noqa: PLC0415 - takes a second to import

            return GcsStore.connect(parts.netloc, parts.path.strip("/"), executor=executor)
        case _:
            raise StoreRefusedError(f"{url!r} is no store: it must be file:///folder or gs://bucket/prefix")
