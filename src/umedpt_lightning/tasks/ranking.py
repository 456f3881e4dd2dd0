"""Areas under curves of several labels, where some labels are unknown and some never seen."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


class Area(Protocol):
    """torchmetrics' `binary_auroc`, `binary_average_precision` and the like."""

    def __call__(self, preds: Tensor, target: Tensor, *, validate_args: bool) -> Tensor:
        """The area, a scalar, from scores and targets ``(N,)``."""


class Ranking(Metric):
    """Areas under curves of scores, such as the ROC curve, label by label.

    torchmetrics counts a class that has no positive sample as an area of 0, and raises where all of a label's values
    are unknown. Here such a label is NaN, and the mean is over the others. Exact: every score is kept, in float32.

    Args:
        labels: Number of labels.
        area: Which.
        others: And which more.
    """

    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, labels: int, area: Area, *others: Area) -> None:
        super().__init__()
        self.labels, self.areas = labels, (area, *others)
        # flat, since torchmetrics stands in for a rank that has seen nothing with an empty vector
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Adds a micro-batch.

        Args:
            scores: ``(B, L)`` float, higher for more likely.
            targets: ``(B, L)`` float, 0, 1 or NaN where unknown.
        """
        self.scores.append(scores.detach().float().flatten())
        self.targets.append(targets.float().flatten())

    def compute(self) -> Tensor:
        """``(areas, L)``, a scalar if there is one; NaN where there are not both a positive and a negative."""
        found = torch.full((len(self.areas), self.labels), torch.nan, device=self.device)
        if not len(self.scores):
            return found
        scores, targets = (dim_zero_cat(state).view(-1, self.labels) for state in (self.scores, self.targets))
        for label in range(self.labels):
            known = ~targets[:, label].isnan()
            score, target = scores[known, label], targets[known, label].int()
            if 0 < target.sum() < len(target):
                for number, area in enumerate(self.areas):  # the targets are known to be 0 and 1
                    found[number, label] = area(score, target, validate_args=False)
        return found
