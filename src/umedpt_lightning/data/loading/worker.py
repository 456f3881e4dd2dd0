"""What a process that reads samples sets up once, and how it ends with what it reads for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

import cv2

# How long a worker goes on after SIGTERM, which is also how Python ends workers that do not end by themselves.
_SECONDS_TO_LIVE = 60

#: Ends workers when it is called, once.
WorkersShutdown: TypeAlias = "weakref.finalize[[Iterator[Any], int], Iterator[Any]]"


def prepare_worker() -> None:
    """Sets up this process for reading samples beside others."""
    # the other processes have the other cores: on two it made no difference that could be measured, but a thread a core
    # and worker is many on a large machine
    cv2.setNumThreads(0)
    _keep_memory()


def outlive_signals() -> None:
    """Lets this process go on when a cluster or a terminal signals to all processes of a run.

    The main process decides what becomes of the run; it finishes the round first, and needs its workers for that.
    """
    for ignored in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_TO_LIVE))


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


def shut_down_workers(batches: Iterator[Any]) -> None:
    """Ends the workers of a DataLoader's iterator, also those that hang; there is no public way to do that.

    One that hangs has twice five seconds to hear of it, which is torch's time, before it is killed.
    """
    if shut_down := getattr(batches, "_shutdown_workers", None):
        shut_down()
    workers: list[BaseProcess] = getattr(batches, "_workers", [])
    for worker in workers:
        if worker.is_alive():
            worker.kill()  # it outlives the SIGTERM that torch sends: see outlive_signals
            worker.join()


def shut_down_with(stream: Iterator[Any], batches: Iterator[Any]) -> WorkersShutdown:
    """Lets workers end when `stream`, which reads `batches`, is gone, and with this process at the latest.

    Torch does that too, but where an iterator is part of a cycle, as it is in the traceback of an error or in a
    Lightning trainer, the queues through which it tells its workers to end are closed before it is asked to tell them:
    Python then stood still for ten seconds a worker, wherever its garbage collector happened to run, and the workers
    lived on. What is kept here is no part of the cycle. What is returned ends them now.
    """
    return weakref.finalize(stream, _end, batches, os.getpid())


def _end(batches: Iterator[Any], owner: int) -> None:
    if os.getpid() == owner:  # a process forked from it has a copy of all this, but no workers
        shut_down_workers(batches)
