"""Google Cloud Storage as object store, through google-cloud-storage, which blocks and so runs in threads.

Every write and every delete names a generation. The client's own retries are off: they would hide an outage for two
minutes, and a repeat that is answered 412 may have lost to the first attempt, which only the caller can tell. Bytes
and generation come from one response; both ways the bytes are checked with CRC-32C.

Honours STORAGE_EMULATOR_HOST. Importing this module takes about a second.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import requests
import urllib3.exceptions
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from ledger.errors import StoreLockedError, StoreRefusedError, StoreUnavailableError
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won, check_key, check_prefix

# Else the client asks for the bucket's own metadata wherever it has none yet, unbidden and in a thread for each call,
# for spans that nobody records (google-cloud-storage 3.17). Where that is answered by an error it asks each time.
_ASKS_NOTHING_ELSE: Final = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
_THREADS: Final = 8  # below the ten connections that the client keeps
_CONNECT_S: Final = 5.0
_LONG: Final = 6
"""What may be large (objects that are read, files, lists) may take so many times longer than other calls."""
_RETRY_S: Final = 1.0
_RETRY_BUSY_S: Final = 2.0
"""One object takes about one write a second; too many are answered with 429."""
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.GONE})
_LOCKED: Final = frozenset({"retentionPolicyNotMet", "objectUnderActiveHold"})
_NO_ANSWER: Final = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    auth.TransportError,
    DataCorruption,
    TimeoutError,
)
# Left alone, a public object may be served from a cache for an hour, and a checkpoint with it.
_CACHE_CONTROL: Final = "no-cache"

T = TypeVar("T")
Keys = list[str]


class GcsStore:
    """The objects of a bucket below a prefix ("" for all of them). Safe for any number of writers anywhere."""

    def __init__(
        self,
        client: storage.Client,
        bucket: str,
        prefix: str,
        *,
        executor: Executor | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Closes `client` in the end. `executor` runs what blocks; None: threads of its own. `timeout_s`: without
        a byte of an answer, and for a small write as a whole; reads, files and lists have six times as long.
        """
        os.environ.setdefault(_ASKS_NOTHING_ELSE, "true")
        self._client = client
        self._bucket = client.bucket(bucket)
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._timeout_s = timeout_s
        self._own_executor = None if executor is not None else ThreadPoolExecutor(_THREADS, "gcs")
        self._executor = executor if executor is not None else self._own_executor

    @classmethod
    def connect(cls, bucket: str, prefix: str, *, executor: Executor | None = None) -> Self:
        """With the credentials of the environment. Asks nothing of the bucket yet. Raises StoreRefusedError."""
        try:
            return cls(storage.Client(), bucket, prefix, executor=executor)
        except (auth.GoogleAuthError, OSError, ValueError) as error:
            raise StoreRefusedError(f"gs://{bucket} cannot be opened: {error}") from error

    async def get(self, key: str) -> Object | None:
        return await self._call(_LONG * self._timeout_s, self._get, self._name(key))

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        return await self._write(self._timeout_s, self._put, self._name(key), data, if_generation)

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        return await self._write(_LONG * self._timeout_s, self._put_file, self._name(key), path)

    async def list(self, prefix: str, after: str = "") -> list[str]:
        return await self._call(_LONG * self._timeout_s, self._list, check_prefix(prefix), after)

    async def delete(self, key: str) -> None:
        await self._call(self._timeout_s, self._delete, self._name(key))

    async def close(self) -> None:
        if self._own_executor is not None:
            self._own_executor.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    async def _call(self, timeout_s: float, call: Callable[..., T], *args: object) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)
        except _NO_ANSWER as error:
            raise StoreUnavailableError(f"no answer: {error or type(error).__name__}", _RETRY_S) from error
        except auth.RefreshError as error:
            if error.retryable:
                raise StoreUnavailableError(f"no credentials yet: {error}", _RETRY_S) from error
            raise StoreRefusedError(f"{self._bucket.name}: {error}") from error
        except auth.GoogleAuthError as error:
            raise StoreRefusedError(f"{self._bucket.name}: {error}") from error
        except api.GoogleAPICallError as error:
            raise self._verdict(error) from error

    async def _write(self, timeout_s: float, call: Callable[..., PutOutcome], *args: object) -> PutOutcome:
        try:
            return await self._call(timeout_s, call, *args)
        except StoreUnavailableError as error:
            return Unknown(error.reason, error.retry_after_s)

    def _verdict(self, error: api.GoogleAPICallError) -> StoreUnavailableError | StoreRefusedError:
        answer = f"gs://{self._bucket.name} answered {error.code}: {_words(error)}"
        if isinstance(error, api.TooManyRequests):
            return StoreUnavailableError(answer, _retry_after_s(error, _RETRY_BUSY_S))
        if isinstance(error, api.ServerError) or error.code in _PASSING:
            return StoreUnavailableError(answer, _retry_after_s(error, _RETRY_S))
        return StoreLockedError(answer) if _is_locked(error) else StoreRefusedError(answer)

    # What runs in threads

    def _get(self, name: str) -> Object | None:
        blob = _untied(self._bucket.blob(name))
        try:
            data = blob.download_as_bytes(raw_download=True, checksum="crc32c", retry=None, timeout=self._timeouts())
        except api.NotFound as error:
            if _is_about_bucket(error):
                raise
            return None
        return Object(data, int(blob.generation))

    def _put(self, name: str, data: bytes, if_generation: int) -> PutOutcome:
        return self._upload(name, data, if_generation)

    def _put_file(self, name: str, path: Path) -> PutOutcome:
        return self._upload(name, path.read_bytes(), CREATE)

    def _upload(self, name: str, data: bytes, if_generation: int) -> PutOutcome:
        blob = _untied(self._bucket.blob(name))
        blob.cache_control = _CACHE_CONTROL
        try:
            blob.upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=if_generation,
                checksum="crc32c",
                retry=None,
                timeout=self._timeouts(),
            )
        except api.PreconditionFailed:
            return Lost()
        except api.Forbidden as error:
            if if_generation == CREATE and _is_locked(error):
                return Lost()  # what a retention policy keeps is there
            raise
        return Won(int(blob.generation))

    def _list(self, prefix: str, after: str) -> Keys:
        found = self._client.list_blobs(
            self._bucket,
            prefix=self._prefix + prefix,
            start_offset=self._prefix + after,
            fields="items(name),nextPageToken",
            retry=None,
            timeout=self._timeouts(),
        )
        keys = (_untied(blob).name.removeprefix(self._prefix) for blob in found)
        return sorted(key for key in keys if key > after)

    def _delete(self, name: str) -> None:
        """Read the generation and delete that one, so that a delete that lands late cannot take a later object."""
        blob = _untied(self._bucket.blob(name))
        try:
            blob.reload(retry=None, timeout=self._timeouts())
            self._bucket.delete_blob(
                name, if_generation_match=int(blob.generation), retry=None, timeout=self._timeouts()
            )
        except api.PreconditionFailed:
            return
        except api.NotFound as error:
            if _is_about_bucket(error):
                raise

    def _timeouts(self) -> tuple[float, float]:
        """To connect, and between two parts of an answer: so a thread gets free soon after its call was given up."""
        return (min(_CONNECT_S, self._timeout_s), self._timeout_s)


