"""What a process that reads samples sets up once."""

from __future__ import annotations

import ctypes
import signal
import sys

import cv2


def prepare_worker() -> None:
    """Sets up this process for reading samples beside others."""
    # the other processes have the other cores: on two it made no difference that could be measured, but a thread a core
    # and worker is many on a large machine
    cv2.setNumThreads(0)
    _keep_memory()


def how_ended(code: int) -> str:
    """How a process ended, by its exit code as `multiprocessing` gives it."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _keep_memory() -> None:
    """Lets the allocator keep what an image leaves behind for the next one.

    By default glibc hands memory of this size back to the system at once, and half of the time of decoding goes into
    getting it again, page by page: a worker took 162 ms of CPU time for 8 JPEGs of 1024 pixels, resized to 512 and
    augmented, and takes 97 ms so (at 224 pixels it makes no difference). Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        mallopt(m_mmap_threshold, 2**25)  # the highest that it takes
        mallopt(m_trim_threshold, 2**28)
