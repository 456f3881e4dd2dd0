"""CPU time of things that are done in turn, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of this process, all its threads, for one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def interleaved(sides: Sequence[Callable[[], object]], runs: int) -> list[list[float]]:
    """CPU seconds of each side in every run; a first run warms up and is not among them."""
    rows = [[cpu_seconds(side) for side in sides] for _ in range(runs + 1)]
    return [list(column) for column in zip(*rows[1:], strict=True)]


def ratio(sides: tuple[Callable[[], object], Callable[[], object]], runs: int) -> float:
    """Median of the first side's CPU time over the second's."""
    first, second = interleaved(sides, runs)
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
