"""One patient, centre or volume in two parts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.task_data import TaskData


def find_shared_groups(name: str, task: TaskData, tallies: Mapping[str, Tally]) -> list[Problem]:
    """Groups with samples in two parts, an error: what is alike to what was trained on cannot measure.

    Args:
        name: The task's name.
        task: Its readers.
        tallies: Its parts, train first.
    """
    groups = {part: reader.groups for part, reader in task.readers.items()}
    firsts = {part: np.unique(ids, return_index=True) for part, ids in groups.items() if ids is not None}
    problems = []
    for part, other in combinations(firsts, 2):
        shared, here, there = np.intersect1d(firsts[part][0], firsts[other][0], return_indices=True)
        for group, i, k in zip(shared.tolist(), firsts[part][1][here], firsts[other][1][there], strict=True):
            first, second = tallies[part].names[i], tallies[other].names[k]
            if first == second and not tallies[part].spec.bag:  # the same sample, which is reported as such
                continue
            what = f"its group {group!r} is in {part} too, such as {first}"
            mend = "Keep each group in one part: correct the table, or split by `Split`, which does so."
            problems.append(Problem(name, other, second, what, mend, "group"))
    return problems


def find_empty_bags(name: str, task: TaskData) -> list[Problem]:
    """Bags that a table has a target of and no part has an image of."""
    readers = task.readers
    of_parts = [reader.without_images for reader in readers.values() if reader.spec.bag]
    # a table of all parts, of which each has its own images
    empty = frozenset.intersection(*of_parts) if of_parts else frozenset()
    part = next(iter(readers), "")
    mend = "Add its images, or remove its row."
    return [
        Problem(name, part, bag, "its target is known, but no image is of it", mend, "group", "warning")
        for bag in sorted(empty)
    ]
