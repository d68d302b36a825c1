"""How the C library gives memory back: kept from step to step, given back while reading. Imports nothing heavy."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# By default glibc returns every large block to the system when it is freed and faults its pages in again for the next
# step, which costs 20 to 30 % of a training step of a small model on a CPU, and 16 % of measuring a base that was
# adapted. It reads its settings when the process begins.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # blocks below 32 MiB come from the heap
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),  # whose top stays
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in huge pages where the system allows
}

# mallopt's numbers for the size from which on a block has pages of its own, and for how much free memory at the end of
# the heap is given back, with what is said of them while reading and afterwards. Left alone glibc raises the first to
# what was freed last, up to 32 MiB, and the second to twice that; told of either, it raises neither.
PAGES_OF_ITS_OWN, GIVEN_BACK = -3, -1
READING = {PAGES_OF_ITS_OWN: 2**20, GIVEN_BACK: 128 * 2**10}
LATER = {PAGES_OF_ITS_OWN: 32 * 2**20, GIVEN_BACK: 64 * 2**20}


def settle_memory() -> None:
    """Begin this process anew with those settings, once; where any is set already, or without glibc, do nothing."""
    if not _open_to_us():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **SETTINGS})


def give_back() -> None:
    """Give back what was freed so far: making the data takes more memory than training on them."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def lean() -> Iterator[None]:
    """Whatever large is freed meanwhile is given back at once, so that reading a model leaves no holes in memory.

    Without glibc, or where a setting of its own is in the environment, nothing is changed.
    """
    ours = _open_to_us()
    if ours:
        _tell(READING)
    try:
        yield
    finally:
        if ours:
            _tell(LATER)


def _tell(settings: dict[int, int]) -> None:
    for number, size in settings.items():
        ctypes.CDLL(None).mallopt(number, size)


def _open_to_us() -> bool:
    """Whether there is glibc, and nobody has set any of its settings."""
    return platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in SETTINGS)
