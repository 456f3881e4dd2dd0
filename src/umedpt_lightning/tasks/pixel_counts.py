"""Counts of pixels by their true and their predicted class, from which Dice and IoU follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from umedpt_lightning.types import IGNORE_INDEX

# So many pixels are counted at a time: their indices take 8 bytes each.
_AT_ONCE = 2**22


class PixelCounts(Metric):
    """The confusion matrix of all pixels.

    Args:
        classes: How many there are.
    """

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mask: Tensor, truth: Tensor, finite: Tensor) -> None:
        """Adds one image; arguments as for `count_pixels`."""
        self.counts += count_pixels(mask, truth, finite, self.classes)

    def compute(self) -> Tensor:
        """``(K, K)``, rows are the truth."""
        return self.counts


def count_pixels(mask: Tensor, truth: Tensor, finite: Tensor, classes: int) -> Tensor:
    """The confusion matrix of one image, ``(K, K)`` int64, rows are the truth.

    Args:
        mask: Predicted classes ``(H, W)``.
        truth: True classes ``(H, W)``; `IGNORE_INDEX` does not count.
        finite: ``()`` bool, whether the prediction comes of numbers that are finite. Else it counts as wrong at every
            pixel, as if it were the next class.
        classes: Number of classes ``K``.
    """
    counts = torch.zeros(classes**2 + 1, dtype=torch.int64, device=mask.device)
    for said, true in zip(*(torch.split(m.flatten(), _AT_ONCE) for m in (mask, truth)), strict=True):
        row = true.long()
        column = said.long().where(finite, (row + 1) % classes)
        pairs = (row * classes + column).where(row != IGNORE_INDEX, classes**2)
        counts += pairs.bincount(minlength=len(counts))
    return counts[:-1].view(classes, classes)


def overlap(confusion: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """How far predicted and true pixels overlap.

    Args:
        confusion: ``(K, K)`` counts of pixels, rows are the truth.
        classes: Their names, the background first.

    Returns:
        ``dice`` and ``iou``, means over the classes but the background, and both for every class.
    """
    counts = confusion.double()
    hits = counts.diagonal()
    truth, predicted = counts.sum(1), counts.sum(0)
    dice = (2 * hits / (truth + predicted)).float()  # 0 / 0 is NaN: neither there nor predicted
    iou = (hits / (truth + predicted - hits)).float()
    first = 1 if len(classes) > 1 else 0
    metrics = {"dice": dice[first:].nanmean(), "iou": iou[first:].nanmean()}
    for index, name in enumerate(classes[first:], start=first):
        metrics |= {f"dice_{name}": dice[index], f"iou_{name}": iou[index]}
    return metrics
