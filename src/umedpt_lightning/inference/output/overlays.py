"""Images with what is predicted drawn over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.drawing.layout import PALE, below, beside, pad, text_block
from umedpt_lightning.drawing.pictures import draw_boxes, draw_legend, overlay, to_rgb
from umedpt_lightning.labels import BoxLayer, Line, MaskLayer, TaskSpec, View

#: Longer side of what is drawn, pixels; smaller images are enlarged by a whole factor to about _READABLE.
LARGEST, _READABLE = 1600, 480
_GAP, _TEXT_SIZE = 8, 13


def picture(image: NDArray[Any], spec: TaskSpec, prediction: Any, name: str) -> Image.Image:
    """One image ``(H, W, C)`` as stored with its prediction, the name and the colours of the classes.

    It may be a thumbnail, of which a mask is too; predictions have arrays for tensors.
    """
    view = spec.prediction_view(prediction)
    shown = drawn(image, spec, view)
    classes = {i: c for i, c in view.classes.items() if i or isinstance(view.prediction, BoxLayer)}
    texts = [text_block([Line(name)], max(shown.width, _READABLE), _TEXT_SIZE, PALE)]
    texts += [text_block(view.lines, max(shown.width, _READABLE), _TEXT_SIZE)] if view.lines else []
    texts += [draw_legend(classes, max(shown.width, _READABLE))] if classes else []
    return pad(below([shown, *texts], _GAP), _GAP)


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Many pictures in rows of four."""
    return below([beside(pictures[i : i + 4], _GAP) for i in range(0, len(pictures), 4)], _GAP)


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
