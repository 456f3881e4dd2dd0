"""Workers end with what they read for."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias

#: Ends workers when it is called, once.
WorkersShutdown: TypeAlias = "weakref.finalize[[Iterator[Any], int], Iterator[Any]]"


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
    lived on. What is kept here is no part of the cycle.

    Returns:
        What ends them now.
    """
    return weakref.finalize(stream, _end, batches, os.getpid())


def _end(batches: Iterator[Any], owner: int) -> None:
    if os.getpid() == owner:  # a process forked from it has a copy of all this, but no workers
        shut_down_workers(batches)
