"""Images with what is predicted drawn over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.drawing.layout import PALE, below, beside, pad, text_block
from umedpt_lightning.drawing.pictures import draw_boxes, draw_legend, overlay, to_rgb
from umedpt_lightning.drawing.views import MOST_LINES, BoxLayer, Line, MaskLayer, View
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec

#: Longer side of what is drawn, pixels; smaller images are enlarged by a whole factor to about _READABLE.
LARGEST, _READABLE = 1600, 480
_GAP, _TEXT_SIZE = 8, 13


@singledispatch
def described(spec: TaskSpec, prediction: Any) -> View:
    """What is drawn of one prediction; a new label type registers its own function.

    Args:
        spec: Says which label type it is, and the names.
        prediction: As numpy.

    Raises:
        TypeError: The label type is not registered.
    """
    raise TypeError(f"It is not known how to draw predictions with {type(spec).__name__}.")


@described.register
def _(spec: ClassSpec, prediction: NDArray[Any]) -> View:
    return View(tuple(Line(f"{spec.classes[i]} {prediction[i]:.3f}") for i in np.argsort(-prediction)[:MOST_LINES]))


@described.register
def _(spec: MultilabelSpec, prediction: NDArray[Any]) -> View:
    return View(tuple(Line(f"{spec.labels[i]} {prediction[i]:.3f}") for i in np.argsort(-prediction)[:MOST_LINES]))


@described.register
def _(spec: RegressionSpec, prediction: NDArray[Any]) -> View:
    named = zip(spec.quantities, prediction, spec.units, strict=True)
    return View(tuple(Line(f"{name}: {value:.4g} {unit}".strip()) for name, value, unit in named)[:MOST_LINES])


@described.register
def _(spec: MaskSpec, prediction: NDArray[Any]) -> View:
    return View(prediction=MaskLayer(prediction), classes=dict(enumerate(spec.classes)))


@described.register
def _(spec: BoxSpec, prediction: Any) -> View:
    layer = BoxLayer(*(np.asarray(part) for part in (prediction.boxes, prediction.labels, prediction.scores)))
    counts = np.bincount(layer.labels, minlength=len(spec.classes))
    text = ", ".join(f"{count} {name}" for count, name in zip(counts, spec.classes, strict=True))
    return View((Line(text),), prediction=layer, classes=dict(enumerate(spec.classes)))


def picture(image: NDArray[Any], spec: TaskSpec, prediction: Any, name: str) -> Image.Image:
    """One image with its prediction, the name and the colours of the classes.

    Args:
        image: ``(H, W, C)`` as stored; may be a thumbnail, of which a mask is too.
        spec: Of the task.
        prediction: Of the image, as numpy.
        name: What it is called.
    """
    view = described(spec, prediction)
    shown = drawn(image, spec, view)
    classes = {i: c for i, c in view.classes.items() if i or isinstance(view.prediction, BoxLayer)}
    texts = [text_block([Line(name)], max(shown.width, _READABLE), _TEXT_SIZE, PALE)]
    texts += [text_block(view.lines, max(shown.width, _READABLE), _TEXT_SIZE)] if view.lines else []
    texts += [draw_legend(classes, max(shown.width, _READABLE))] if classes else []
    return pad(below([shown, *texts], _GAP), _GAP)


def strip(pictures: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Many pictures in rows."""
    return below([beside(pictures[i : i + columns], _GAP) for i in range(0, len(pictures), columns)], _GAP)


def drawn(image: NDArray[Any], spec: TaskSpec, view: View) -> Image.Image:
    """The image with a mask or boxes over it, as large as can be read."""
    pixels = to_rgb(image.transpose(2, 0, 1), spec.value_range)
    if isinstance(view.prediction, MaskLayer):
        pixels = overlay(pixels, view.prediction.values)
    longest = max(pixels.shape[:2])
    scale = LARGEST / longest if longest > LARGEST else max(1, round(_READABLE / longest))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    shown = Image.fromarray(pixels).resize(size, method)
    if isinstance(view.prediction, BoxLayer):
        draw_boxes(shown, view.prediction, scale, view.classes)
    return shown


def every(size: tuple[int, int]) -> int:
    """Of an image of that height and width, every so many-th pixel is enough to draw it."""
    return max(1, max(size) // (2 * LARGEST))
