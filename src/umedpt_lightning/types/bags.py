"""The images of several bags, in the place of a tensor of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.io.arrays import as_tensor


@dataclass
class Bags:
    """The images of the bags of a micro-batch.

    Attributes:
        images: ``(N, C, H, W)``, those of the first bag first.
        sizes: How many each bag has.
        positions: ``(N, 2)`` float32, where each lies in its bag, see `shares`; None where nothing is known.
    """

    images: Tensor
    sizes: list[int]
    positions: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Of all images."""
        return self.images.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the images."""
        return self.images.dtype

    @property
    def device(self) -> torch.device:
        """Of the images."""
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Of the images."""
        return self.images.nbytes

    def __len__(self) -> int:
        """Number of bags."""
        return len(self.sizes)

    def __getitem__(self, index: int) -> Bags:
        """One bag."""
        first = sum(self.sizes[:index])
        mine = slice(first, first + self.sizes[index])
        positions = None if self.positions is None else self.positions[mine]
        return Bags(self.images[mine], [self.sizes[index]], positions)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Bags:
        """The same on `device`."""
        positions = None if self.positions is None else self.positions.to(device, non_blocking=non_blocking)
        return Bags(self.images.to(device, non_blocking=non_blocking), self.sizes, positions)


def shares(places: NDArray[Any]) -> NDArray[np.float32]:
    """Places ``(N, 2)`` in the images of one bag, as shares of the way from its first to its last, 0 to 1 each."""
    low, high = places.min(axis=0), places.max(axis=0)
    found: NDArray[np.float32] = ((places - low) / np.where(high > low, high - low, 1)).astype(np.float32)
    return found


def named_images(images: Sequence[Any], bags: bool) -> tuple[dict[str, Any], list[int] | None]:
    """Images by what messages call them, and how many each bag has; None where they are single ones.

    Raises ValueError for a single image, or a single bag, that is given without a list.
    """
    _check_depth(images, "images", 2 if bags else 1)
    named = {f"images[{i}]": image for i, image in enumerate(images)}
    if not bags:
        return named, None
    for name, bag in named.items():
        _check_depth(bag, name, 1)
    return (
        {f"{name}[{i}]": image for name, bag in named.items() for i, image in enumerate(bag)},
        [len(bag) for bag in images],
    )


def _check_depth(given: Any, name: str, outer: int) -> None:
    """Holds that what an array has behind its `outer` dimensions are images: each would be read as rows otherwise."""
    shape = tuple(getattr(given, "shape", ()))
    inner = shape[outer:]
    if shape and (len(inner) < 2 or (len(inner) == 2 and inner[-1] in (1, 3, 4))):
        what = "a list of bags" if outer == 2 else "a list of images"
        raise ValueError(f"{name} is an array {shape}, in place of {what}. Put a single one into a list.")


def one_by_one(images: Sequence[NDArray[Any]], counts: Sequence[int], in_order: bool) -> Iterator[tuple[int, Bags]]:
    """One bag after the other, with its number.

    Args:
        images: ``(H, W, C)`` each, those of the first bag first.
        counts: How many each bag has.
        in_order: Whether they lie in it in their order; else nothing is known of where they lie.

    Raises:
        ValueError: A bag has none, or images of several sizes or depths.
    """
    start = 0
    for number, count in enumerate(counts):
        bag = images[start : start + count]
        start += count
        if not bag:
            raise ValueError(f"images[{number}] is a bag without images. Leave it out.")
        if len({(image.shape, image.dtype) for image in bag}) > 1:
            raise ValueError(f"images[{number}] is a bag of images of several sizes or depths. Give them one.")
        positions = torch.from_numpy(shares(np.stack([np.arange(count), np.zeros(count)], axis=1)))
        yield number, Bags(as_tensor(bag), [count], positions if in_order else None)
