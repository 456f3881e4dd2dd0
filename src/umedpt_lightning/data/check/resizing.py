"""What resizing takes from training."""

from __future__ import annotations

from collections.abc import Mapping

from umedpt_lightning.data.check.problems import Problem
from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.task_data import TaskData

#: Share of boxes below the finest stride from which on it is told.
_MANY = 0.1


def find_lost_objects(name: str, task: TaskData, tallies: Mapping[str, Tally], stride: float) -> list[Problem]:
    """Parts of which resizing takes objects, or leaves many boxes below the finest stride."""
    problems = []
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
            problems.append(Problem(name, part, worst, what, mend, "size", "warning"))
        if small > _MANY * total:
            what = (
                f"{small} of {total} boxes ({small / total:.0%}) have a side below {stride:g} pixels at {size}, the "
                "finest stride of the detection decoder, so that each is learnt by a single place"
            )
            mend = "Write a larger `size`, train on tiles or crops, or give the detection decoder a `finest` of 4."
            problems.append(Problem(name, part, worst, what, mend, "box", "warning"))
    return problems
