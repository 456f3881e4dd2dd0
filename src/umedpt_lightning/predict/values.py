"""What a table says of one prediction, for every label type."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from umedpt_lightning.tasks import (
    Classification,
    Detection,
    Detections,
    MultilabelClassification,
    Regression,
    Segmentation,
    Task,
)

Row = dict[str, Any]
_MM2 = 1e-6  # of a µm²


@singledispatch
def values(task: Task, prediction: Any) -> Row:
    """Names of columns and what is in them; a new label type registers its own function.

    Args:
        task: The head.
        prediction: One image's, an item of what `MultiTaskModel.predict` returns.

    Raises:
        TypeError: The label type is not registered.
    """
    raise TypeError(f"It is not known how to write predictions of a {type(task).__name__}.")


@values.register
def _(task: Classification, prediction: Any) -> Row:
    classes = task.spec.classes
    return {"class": classes[int(prediction.argmax())]} | _numbers([f"p_{name}" for name in classes], prediction)


@values.register
def _(task: MultilabelClassification, prediction: Any) -> Row:
    return _numbers([f"p_{label}" for label in task.spec.labels], prediction)


@values.register
def _(task: Regression, prediction: Any) -> Row:
    names = [f"{q} ({u})" if u else q for q, u in zip(task.spec.quantities, task.spec.units, strict=True)]
    return _numbers(names, prediction)


@values.register
def _(task: Segmentation, prediction: Any) -> Row:
    pixels = np.zeros(len(task.spec.classes), np.int64)
    for row in range(0, len(prediction), 1024):  # of a large mask no copy is made
        pixels += np.bincount(np.asarray(prediction[row : row + 1024]).ravel(), minlength=len(pixels))
    return {f"pixels_{name}": int(count) for name, count in zip(task.spec.classes, pixels, strict=True)}


@values.register
def _(task: Detection, prediction: Detections) -> Row:
    counts = prediction.labels.bincount(minlength=len(task.spec.classes)).tolist()
    return {f"n_{name}": count for name, count in zip(task.spec.classes, counts, strict=True)}


def densities(row: Row, area: float) -> Row:
    """How many there are a mm², of every count in a row of a detection.

    Args:
        row: Of `values`.
        area: That was looked at, µm².
    """
    counts = {name: number for name, number in row.items() if name.startswith("n_")}
    if not counts:
        return {}
    mm2 = area * _MM2
    return {"area_mm2": _short(mm2)} | {f"{name}_per_mm2": _short(number / mm2) for name, number in counts.items()}


def _numbers(names: list[str], prediction: Any) -> Row:
    return {name: _short(float(value)) for name, value in zip(names, prediction, strict=True)}


def _short(number: float) -> float:
    """Without the digits that float32 has not."""
    return float(f"{number:.7g}")
