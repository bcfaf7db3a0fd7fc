"""What a process that allocates a little for each signal, for ever, tells the allocator and the collector."""

import contextlib
import ctypes
import gc
from typing import Final

# glibc's <malloc.h>
_M_TOP_PAD: Final = -2
_TOP_PAD_BYTES: Final = 64 * 1024 * 1024


def settle_memory() -> None:
    """Call once, when everything long-lived is there.

    glibc gives the heap's top back to the kernel and asks for it again with each burst, at the price of a page fault
    per signal; a pad stops that. And the collector need not walk through modules and tables that stay anyway. On
    another C library only the second is done.
    """
    with contextlib.suppress(AttributeError, OSError):  # musl and macOS have no mallopt
        ctypes.CDLL(None).mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
    gc.collect()
    gc.freeze()
