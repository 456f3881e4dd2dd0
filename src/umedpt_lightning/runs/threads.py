"""Threads of a training that shares its machine with other processes, its own workers among them."""

from __future__ import annotations

import os


def threads_for(workers: int, ranks: int = 1, cores: int | None = None) -> int:
    """How many threads a rank should compute with: the cores of the machine that its workers leave.

    Args:
        workers: Processes of a rank that read.
        ranks: On this machine.
        cores: That this process may use; None for those that it may.
    """
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    return max(1, cores // max(1, ranks) - workers)
