"""What the page shows of a prediction, for every label type."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from torch import Tensor

from umedpt_lightning.drawing.views import BoxLayer, Layer, MaskLayer
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec


@dataclass(frozen=True)
class Bar:
    """A probability.

    Attributes:
        name: Of what.
        probability: 0 to 1.
        stands_out: Whether it is the answer: the likeliest class, or a label that is likelier than not.
    """

    name: str
    probability: float
    stands_out: bool


@dataclass(frozen=True)
class Number:
    """A number with its unit."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Entry:
    """A line of a legend.

    Attributes:
        index: The class, which has a colour.
        name: Its name.
        amount: How much of it there is.
    """

    index: int
    name: str
    amount: str


@dataclass(frozen=True)
class Answer:
    """What is shown of one prediction.

    Attributes:
        bars: Probabilities.
        numbers: Numbers.
        legend: The classes of the layer.
        layer: What is drawn over the image.
        notes: What else the user should know.
    """

    bars: tuple[Bar, ...] = ()
    numbers: tuple[Number, ...] = ()
    legend: tuple[Entry, ...] = ()
    layer: Layer | None = None
    notes: tuple[str, ...] = field(default=())


def kind_of(spec: TaskSpec) -> str:
    """What a task gives, in a few words."""
    match spec:
        case ClassSpec():
            return f"one of {len(spec.classes)} classes"
        case MultilabelSpec():
            return "labels, yes or no" if len(spec.labels) > 1 else "a label, yes or no"
        case RegressionSpec():
            return "numbers" if len(spec.quantities) > 1 else "a number"
        case MaskSpec():
            return "areas"
        case BoxSpec():
            return "boxes"
        case _:
            return ""


def to_numpy(prediction: Any) -> Any:
    """One item of what `MultiTaskModel.predict` returns, with arrays for tensors.

    Raises:
        ValueError: It holds numbers that are not finite.
    """
    if is_dataclass(prediction) and not isinstance(prediction, type):
        return type(prediction)(**{f.name: to_numpy(getattr(prediction, f.name)) for f in fields(prediction)})
    array = prediction.cpu().numpy() if isinstance(prediction, Tensor) else np.asarray(prediction)
    if not np.isfinite(array).all():
        raise ValueError("The model's answer is not a number (NaN or infinite). Are its weights whole?")
    return array


@singledispatch
def answer(spec: TaskSpec, prediction: Any, least_score: float) -> Answer:
    """What a label type shows of a prediction; a new one registers its function here.

    Args:
        spec: Says which label type it is, and the names.
        prediction: See `to_numpy`.
        least_score: Boxes with a lower score are left out.

    Raises:
        TypeError: The label type is not registered.
    """
    raise TypeError(
        f"Predictions for {type(spec).__name__} cannot be shown: register a function for it with @answer.register."
    )


@answer.register
def _class(spec: ClassSpec, prediction: Any, least_score: float) -> Answer:
    order = np.argsort(-prediction, kind="stable")
    return Answer(bars=tuple(Bar(spec.classes[i], float(prediction[i]), i == order[0]) for i in order))


@answer.register
def _labels(spec: MultilabelSpec, prediction: Any, least_score: float) -> Answer:
    pairs = zip(spec.labels, prediction, strict=True)
    return Answer(bars=tuple(Bar(name, float(probability), probability >= 0.5) for name, probability in pairs))


@answer.register
def _numbers(spec: RegressionSpec, prediction: Any, least_score: float) -> Answer:
    triples = zip(spec.quantities, prediction, spec.units, strict=True)
    return Answer(numbers=tuple(Number(name, float(value), unit) for name, value, unit in triples))


@answer.register
def _mask(spec: MaskSpec, prediction: Any, least_score: float) -> Answer:
    counts = np.bincount(prediction.ravel(), minlength=len(spec.classes))
    share = counts / prediction.size
    legend = [
        Entry(i, name, f"{share[i]:.1%} of the image, {counts[i]} px")
        for i, name in enumerate(spec.classes)
        if i != 0  # the background is not drawn
    ]
    notes = () if counts[1:].any() else ("Nothing but background was found.",)
    return Answer(legend=tuple(legend), layer=MaskLayer(prediction), notes=notes)


@answer.register
def _boxes(spec: BoxSpec, prediction: Any, least_score: float) -> Answer:
    best = np.argsort(-prediction.scores, kind="stable")
    shown = best[prediction.scores[best] >= least_score]
    labels = prediction.labels[shown]
    legend = [Entry(i, name, str(int((labels == i).sum()))) for i, name in enumerate(spec.classes)]
    notes = []
    left_out = prediction.scores[best[len(shown) :]]
    if len(left_out):
        notes.append(f"{len(left_out)} fainter left out, with scores up to {left_out[0]:.2f}.")
    elif not len(shown):
        notes.append("No box was found.")
    layer = BoxLayer(prediction.boxes[shown], labels, prediction.scores[shown])
    return Answer(legend=tuple(legend), layer=layer, notes=tuple(notes))
