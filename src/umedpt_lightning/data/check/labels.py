"""The target of one sample held against its spec."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.check.problems import Fault
from umedpt_lightning.data.formats.labels import shorten
from umedpt_lightning.types import (
    IGNORE_INDEX,
    BoxArrays,
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    SampleTarget,
    TaskSpec,
)

Row = NDArray[np.float32]
_UNLABELLED = Fault("label", "nothing of its target is known", "Label it, or leave it out.", "warning")
_READER = "Correct the reader."
_EPSILON = 1e-3  # pixels: float32 coordinates in images of thousands of pixels


def columns(spec: TaskSpec) -> int:
    """How many numbers a row of `inspect_target` has."""
    match spec:
        case ClassSpec():
            return 1
        case MultilabelSpec():
            return len(spec.labels)
        case RegressionSpec():
            return len(spec.quantities)
        case MaskSpec() | BoxSpec():
            return len(spec.classes)
    return 0


def inspect_target(target: SampleTarget, image: NDArray[Any], spec: TaskSpec) -> tuple[list[Fault], Row | None]:
    """The faults of a target, and the target as a row of numbers.

    Args:
        target: Of the kind that `spec` asks for, it should be.
        image: ``(H, W, C)``.
        spec: What the reader says of itself.

    Returns:
        The faults, and float32: for a class its index, for labels and quantities their values, each NaN where unknown;
        for a mask the share of the labelled pixels that each class has; for boxes the number of each class. None where
        there is no such row.
    """
    match spec:
        case ClassSpec():
            return _class(target, spec)
        case MultilabelSpec():
            return _numbers(target, spec.labels, only=(0.0, 1.0))
        case RegressionSpec():
            return _numbers(target, spec.quantities)
        case MaskSpec():
            return _mask(target, image, spec)
        case BoxSpec():
            return _boxes(target, image, spec)
    return [], None  # a kind of label that this check does not know


def _class(target: SampleTarget, spec: ClassSpec) -> tuple[list[Fault], Row | None]:
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        what = f"a target is the index of a class, but this one is a {type(target).__name__}"
        return [Fault("label", what, _READER)], None
    if target == IGNORE_INDEX:
        return [_UNLABELLED], np.full(1, np.nan, np.float32)
    if not 0 <= target < len(spec.classes):
        what = f"its class is {target}, outside 0 to {len(spec.classes) - 1}"
        return [Fault("label", what, f"Correct the label, or name all of its classes: {list(spec.classes)}.")], None
    return [], np.full(1, target, np.float32)


def _numbers(
    target: SampleTarget, names: tuple[str, ...], only: tuple[float, ...] = ()
) -> tuple[list[Fault], Row | None]:
    if not isinstance(target, np.ndarray) or target.shape != (len(names),) or target.dtype.kind not in "fiub":
        found = f"{target.dtype} of shape {target.shape}" if isinstance(target, np.ndarray) else type(target).__name__
        what = f"a target is {len(names)} numbers ({', '.join(names)}), but this one is {found}"
        return [Fault("label", what, _READER)], None
    row = target.astype(np.float32)
    wrong = np.isinf(row) | (~np.isnan(row) & ~np.isin(row, only) if only else False)
    if wrong.any():
        bad = ", ".join(f"{names[i]} is {row[i]:g}" for i in np.flatnonzero(wrong)[:5])
        asked = "0, 1, or NaN where it is unknown" if only else "a number, or NaN where it is unknown"
        return [Fault("label", bad, f"Write {asked}.")], None
    return [_UNLABELLED] if np.isnan(row).all() else [], row


def _mask(target: SampleTarget, image: NDArray[Any], spec: MaskSpec) -> tuple[list[Fault], Row | None]:
    if not isinstance(target, np.ndarray) or target.ndim != 2 or target.dtype.kind not in "ui" or not target.size:
        found = f"{target.dtype} of shape {target.shape}" if isinstance(target, np.ndarray) else type(target).__name__
        return [Fault("mask", f"a mask is (H, W) integers, but this one is {found}", _READER)], None
    faults = []
    if target.shape != image.shape[:2]:
        height, width = image.shape[:2]
        what = f"the mask is {target.shape[0]}x{target.shape[1]} (HxW), but the image is {height}x{width}"
        faults.append(Fault("mask", what, "Save both at one size."))
    classes = len(spec.classes)
    if target.dtype == np.uint8:
        counts = cv2.calcHist([np.ascontiguousarray(target)], [0], None, [256], [0, 256]).reshape(-1)
        wrong = np.flatnonzero(counts[classes:IGNORE_INDEX]) + classes
    else:
        values = np.unique(target)
        wrong = values[(values < 0) | ((values >= classes) & (values != IGNORE_INDEX))]
        counts = np.bincount(target[(target >= 0) & (target < classes)].ravel(), minlength=classes)
    if len(wrong):
        what = f"the mask holds {shorten(wrong.tolist())}, but its classes are 0 to {classes - 1}"
        mend = f"Correct it, name the classes, or use {IGNORE_INDEX} for unlabelled pixels."
        return [*faults, Fault("mask", what, mend)], None
    total = counts[:classes].sum()
    if not total:
        return [*faults, _UNLABELLED], np.full(classes, np.nan, np.float32)
    return faults, (counts[:classes] / total).astype(np.float32)


def _boxes(target: SampleTarget, image: NDArray[Any], spec: BoxSpec) -> tuple[list[Fault], Row | None]:
    if not isinstance(target, BoxArrays):
        return [Fault("box", f"a target is BoxArrays, but this one is a {type(target).__name__}", _READER)], None
    boxes, labels = np.asarray(target.boxes), np.asarray(target.labels)
    if boxes.shape != (len(labels), 4) or labels.ndim != 1 or labels.dtype.kind not in "ui":
        what = f"boxes are (N, 4) with (N,) integers, but these are {boxes.shape} and {labels.dtype} {labels.shape}"
        return [Fault("box", what, _READER)], None
    height, width = image.shape[:2]
    finite = np.isfinite(boxes).all(axis=1)
    known = np.nan_to_num(boxes)  # so that comparisons say nothing of rows that are not finite
    within = (known[:, :2] >= -_EPSILON).all(1) & (known[:, 2:] <= np.array([width, height]) + _EPSILON).all(1)
    empty = ~(known[:, 2:] > known[:, :2]).all(axis=1)
    in_range = (labels >= 0) & (labels < len(spec.classes))
    rules = [
        (~finite, "is not finite", "Correct or remove it."),
        (finite & empty, "has no area", "Correct or remove it: x1 < x2 and y1 < y2."),
        (finite & ~empty & ~within, f"lies outside the image of {width}x{height} (WxH)", "Clip or remove it."),
    ]
    faults = []
    for wrong, what, mend in rules:
        if wrong.any():
            box = [round(float(x), 2) for x in boxes[wrong][0]]
            faults.append(Fault("box", f"the box (x1, y1, x2, y2) = {box} {what}{_others(wrong)}", mend))
    if not in_range.all():
        what = f"a box has class {labels[~in_range][0]}, outside 0 to {len(spec.classes) - 1}{_others(~in_range)}"
        faults.append(Fault("label", what, f"Correct it, or name all of its classes: {list(spec.classes)}."))
    return faults, np.bincount(labels[in_range], minlength=len(spec.classes)).astype(np.float32)


def _others(wrong: Any) -> str:
    """That there are more of a kind in one image."""
    return f", one of {int(wrong.sum())} such boxes here" if wrong.sum() > 1 else ""
