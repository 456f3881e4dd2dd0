"""What a picture shows of a sample, for every label type: masks, boxes and lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.types import (
    IGNORE_INDEX,
    BoxArrays,
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    TaskSpec,
)

#: Most lines of text that a picture shows of one sample.
MOST_LINES = 16
#: Of the predicted boxes a few more than there are true ones are shown, the best, within these limits.
FEWEST_BOXES, MOST_BOXES = 10, 50


@dataclass(frozen=True)
class MaskLayer:
    """One class a pixel; class 0 is the background and not drawn.

    Attributes:
        values: ``(H, W)`` class indices or `IGNORE_INDEX`.
    """

    values: NDArray[Any]


@dataclass(frozen=True)
class BoxLayer:
    """Boxes, best first.

    Attributes:
        boxes: ``(N, 4)`` pixels.
        labels: ``(N,)`` class indices.
        scores: ``(N,)`` 0 to 1, None for true boxes.
    """

    boxes: NDArray[Any]
    labels: NDArray[Any]
    scores: NDArray[Any] | None = None

    def captions(self, classes: dict[int, str]) -> list[str]:
        """Class name and score of every box."""
        names = [classes[int(label)] for label in self.labels]
        if self.scores is None:
            return names
        return [f"{name} {score:.2f}" for name, score in zip(names, self.scores, strict=True)]


Layer = MaskLayer | BoxLayer


@dataclass(frozen=True)
class Line:
    """A line of text under an image.

    Attributes:
        text: The line.
        right: Whether it shows a right prediction; None if it shows none, or one that is neither right nor wrong.
    """

    text: str
    right: bool | None = None


@dataclass(frozen=True)
class View:
    """What is shown of one sample beside its image.

    Attributes:
        lines: Text.
        truth: Drawn over the image in a panel of its own.
        prediction: Likewise.
        classes: Names of the classes in the layers, by index.
    """

    lines: tuple[Line, ...] = ()
    truth: Layer | None = None
    prediction: Layer | None = None
    classes: dict[int, str] = field(default_factory=dict)


@singledispatch
def describe(spec: TaskSpec, truth: Any, prediction: Any) -> View:
    """What a label type shows of one sample; a new one registers its function here.

    Args:
        spec: Says which label type it is, and the names.
        truth: The sample's entry in the targets of a `TaskBatch`, as numpy.
        prediction: Its entry in what `Task.predict` returns, as numpy.

    Raises:
        TypeError: The label type is not registered.
    """
    raise TypeError(
        f"Samples with {type(spec).__name__} cannot be drawn: register a function for it with @describe.register."
    )


@describe.register
def _classes(spec: ClassSpec, truth: Any, prediction: NDArray[Any]) -> View:
    best = np.argsort(-prediction, kind="stable")[:3]
    known = int(truth) != IGNORE_INDEX
    probabilities = ", ".join(f"{spec.classes[i]} {prediction[i]:.2f}" for i in best)
    return View(
        lines=(
            Line(f"truth: {spec.classes[int(truth)] if known else '?'}"),
            Line(f"prediction: {probabilities}", bool(best[0] == truth) if known else None),
        )
    )


@describe.register
def _labels(spec: MultilabelSpec, truth: NDArray[Any], prediction: NDArray[Any]) -> View:
    marks = {0.0: "no", 1.0: "yes"}
    lines = [
        Line(
            f"{name}: {marks.get(float(mark), '?')}, predicted {probability:.2f}",
            None if np.isnan(mark) else bool((probability >= 0.5) == mark),
        )
        for name, mark, probability in zip(spec.labels, truth, prediction, strict=True)
    ]
    # of many labels those that there are, or that are thought to be
    order = np.argsort(-np.fmax(truth, prediction), kind="stable")[:MOST_LINES] if len(lines) > MOST_LINES else None
    if order is None:
        return View(lines=tuple(lines))
    rest = Line(f"and {len(lines) - MOST_LINES} more labels")
    return View(lines=(*(lines[i] for i in sorted(order)), rest))


@describe.register
def _numbers(spec: RegressionSpec, truth: NDArray[Any], prediction: NDArray[Any]) -> View:
    lines = []
    for name, unit, true, predicted in zip(spec.quantities, spec.units, truth, prediction, strict=True):
        if np.isnan(true):
            text = f"{name}: ?, predicted {predicted:.4g} {unit}"
        else:
            text = f"{name}: {true:.4g} {unit}, predicted {predicted:.4g} {unit}, error {predicted - true:+.3g} {unit}"
        # without a unit there are blanks before commas
        lines.append(Line(text.replace(" ,", ",").strip()))
    return View(lines=tuple(lines[:MOST_LINES]))


@describe.register
def _mask(spec: MaskSpec, truth: NDArray[Any], prediction: NDArray[Any]) -> View:
    classes = dict(enumerate(spec.classes))
    if (truth == IGNORE_INDEX).any():
        classes[IGNORE_INDEX] = "not labelled"
    return View(truth=MaskLayer(truth), prediction=MaskLayer(prediction), classes=classes)


@describe.register
def _boxes(spec: BoxSpec, truth: BoxArrays, prediction: Any) -> View:
    best = np.argsort(-prediction.scores, kind="stable")
    # an early detector finds hundreds, under which nothing could be seen
    shown = best[: max(FEWEST_BOXES, min(len(truth.boxes) + 5, MOST_BOXES))]
    text = f"boxes: {len(truth.boxes)} true, {len(best)} predicted"
    if len(best) > len(shown):
        text += f" ({len(shown)} best shown)"
    return View(
        lines=(Line(text),),
        truth=BoxLayer(truth.boxes, truth.labels),
        prediction=BoxLayer(prediction.boxes[shown], prediction.labels[shown], prediction.scores[shown]),
        classes=dict(enumerate(spec.classes)),
    )
