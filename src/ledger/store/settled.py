"""Writes whose outcome has to be known."""

from ledger.backoff import Backoff, with_patience
from ledger.store.object_store import CREATE, Lost, ObjectStore, Unknown, Won


async def put_settled(store: ObjectStore, key: str, data: bytes, *, if_generation: int, backoff: Backoff) -> bool:
    """Write until it is known how it came out: whether the key holds these bytes now, whoever wrote them.

    Raises StoreRefusedError.
    """
    while True:
        match await store.put(key, data, if_generation=if_generation):
            case Won():
                return True
            case Unknown(_, retry_after_s):
                await backoff.wait(retry_after_s)
            case Lost():
                found = await with_patience(lambda: store.get(key), backoff)
                if found is not None or if_generation != CREATE:
                    return found is not None and found.data == data
