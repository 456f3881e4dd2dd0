"""Cross-entropy of classes, those of images as those of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from umedpt_lightning.tasks.base import as_float
from umedpt_lightning.types import IGNORE_INDEX

#: So many times what the least counts counts the most where weights are balanced: one sample of a class that is a
#: thousand times rarer than another must not be all that a head learns from.
MOST_WEIGHT = 100.0


def cross_entropy(output: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Cross-entropy over ln K, which is 1 for a guess: the weighted mean, a scalar in float32 at least.

    As torch's, but where all is to be ignored it is 0, and torch's would be NaN. And where the true classes weigh
    little beside what smoothing adds of the others, it is divided by the weight of that: torch's would be as large as
    one weight over another, and infinite for a class of weight 0. To look whether there is something would have a GPU
    wait in every micro-batch; a sum and a division do not.

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
    counted = (known if weights is None else known * weights[targets.where(known, 0)]).sum(dtype=output.dtype)
    if weights is not None:
        counted = torch.maximum(counted, smoothing * known.sum() * weights.to(output.dtype).mean())
    return total / counted.clamp_min(torch.finfo(output.dtype).tiny) / math.log(max(2, output.shape[1]))


def checked_smoothing(smoothing: float) -> float:
    """The smoothing of labels from a config; raises ValueError where it is no share."""
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be 0 to 1, but it is {smoothing}. Write 0.1 for a tenth.")
    return smoothing


def checked_weights(weights: Sequence[float], classes: int) -> Tensor:
    """Weights of classes from a config, ``(K,)``.

    Raises:
        ValueError: There is not one a class, one is negative or not finite, or all are 0.
    """
    if isinstance(weights, str):
        raise ValueError(f"class_weights is {weights!r}, but it must be a list of {classes} numbers.")
    if len(weights) != classes:
        raise ValueError(f"class_weights has {len(weights)} numbers, but there are {classes} classes.")
    found = torch.tensor([float(w) for w in weights])
    if not (found.isfinite() & (found >= 0)).all() or not found.any():
        raise ValueError(f"class_weights must be 0 or more, and one of them more than 0, but it is {list(weights)}.")
    return found


def bounded(weights: Tensor) -> Tensor:
    """Balanced weights, none of which is more than `MOST_WEIGHT` times the smallest."""
    return weights.clamp_max(MOST_WEIGHT * weights.min())
