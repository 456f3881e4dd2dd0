"""Images as they are stored, in the form that a task takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.predict.grid import Tiling
from umedpt_lightning.predict.look import Look
from umedpt_lightning.predict.tiled import TiledTask
from umedpt_lightning.predict.watch import Watch, unwatched
from umedpt_lightning.types import TaskSpec, to_numpy

#: The value ranges of whole images of integers.
FULL_RANGES = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65535.0)}


class ArrayPixels:
    """An image in memory, read by pieces.

    Args:
        image: ``(H, W, C)``.
        channels: That are wanted; grey is repeated and colour made grey piece by piece, as floats are large.
        name: What a message calls it.
    """

    def __init__(self, image: NDArray[Any], channels: int, name: str = "image") -> None:
        self.size = (image.shape[0], image.shape[1])
        self._image, self._channels, self._name = image, channels, name

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A piece ``(h, w, C)``."""
        return to_channels(self._image[rows, columns], self._channels, self._name)


def check_image(image: NDArray[Any], spec: TaskSpec, name: str) -> None:
    """Holds that a task can look at an image ``(H, W, C)``.

    Raises:
        ValueError: Its channels cannot become those of the task, or its integers have another range than the task was
            trained with.
    """
    usual = FULL_RANGES.get(image.dtype)
    if usual is not None and usual != spec.value_range and spec.value_range in FULL_RANGES.values():
        raise ValueError(
            f"{name}: the image is {image.dtype}, but the task was trained on values from "
            f"{spec.value_range[0]:g} to {spec.value_range[1]:g}. Save it with that depth."
        )
    to_channels(image[:1, :1], spec.channels, name)


def predict_images(
    model: MultiTaskModel,
    task: str,
    images: list[NDArray[Any]],
    look: Look,
    watch: Watch = unwatched,
) -> list[Any]:
    """One prediction an image, with arrays for tensors: large images tile by tile, others as `MultiTaskModel.predict`.

    Args:
        model: The model.
        task: The task's name.
        images: ``(H, W, C)`` each, grey, in colour, or with the task's channels.
        look: How.
        watch: Is told of every tile, and of what is learnt of the whole image before.
    """
    channels = model.task(task).spec.channels
    tilings = [look.tiling(model, task, (image.shape[0], image.shape[1])) for image in images]
    together = [
        to_channels(image, channels, "image") for image, tiling in zip(images, tilings, strict=True) if tiling is None
    ]
    found = iter(model.predict(together, task, look.batch_size) if together else [])

    def by_tiles(image: NDArray[Any], tiling: Tiling) -> Any:
        name = f"an image of {image.shape[1]}x{image.shape[0]}"
        return TiledTask(model, task, tiling, look.exact).predict(ArrayPixels(image, channels), watch=watch, name=name)

    return [
        to_numpy(next(found) if tiling is None else by_tiles(image, tiling))
        for image, tiling in zip(images, tilings, strict=True)
    ]
