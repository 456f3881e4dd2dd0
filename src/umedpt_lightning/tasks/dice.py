"""Dice loss of classes, without a number for every pixel and class of the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from umedpt_lightning.types import IGNORE_INDEX

_LEAST = 1e-7  # keeps 0 / 0 away


def dice_loss(output: Tensor, targets: Tensor, first: int = 0) -> Tensor:
    """One less the Dice coefficient of probabilities and truth over all pixels of a micro-batch, mean over the classes.

    Milletari et al., V-Net, 3DV 2016, class by class; a class that is nowhere counts as 0, as in
    segmentation_models_pytorch. The truth of all classes at once is one bit a class and pixel (bool), where that of
    int64 takes twice the memory of the logits.

    Args:
        output: Logits ``(B, K, H, W)``, float32 at least.
        targets: Classes ``(B, H, W)``; `IGNORE_INDEX` does not count.
        first: The class from which on they count: 1 leaves the background out.
    """
    shares = output.softmax(dim=1)
    known = (targets != IGNORE_INDEX)[:, None]  # (B, 1, H, W)
    classes = torch.arange(output.shape[1], device=targets.device).view(-1, 1, 1)
    true = targets[:, None] == classes  # (B, K, H, W) bool
    everywhere = (0, 2, 3)
    size = true.sum(everywhere)  # (K,)
    shared = (shares * true).sum(everywhere)
    dice = 2 * shared / ((shares * known).sum(everywhere) + size).clamp_min(_LEAST)
    return ((1 - dice) * (size > 0))[first:].mean()
