"""Threads of a training that shares its machine with other processes, its own workers among them."""

from __future__ import annotations

import os


def threads_for(workers: int, ranks: int = 1, cores: int | None = None) -> int:
    """How many threads a rank should compute with: the cores of the machine that the workers of its ranks leave."""
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    return max(1, cores // max(1, ranks) - workers)
