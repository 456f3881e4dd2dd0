"""Resizing like that of the training data, in torch alone."""

from __future__ import annotations

import torch
from torch import Tensor


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image in another size: by area where a side shrinks, else bilinear, without antialiasing.

    The results are those of OpenCV's ``INTER_AREA`` and ``INTER_LINEAR``, which training resizes with, up to the
    rounding of integers. Both are weighted sums of rows, then of columns.

    Args:
        image: ``(C, H, W)`` of any dtype.
        size: Height and width wanted, pixels.

    Returns:
        ``(C, *size)`` in the dtype of the image.
    """
    old = (image.shape[1], image.shape[2])
    if old == size:
        return image
    shrinks = [new <= before for before, new in zip(old, size, strict=True)]
    kind = _area if all(shrinks) else _mixed if any(n < o for o, n in zip(old, size, strict=True)) else _linear
    rows, columns = (kind(before, new).to(image.device) for before, new in zip(old, size, strict=True))
    result = rows @ image.float() @ columns.T  # (C, H', W')
    if image.dtype.is_floating_point:
        return result.to(image.dtype)
    limits = torch.iinfo(image.dtype)
    return result.round().clamp(limits.min, limits.max).to(image.dtype)


def _area(old: int, new: int) -> Tensor:
    """Weights ``(new, old)``: the share of each old pixel in each new one."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    lower = torch.maximum(edges[:-1, None], pixels)
    upper = torch.minimum(edges[1:, None], pixels + 1)
    return ((upper - lower).clamp_min(0) * new / old).float()


def _linear(old: int, new: int) -> Tensor:
    """Weights ``(new, old)``: between the two old pixels nearest to the centre of each new one."""
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    return _between(centres.floor(), centres - centres.floor(), old)


def _mixed(old: int, new: int) -> Tensor:
    """Weights ``(new, old)`` of an area where only the other side shrinks; OpenCV has this variant of bilinear."""
    places = torch.arange(new, dtype=torch.float64)
    first = (places * old / new).floor()
    past = (places + 1) - (first + 1) * new / old
    return _between(first, torch.where(past <= 0, 0.0, past - past.floor()), old)


def _between(first: Tensor, share: Tensor, old: int) -> Tensor:
    """Weights ``(new, old)``: of a pixel and, with that share, of the next one; the border goes on outside."""
    weights = torch.zeros(len(first), old, dtype=torch.float64)
    for index, weight in ((first, 1 - share), (first + 1, share)):
        weights.scatter_add_(1, index.long().clamp(0, old - 1)[:, None], weight[:, None])
    return weights.float()
