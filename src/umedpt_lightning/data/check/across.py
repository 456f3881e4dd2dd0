"""What no sample shows alone: what does not fit together, or is lost in all of a part."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np

from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.task_data import TaskData

#: Share of boxes below the finest stride from which on it is told.
_MANY = 0.1


def compare_specs(name: str, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Parts that say different things of themselves."""
    first, *others = tallies
    spec = tallies[first].spec
    for part in others:
        other = tallies[part].spec
        keys = [f.name for f in fields(spec) if f.compare and getattr(other, f.name, None) != getattr(spec, f.name)]
        if type(other) is not type(spec):
            what = f"its labels are of the kind {type(other).__name__}, those of {first} {type(spec).__name__}"
        elif keys:
            found = [f"{key} {getattr(other, key)} where {first} has {getattr(spec, key)}" for key in keys]
            what = f"it has {'; '.join(found)}"
        else:
            continue
        mend = "Give the readers of both parts the same channels, value_range and classes."
        yield Problem(name, part, f"data.tasks.{name}.{part}", what, mend, "setup")


def compare_sizes(name: str, task: TaskData, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Parts whose images cannot be stacked to a batch."""
    if task.size is not None or task.batch_size == 1:
        return
    for part, tally in tallies.items():
        rows = np.flatnonzero(tally.read)
        sizes, first, counts = np.unique(tally.sizes[rows], axis=0, return_index=True, return_counts=True)
        if len(sizes) < 2:
            continue
        common, rare = int(counts.argmax()), int(counts.argmin())
        if common == rare:
            rare = len(sizes) - 1 - common
        (height, width), (h, w) = sizes[common].tolist(), sizes[rare].tolist()
        what = (
            f"{len(sizes)} sizes (HxW) in batches of {task.batch_size}: {counts[common]} images are {height}x{width}, "
            f"this one is {h}x{w}"
        )
        mend = f"Write `size: [{height}, {width}]` (or another) under data.tasks.{name}, or `batch_size: 1`."
        yield Problem(name, part, tally.names[rows[first[rare]]], what, mend, "size")


def compare_dtypes(name: str, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Images of another depth than most of the task."""
    found = np.concatenate([tally.dtypes[tally.read] for tally in tallies.values()])
    dtypes, counts = np.unique(found, return_counts=True)
    if len(dtypes) < 2:
        return
    common = dtypes[counts.argmax()]
    mend = "Save all images of a task with one depth: one value_range cannot fit both."
    for part, tally in tallies.items():
        for i in np.flatnonzero(tally.read & (tally.dtypes != common)):
            what = f"the image is {tally.dtypes[i].decode()}, but most of the task are {common.decode()}"
            yield Problem(name, part, tally.names[i], what, mend, "image")


def find_absent_classes(name: str, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Classes, labels and quantities without samples: an error in train, since they cannot be learned."""
    samples = {part: tally.spec.samples(tally.labels) for part, tally in tallies.items()}
    for part, tally in tallies.items():
        if not tally.read.any():  # that is the problem, and said elsewhere
            continue
        for absent, count in samples[part].items():
            if count:
                continue
            elsewhere = [f"{n[absent]} in {other}" for other, n in samples.items() if n.get(absent)]
            what = f"no {tally.spec.noun} in {part}" + (f", but {' and '.join(elsewhere)}" if elsewhere else "")
            mend = (
                "It cannot be learned: add some, split anew, or leave it out."
                if part == "train"
                else "It cannot be measured here: add some, or split anew."
            )
            yield Problem(name, part, repr(absent), what, mend, "class", "error" if part == "train" else "warning")


def find_alike_names(name: str, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Classes, labels or quantities that are most likely one, written in several ways."""
    ways: dict[str, list[str]] = defaultdict(list)
    for each in next(iter(tallies.values())).spec.names:
        ways[_spelled(each)].append(each)
    for alike in ways.values():
        if len(alike) > 1:
            what = f"{', '.join(map(repr, alike[1:]))} beside it: they count as different, but differ in spelling alone"
            mend = "Write it one way in the data, if it is one."
            yield Problem(name, "", repr(alike[0]), what, mend, "class", "warning")


def _spelled(name: str) -> str:
    """The same for names that differ in case, spaces, underscores, hyphens, or how a number is written."""
    with contextlib.suppress(ValueError):
        return repr(float(name))
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", plain)  # not at the end: + and - may be grades


def find_outside(name: str, tallies: Mapping[str, Tally]) -> Iterator[Problem]:
    """Parts with intensities outside the range that becomes 0 to 1."""
    for part, tally in tallies.items():
        rows = np.flatnonzero(tally.read & (tally.outside > 0))
        if not len(rows):
            continue
        worst = rows[tally.outside[rows].argmax()]
        low, high = tally.spec.value_range
        what = (
            f"{len(rows)} of {len(tally)} images have intensities outside the value_range {low:g} to {high:g} "
            f"({tally.intensities[rows, 0].min():g} to {tally.intensities[rows, 2].max():g}), "
            f"{tally.outside[tally.read].mean():.2%} of all pixels, {tally.outside[worst]:.2%} of this image's"
        )
        mend = "Set `value_range` of the readers so that it holds what matters, the same in all parts."
        yield Problem(name, part, tally.names[worst], what, mend, "intensity", "warning")


def find_lost_objects(name: str, task: TaskData, tallies: Mapping[str, Tally], stride: float) -> Iterator[Problem]:
    """Parts of which resizing takes objects, or leaves many boxes below the finest stride."""
    size = f"size {task.size}" if task.size is not None else "the size that images have"
    for part, tally in tallies.items():
        total, gone, small = tally.objects.sum(axis=0).tolist()
        worst = tally.names[int(tally.objects[:, 1:].sum(axis=1).argmax())] if total else ""
        if gone:
            images = int((tally.objects[:, 1] > 0).sum())
            what = f"{gone} of {total} objects ({gone / total:.0%}, in {images} images) are gone at {size}, most here"
            mend = (
                "Write a larger `size`, or a finer `spacing` of `slices`, or train on tiles or crops, so that the "
                "smallest objects keep a pixel."
            )
            yield Problem(name, part, worst, what, mend, "size", "warning")
        if small > _MANY * total:
            what = (
                f"{small} of {total} boxes ({small / total:.0%}) have a side below {stride:g} pixels at {size}, the "
                "finest stride of the detection decoder, so that each is learnt by a single place"
            )
            mend = "Write a larger `size`, train on tiles or crops, or give the detection decoder a `finest` of 4."
            yield Problem(name, part, worst, what, mend, "box", "warning")
