"""What a user may give as an image in Python, and how images become batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.io.resize import resize

Image = NDArray[Any] | Tensor
Size = tuple[int, int]
#: What networks, OpenCV and files have in common; other numbers become float32.
_DTYPES = (np.uint8, np.uint16, np.float32)
#: Floats from 0 or -1 to 1 have most likely been scaled where a task takes intensities that span so much.
_WIDE_RANGE = 50.0
#: What rounding may add to them.
_SCALED = 1.001
#: White of the deepest images.
_DEEPEST = 2.0**32


def as_image(image: Image, channels: int, name: str) -> NDArray[Any]:
    """An image ``(H, W)`` or ``(H, W, C)`` as an array ``(H, W, C)`` of uint8, uint16 or float32.

    Raises ValueError, which calls it `name`, where it is not of that form, has other channels, or holds no numbers.
    """
    if isinstance(image, Tensor):
        image = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{name} is a {type(image).__name__}. Give an array (H, W) or (H, W, C).")
    if image.dtype.kind not in "uif" or image.dtype.itemsize > 8:
        raise ValueError(f"{name} is an array of {image.dtype}. Give stored intensities, integers or floats.")
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim != 3 or not array.size or array.shape[2] != channels:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}. This task takes {'(H, W) or ' if channels == 1 else ''}"
            f"(H, W, {channels}), at least one pixel."
        )
    return array if array.dtype in _DTYPES else array.astype(np.float32)


def scale_warning(image: NDArray[Any], value_range: tuple[float, float], name: str) -> str:
    """A sentence where intensities are most likely of another scale than those that a task takes; else empty.

    Floats that have been scaled, and images of another depth.

    `value_range` are the intensities that the task takes.
    """
    low, high = value_range
    if high - low < _WIDE_RANGE:
        return ""
    least, most = float(image.min()), float(image.max())
    if ((low, high) == (0, 65535) and image.dtype == np.uint8) or (
        (low, high) == (0, 255) and 2 * high < most < _DEEPEST
    ):
        return (
            f"{name} holds {image.dtype} up to {most:g}, but the task was trained on intensities from {low:g} to "
            f"{high:g}. If it is of another depth, scale it so that its black and white are those of the task."
        )
    if image.dtype.kind != "f":
        return ""
    if not -_SCALED <= least < most <= _SCALED:
        return ""
    scale, unit = ("0..1", "image") if least > -_SCALED + 1 else ("-1..1", "(image + 1) / 2")
    return (
        f"{name} holds floats from {least:.3g} to {most:.3g}, but the task was trained on intensities from {low:g} to "
        f"{high:g}, of which these are hardly any. If it was scaled to {scale}, give it as it was stored, or "
        f"{unit} * {high - low:g}{f' + {low:g}' if low else ''}."
    )


def as_tensor(images: Sequence[NDArray[Any]]) -> Tensor:
    """Images ``(H, W, C)`` of one size and dtype as a batch ``(B, C, H, W)``."""
    height, width, channels = images[0].shape
    batch = np.empty((len(images), channels, height, width), images[0].dtype)
    return torch.from_numpy(np.stack([image.transpose(2, 0, 1) for image in images], out=batch))


def stacks(images: Sequence[NDArray[Any]], most: int) -> Iterator[tuple[int, Tensor]]:
    """Batches ``(B, C, H, W)`` of neighbours of one size and dtype, `most` at a time, and where each begins."""
    start = 0
    for stop in range(1, len(images) + 1):
        first, following = images[start], images[stop] if stop < len(images) else None
        alike = following is not None and (following.shape, following.dtype) == (first.shape, first.dtype)
        if not alike or stop - start == most:
            yield start, as_tensor(images[start:stop])
            start = stop


def resized(images: Sequence[NDArray[Any]], size: Size | None) -> list[NDArray[Any]]:
    """The images in another size; None keeps theirs."""
    return list(images) if size is None else [resize(image, size) for image in images]
