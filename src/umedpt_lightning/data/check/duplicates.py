"""One image in several places, and one patient, centre or volume in two parts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.task_data import TaskData


def find_duplicates(task: str, tallies: Mapping[str, Tally]) -> list[Problem]:
    """Equal images: in two parts an error, since what was trained on cannot measure; in one a warning.

    The parts of `tallies` are in the order in which they keep an image: train first.
    """
    rows = [(part, int(i)) for part, tally in tallies.items() for i in np.flatnonzero(tally.read)]
    seen: dict[str, int] = {}
    names = np.array([seen.setdefault(tallies[part].names[i], len(seen)) for part, i in rows], np.int64)
    digests = np.concatenate([tally.digests[tally.read] for tally in tallies.values()])
    low, _, high = np.concatenate([tally.intensities[tally.read] for tally in tallies.values()]).T
    # Empty images are alike without being copies. They are reported as empty, but as one file in two parts too.
    pixels = np.where(low < high, digests, np.arange(len(rows), dtype=np.uint64))

    problems: dict[int, Problem] = {}
    for keys in (names, pixels):
        for group in _groups(keys):
            for row in group[1:]:
                if row not in problems:
                    problems[row] = _problem(task, tallies, rows[group[0]], rows[row])
    return [problems[row] for row in sorted(problems)]


def _problem(task: str, tallies: Mapping[str, Tally], kept: tuple[str, int], copy: tuple[str, int]) -> Problem:
    (part, i), (kept_part, k) = copy, kept
    name, kept_name = tallies[part].names[i], tallies[kept_part].names[k]
    if name == kept_name:
        what = "it is in this part twice" if part == kept_part else f"it is in {kept_part} too"
    else:
        beside = os.path.dirname(name) == os.path.dirname(kept_name)
        what = f"its pixels are those of {os.path.basename(kept_name) if beside else kept_name} in {kept_part}"
    if not np.array_equal(tallies[part].labels[i], tallies[kept_part].labels[k], equal_nan=True):
        what += ", with another target"
    if part == kept_part:
        return Problem(task, part, name, what, "Keep one of them.", "duplicate", "warning")
    mend = "Keep it in one part only: an image that is trained on cannot measure."
    return Problem(task, part, name, what, mend, "duplicate")


def _groups(keys: NDArray[Any]) -> Iterator[list[int]]:
    """Places of equal keys, where there is more than one."""
    order = np.argsort(keys, kind="stable")  # stable, so that the first of a group is that of the first part
    borders = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    starts, stops = np.r_[0, borders], np.r_[borders, len(keys)]
    for i in np.flatnonzero(stops - starts > 1):
        yield order[starts[i] : stops[i]].tolist()


def find_shared_groups(name: str, task: TaskData, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Groups with samples in two parts, an error: what is alike to what was trained on cannot measure."""
    groups = {part: reader.groups for part, reader in task.readers.items()}
    firsts = {part: np.unique(ids, return_index=True) for part, ids in groups.items() if ids is not None}
    for part, other in combinations(firsts, 2):
        shared, here, there = np.intersect1d(firsts[part][0], firsts[other][0], return_indices=True)
        for group, i, k in zip(shared.tolist(), firsts[part][1][here], firsts[other][1][there], strict=True):
            first, second = tallies[part].names[i], tallies[other].names[k]
            if first == second and not tallies[part].spec.bag:  # the same sample, which is reported as such
                continue
            what = f"its group {group!r} is in {part} too, such as {first}"
            mend = "Keep each group in one part: correct the table, or split by `Split`, which does so."
            yield Problem(name, other, second, what, mend, "group")


def find_empty_bags(name: str, task: TaskData) -> list[Problem]:
    """Bags that a table has a target of and no part has an image of."""
    of_parts = [reader.without_images for reader in task.readers.values() if reader.spec.bag]
    # a table of all parts, of which each has its own images
    empty = frozenset.intersection(*of_parts) if of_parts else frozenset()
    what, mend = "its target is known, but no image is of it", "Add its images, or remove its row."
    return [Problem(name, "", bag, what, mend, "group", "warning") for bag in sorted(empty)]