def _untied(blob: storage.Blob) -> storage.Blob:
    """Itself, of whose access list nothing is asked. The two hold each other: with one for each call, megabytes of
    them would wait for the collector.
    """
    blob.acl.blob = None
    return blob


def _is_about_bucket(error: api.NotFound) -> bool:
    """The service says "No such object: …" of one, "The specified bucket does not exist." of the other."""
    return "specified bucket" in error.response.text


def _is_locked(error: api.GoogleAPICallError) -> bool:
    """Whether it is a retention policy (or a hold) of the bucket that refuses to replace or remove an object.

    https://cloud.google.com/storage/docs/json_api/v1/status-codes, 403 Forbidden.
    """
    try:
        reasons = {one["reason"] for one in error.response.json()["error"]["errors"]}
    except (AttributeError, LookupError, TypeError, ValueError):
        return False
    return bool(reasons & _LOCKED)


def _words(error: api.GoogleAPICallError) -> str:
    """What the service said, without the client's account of the request."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, LookupError, TypeError, ValueError):
        return str(error.message)


def _retry_after_s(error: api.GoogleAPICallError, default_s: float) -> float:
    headers: Any = getattr(error.response, "headers", {})
    value = str(headers.get("Retry-After", ""))
    return float(value) if value.isdecimal() else default_s
