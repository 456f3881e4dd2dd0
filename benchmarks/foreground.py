"""A head for masks whose Dice loss leaves the background out, as docs/results/together.md compares it."""

from __future__ import annotations

from torch import Tensor

from umedpt_lightning.tasks import Segmentation
from umedpt_lightning.tasks.base import as_float
from umedpt_lightning.tasks.cross_entropy import cross_entropy
from umedpt_lightning.tasks.dice import dice_loss
from umedpt_lightning.types import IGNORE_INDEX


class ForegroundDice(Segmentation):
    """As its base, but for the loss."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over ln K, averaged with the mean Dice loss of all classes but the first."""
        output, targets = as_float(output), targets.long()
        entropy = cross_entropy(output, targets, self.class_weights, self.label_smoothing)
        classes, there = output.shape[1], targets == 0
        shares = output.softmax(dim=1)[:, 0]
        known = targets != IGNORE_INDEX
        background = 2 * (shares * there).sum() / ((shares * known).sum() + there.sum()).clamp_min(1e-7)
        of_all = dice_loss(output, targets) * classes
        return (entropy + (of_all - (1 - background) * there.any()) / (classes - 1)) / 2
