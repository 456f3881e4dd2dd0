"""What a picture shows of a sample, for every label type: masks, boxes and lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
#: Of the predicted boxes those with half the best score are shown, a few more than there are true ones at the most,
#: within these limits.
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


@singledispatch
def describe_truth(spec: TaskSpec, truth: Any) -> View:
    """What a label type shows of one sample where nothing is predicted; a new one registers its function here.

    Args:
        spec: Says which label type it is, and the names.
        truth: The sample's target, as a reader gives it.

    Raises:
        TypeError: The label type is not registered.
    """
    raise TypeError(
        f"Samples with {type(spec).__name__} cannot be drawn: register a function for it with @describe_truth.register."
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
    return replace(describe_truth(spec, truth), prediction=MaskLayer(prediction))


@describe.register
def _boxes(spec: BoxSpec, truth: BoxArrays, prediction: Any) -> View:
    best = np.argsort(-prediction.scores, kind="stable")
    # an early detector finds hundreds, under which nothing could be seen; of a late one the faint ones are noise
    strong = best[prediction.scores[best] >= prediction.scores.max(initial=0) / 2]
    shown = strong[: max(FEWEST_BOXES, min(len(truth.boxes) + 5, MOST_BOXES))]
    text = f"boxes: {len(truth.boxes)} true, {len(best)} predicted"
    if len(best) > len(shown):
        text += f" ({len(shown)} best shown)"
    predicted = BoxLayer(prediction.boxes[shown], prediction.labels[shown], prediction.scores[shown])
    return replace(describe_truth(spec, truth), lines=(Line(text),), prediction=predicted)


@describe_truth.register
def _true_class(spec: ClassSpec, truth: Any) -> View:
    return View(lines=(Line("?" if int(truth) == IGNORE_INDEX else spec.classes[int(truth)]),))


@describe_truth.register
def _true_labels(spec: MultilabelSpec, truth: NDArray[Any]) -> View:
    texts = [
        f"{title}: {', '.join(name for name, it_is in zip(spec.labels, chosen, strict=True) if it_is) or 'none'}"
        for title, chosen in (("yes", truth == 1), ("no", truth == 0), ("not known", np.isnan(truth)))
        if title == "yes" or chosen.any()
    ]
    return View(lines=tuple(map(Line, texts)))


@describe_truth.register
def _true_numbers(spec: RegressionSpec, truth: NDArray[Any]) -> View:
    texts = [
        f"{name}: ?" if np.isnan(value) else f"{name}: {value:.4g} {unit}".strip()
        for name, unit, value in zip(spec.quantities, spec.units, truth, strict=True)
    ]
    return View(lines=tuple(map(Line, texts[:MOST_LINES])))


@describe_truth.register
def _true_mask(spec: MaskSpec, truth: NDArray[Any]) -> View:
    classes = dict(enumerate(spec.classes))
    if (truth == IGNORE_INDEX).any():
        classes[IGNORE_INDEX] = "not labelled"
    return View(truth=MaskLayer(truth), classes=classes)


@describe_truth.register
def _true_boxes(spec: BoxSpec, truth: BoxArrays) -> View:
    layer = BoxLayer(truth.boxes, truth.labels)
    return View(lines=(Line(f"boxes: {len(truth.boxes)}"),), truth=layer, classes=dict(enumerate(spec.classes)))
