"""The whole check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from umedpt_lightning.data.check.across import (
    compare_dtypes,
    compare_sizes,
    compare_specs,
    find_absent_classes,
    find_alike_names,
    find_lost_objects,
    find_outside,
)
from umedpt_lightning.data.check.duplicates import find_duplicates, find_empty_bags, find_shared_groups
from umedpt_lightning.data.check.pool import read_all
from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.sample import FINEST_STRIDE, Part
from umedpt_lightning.data.check.storage import find_lossy_masks, find_unread, find_unused_range
from umedpt_lightning.data.check.tally import Tally, statistics_of
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.types import TaskSpec


@dataclass
class Report:
    """What a check found.

    Attributes:
        tasks: Statistics of each task, ready for JSON.
        specs: What the data of each task say of themselves.
        problems: All problems, by task, those of single samples first.
        samples: How many samples were read.
    """

    tasks: dict[str, Any] = field(default_factory=dict)
    specs: dict[str, TaskSpec] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    samples: int = 0

    @property
    def errors(self) -> int:
        """Problems that are errors."""
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Problems that are warnings."""
        return len(self.problems) - self.errors


def check(
    tasks: Mapping[str, TaskData],
    workers: int,
    advance: Callable[[int], None] = lambda samples: None,
    stride: float = FINEST_STRIDE,
) -> Report:
    """Reads every sample of every task once, and collects what is wrong.

    Args:
        tasks: The data, by task name.
        workers: Processes that read.
        advance: Called with the number of samples each time that some are done.
        stride: The finest of the detection decoder, pixels.
    """
    wanted = {
        (name, part): Part(reader, task.size, stride)
        for name, task in tasks.items()
        for part, reader in task.readers.items()
    }
    tallies = {key: Tally(part.reader.spec, len(part.reader)) for key, part in wanted.items()}
    faulty: dict[tuple[str, str], list[tuple[int, Problem]]] = {key: [] for key in wanted}
    for key, readings in read_all(wanted, workers):
        tallies[key].add(readings)
        faulty[key] += [(r.index, Problem.of(found, *key, r.name)) for r in readings for found in r.found]
        advance(len(readings))

    report = Report(samples=sum(map(len, tallies.values())))
    for name, task in tasks.items():
        parts = {part: tallies[name, part] for part in task.readers}
        for part in parts:  # in the order of the samples, whichever process was first
            report.problems += [problem for _, problem in sorted(faulty[name, part], key=lambda item: item[0])]
        if parts:
            report.tasks[name] = statistics_of(task, parts)
            report.specs[name] = next(iter(parts.values())).spec
            report.problems += [
                *compare_specs(name, parts),
                *compare_sizes(name, task, parts),
                *compare_dtypes(name, parts),
                *find_outside(name, parts),
                *find_unused_range(name, parts),
                *find_lost_objects(name, task, parts, stride),
                *find_lossy_masks(name, task),
                *find_unread(name, task),
                *find_absent_classes(name, parts),
                *find_alike_names(name, parts),
                *find_duplicates(name, parts),
                *find_shared_groups(name, task, parts),
                *find_empty_bags(name, task),
            ]
    return report
