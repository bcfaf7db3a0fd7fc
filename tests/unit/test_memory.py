"""What a peak needed is not kept for ever."""

import asyncio
import ctypes
import os

import pytest

from benchmarks.support_process import rss_mb
from governors import memory
from governors.memory import return_free_pages, return_memory


def peak() -> list[bytes]:
    """Allocate 100 MB, and of it keep a block here and there, the newest one too."""
    return [bytes(1_000) for _ in range(100_000)][::-1_000]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc's allocator")
def test_what_is_free_between_blocks_that_live_goes_back() -> None:
    kept = peak()
    before_mb = rss_mb(os.getpid())
    return_free_pages()
    assert before_mb - rss_mb(os.getpid()) > 50
    del kept


async def test_it_is_given_back_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(memory, "RETURN_S", 0.0)
    monkeypatch.setattr(memory, "return_free_pages", lambda: loop.call_soon_threadsafe(twice.release))
    returning = asyncio.create_task(return_memory())
    await twice.acquire()
    await twice.acquire()
    returning.cancel()
    await asyncio.wait([returning])
    assert returning.cancelled()
