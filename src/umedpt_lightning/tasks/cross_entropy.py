"""Cross-entropy of classes, those of images as those of pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from umedpt_lightning.tasks.base import as_float
from umedpt_lightning.types import IGNORE_INDEX


def cross_entropy(output: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Cross-entropy over ln K, which is 1 for a guess: the weighted mean, a scalar in float32 at least.

    Where all is to be ignored it is 0, and torch's own mean would be NaN. To look whether there is something would have
    a GPU wait in every micro-batch; a sum and a division do not.

    Args:
        output: Logits ``(B, K)`` or ``(B, K, H, W)``.
        targets: Classes ``(B)`` or ``(B, H, W)`` int64; `IGNORE_INDEX` does not count.
        weights: A weight a class, ``(K,)``; None for 1 each.
        smoothing: Probability spread over all classes, 0 to 1.
    """
    output = as_float(output)
    total = F.cross_entropy(
        output, targets, weights, ignore_index=IGNORE_INDEX, label_smoothing=smoothing, reduction="sum"
    )
    known = targets != IGNORE_INDEX
    counted = known if weights is None else known * weights[targets.where(known, 0)]
    mean = total / counted.sum(dtype=output.dtype).clamp_min(torch.finfo(output.dtype).tiny)
    return mean / math.log(max(2, output.shape[1]))
