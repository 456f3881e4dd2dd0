"""What a user may give as an image, and how images become batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.inference.resize import resize

Image = NDArray[Any] | Tensor
Size = tuple[int, int]


def read(image: Image, channels: int, name: str) -> Tensor:
    """An image as a tensor ``(C, H, W)`` in its own dtype.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``.
        channels: How many it must have.
        name: What a message calls it.

    Raises:
        ValueError: It is not of that form, or holds no numbers.
    """
    if isinstance(image, np.ndarray) and (image.dtype.kind not in "uif" or image.dtype.itemsize > 8):
        raise ValueError(f"{name} is an array of {image.dtype}. Give stored intensities, integers or floats.")
    try:
        # a copy where torch cannot look at the array as it is, or may not write to it
        tensor = torch.as_tensor(np.require(image, requirements=["C", "W"]) if isinstance(image, np.ndarray) else image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is a {type(image).__name__}. Give an array (H, W) or (H, W, C).") from error
    tensor = tensor[..., None] if tensor.ndim == 2 else tensor
    if tensor.ndim != 3 or not tensor.numel() or tensor.shape[2] != channels:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}. This task takes {'(H, W) or ' if channels == 1 else ''}"
            f"(H, W, {channels}), at least one pixel."
        )
    if tensor.dtype in (torch.uint32, torch.uint64):  # torch cannot calculate with them
        tensor = tensor.to(torch.float64)
    return tensor.permute(2, 0, 1)


def stacks(images: Sequence[Tensor], size: Size | None, most: int) -> Iterator[tuple[Tensor, list[Size]]]:
    """Batches of neighbours of one size and dtype.

    Args:
        images: ``(C, H, W)`` each.
        size: Height and width that they are resized to; None keeps them.
        most: Images in a batch.

    Yields:
        A batch ``(B, C, H', W')``, and height and width of each image before it was resized.

    Raises:
        ValueError: There is no image, or `most` is not positive.
    """
    if not images or most < 1:
        raise ValueError(f"There must be at least one image and batch_size 1, but there are {len(images)} and {most}.")
    batch: list[Tensor] = []
    sizes: list[Size] = []
    for image in images:
        resized = image if size is None else resize(image, size)
        if batch and (len(batch) == most or (resized.shape, resized.dtype) != (batch[0].shape, batch[0].dtype)):
            yield torch.stack(batch), sizes
            batch, sizes = [], []
        batch.append(resized)
        sizes.append((image.shape[1], image.shape[2]))
    yield torch.stack(batch), sizes
