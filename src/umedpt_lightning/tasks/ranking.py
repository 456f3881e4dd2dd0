"""AUROC and average precision of several labels, where some labels are unknown and some never seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat


class Ranking(Metric):
    """Area under the ROC curve and average precision, label by label.

    torchmetrics counts a class that has no positive sample as an area of 0, and raises where all of a label's values
    are unknown. Here such a label is NaN, and the mean is over the others. Exact: every score is kept, in float32.

    Args:
        labels: Number of labels.
    """

    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = labels
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
        """AUROC and average precision, ``(2, L)``, NaN where there are not both a positive and a negative."""
        areas = torch.full((2, self.labels), torch.nan, device=self.device)
        if not len(self.scores):
            return areas
        scores, targets = (dim_zero_cat(state).view(-1, self.labels) for state in (self.scores, self.targets))
        for label in range(self.labels):
            known = ~targets[:, label].isnan()
            score, target = scores[known, label], targets[known, label].int()
            if 0 < target.sum() < len(target):
                areas[0, label] = binary_auroc(score, target)
                areas[1, label] = binary_average_precision(score, target)
        return areas
