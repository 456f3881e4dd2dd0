"""What the data of a task are like, as plain numbers for JSON and for a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.check.tally import Tally
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec

_KINDS = {ClassSpec: "class", MultilabelSpec: "labels", RegressionSpec: "numbers", MaskSpec: "mask", BoxSpec: "boxes"}


def names_of(spec: TaskSpec) -> tuple[str, ...]:
    """What the columns of `Tally.labels` stand for: classes, labels or quantities; for a class see its one column."""
    match spec:
        case ClassSpec() | MaskSpec() | BoxSpec():
            return spec.classes
        case MultilabelSpec():
            return spec.labels
        case RegressionSpec():
            return spec.quantities
    return ()


def samples_of(tally: Tally) -> NDArray[np.int64]:
    """Samples that show each class, have each label, or have a value of each quantity, as `names_of` lists them."""
    match tally.spec:
        case ClassSpec():
            known = tally.labels[~np.isnan(tally.labels)].astype(np.int64)
            counts: NDArray[np.int64] = np.bincount(known, minlength=len(tally.spec.classes))
        case RegressionSpec():
            counts = (~np.isnan(tally.labels)).sum(axis=0)
        case _:  # NaN is not above zero
            counts = (tally.labels > 0).sum(axis=0)
    return counts


def describe_task(task: TaskData, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """The task and each of its parts.

    Args:
        task: Its options.
        tallies: At least one part.
    """
    spec = next(iter(tallies.values())).spec
    return {
        "kind": next((name for kind, name in _KINDS.items() if isinstance(spec, kind)), type(spec).__name__),
        "names": list(names_of(spec)),
        "channels": spec.channels,
        "value_range": list(spec.value_range),
        "size": list(task.size) if isinstance(task.size, tuple) else task.size,
        "batch_size": task.batch_size,
        "parts": {part: describe_part(tally) for part, tally in tallies.items()},
    }


def describe_part(tally: Tally) -> dict[str, Any]:
    """One part: its images and its labels."""
    sizes, (low, mean, high) = tally.sizes[tally.read], tally.intensities[tally.read].T
    dtypes, counts = np.unique(tally.dtypes[tally.read], return_counts=True)
    seconds = tally.seconds[tally.seconds > 0]
    return {
        "samples": len(tally),
        "readable": int(tally.read.sum()),
        "height": _spread(sizes[:, 0]),
        "width": _spread(sizes[:, 1]),
        "dtypes": {name.decode(): int(count) for name, count in zip(dtypes, counts, strict=True)},
        # the median is that of the images' means
        "intensity": {"min": _of(np.min, low), "median": _of(np.median, mean), "max": _of(np.max, high)},
        "images_outside_value_range": int((tally.outside[tally.read] > 0).sum()),
        "milliseconds": _of(np.median, seconds * 1000),
        "labels": _labels(tally),
    }


def _labels(tally: Tally) -> dict[str, Any]:
    names, known = names_of(tally.spec), tally.labels[~np.isnan(tally.labels).all(axis=1)]
    samples = dict(zip(names, samples_of(tally).tolist(), strict=True))
    match tally.spec:
        case ClassSpec():
            return {"samples": samples, "unlabelled": len(tally) - len(known)}
        case MultilabelSpec():
            labelled = dict(zip(names, (~np.isnan(known)).sum(axis=0).tolist(), strict=True))
            return {"samples": samples, "known": labelled}
        case RegressionSpec():
            values = {name: column[~np.isnan(column)] for name, column in zip(names, tally.labels.T, strict=True)}
            return {
                "known": samples,
                "units": dict(zip(names, tally.spec.units, strict=True)),
                "mean": {name: _of(np.mean, column) for name, column in values.items()},
                "std": {name: _of(np.std, column) for name, column in values.items()},
                "min": {name: _of(np.min, column) for name, column in values.items()},
                "max": {name: _of(np.max, column) for name, column in values.items()},
            }
        case MaskSpec():
            shares = known.mean(axis=0, dtype=np.float64).tolist() if len(known) else [None] * len(names)
            return {"samples": samples, "share": dict(zip(names, shares, strict=True))}
        case BoxSpec():
            boxes = dict(zip(names, known.sum(axis=0, dtype=np.int64).tolist(), strict=True))
            per_image = known.sum(axis=1)
            return {"samples": samples, "boxes": boxes, "per_image": _spread(per_image)}
    return {}


def _spread(values: NDArray[Any]) -> dict[str, float | None]:
    return {"min": _of(np.min, values), "median": _of(np.median, values), "max": _of(np.max, values)}


def _of(function: Any, values: NDArray[Any]) -> float | None:
    """A number for JSON, which has no NaN: None where there are no values."""
    if not len(values):
        return None
    number = float(function(values.astype(np.float64)))
    return int(number) if number.is_integer() else number
