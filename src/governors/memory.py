"""What a process that allocates a little for each signal, for ever, tells the allocator and the collector."""

import asyncio
import contextlib
import ctypes
import gc
from collections.abc import Iterator
from typing import Final

# glibc's <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_KEPT_BYTES: Final = 16 << 20
_LARGE_BYTES: Final = 1 << 20
"""More than the buffers of a batch, which come with each."""
RETURN_S: Final = 60.0

# Objects between two collections of the youngest. What a signal leaves behind is not cyclic; what is, comes from
# requests and errors, and can wait.
_COLLECT_AFTER: Final = 50_000


def prepare_memory() -> None:
    """Call before the first thread is there. On another C library than glibc only the collector is told.

    glibc gives each thread a heap of its own: with a dozen threads, of which only one at a time runs Python, that is
    most of a gigabyte for nothing. It gives the heap's top back to the kernel, and pays a page fault for each page when
    it asks for it again with the next batch; keeping 16 MiB stops that. Large blocks live in mappings of their own:
    among small ones that stay, each that finds no hole large enough would have the heap grow a little more.
    """
    _tell_allocator(_M_ARENA_MAX, 1)
    _tell_allocator(_M_TOP_PAD, _KEPT_BYTES)
    _tell_allocator(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _tell_allocator(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    gc.set_threshold(_COLLECT_AFTER, 10, 10)


def settle_memory() -> None:
    """Call once, when everything is there that stays until the end: the collector need not walk through modules and
    tables then. What is garbage later among that is never found.
    """
    gc.collect()
    gc.freeze()


async def return_memory() -> None:
    """Until cancelled, give free pages back to the kernel, once a minute.

    What the busiest second ever needed would stay with the process otherwise: the heap's top as far as it was ever
    touched, and whole pages between blocks that live long. It takes some milliseconds, without the interpreter's lock.
    """
    while True:
        await asyncio.sleep(RETURN_S)
        await asyncio.to_thread(return_free_pages)


def return_free_pages() -> None:
    """What nobody uses of the C library's heap. On another library than glibc it stays."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """For a stretch that makes very much which stays, and nothing cyclic: the collector would go through all of it
    again and again, and take a third of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tell_allocator(parameter: int, value: int) -> None:
    with contextlib.suppress(AttributeError, OSError):  # musl and macOS have no mallopt
        ctypes.CDLL(None).mallopt(parameter, value)
