"""What the data of a task are like, as plain numbers for JSON and for a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.labels.wording import spread, statistic


def statistics_of(task: TaskData, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """The task and each of its parts.

    Args:
        task: Its options.
        tallies: At least one part.
    """
    spec = next(iter(tallies.values())).spec
    return {
        "kind": spec.kind or type(spec).__name__,
        "names": list(spec.names),
        "channels": spec.channels,
        "value_range": list(spec.value_range),
        "size": list(task.size) if isinstance(task.size, tuple) else task.size,
        "batch_size": task.batch_size,
        "parts": {part: statistics_of_part(tally) for part, tally in tallies.items()},
    }


def statistics_of_part(tally: Tally) -> dict[str, Any]:
    """One part: its images and its labels."""
    sizes, (low, mean, high) = tally.sizes[tally.read], tally.intensities[tally.read].T
    dtypes, counts = np.unique(tally.dtypes[tally.read], return_counts=True)
    seconds = tally.seconds[tally.seconds > 0]
    return {
        "samples": len(tally),
        "readable": int(tally.read.sum()),
        **({f"images_a_{tally.spec.bag}": spread(tally.instances[tally.read])} if tally.spec.bag else {}),
        "height": spread(sizes[:, 0]),
        "width": spread(sizes[:, 1]),
        "dtypes": {name.decode(): int(count) for name, count in zip(dtypes, counts, strict=True)},
        # the median is that of the images' means
        "intensity": {
            "min": statistic(np.min, low),
            "median": statistic(np.median, mean),
            "max": statistic(np.max, high),
        },
        "images_outside_value_range": int((tally.outside[tally.read] > 0).sum()),
        "milliseconds": statistic(np.median, seconds * 1000),
        "labels": tally.spec.statistics(tally.labels),
    }
