"""Areas under curves of several labels, where some labels are unknown and some never seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

#: The area under a curve, from true and false positives ``(T,)`` float64 at falling thresholds, the last of which
#: takes all.
Area = Callable[[Tensor, Tensor], Tensor]


def area_under_roc(hits: Tensor, false: Tensor) -> Tensor:
    """The share of pairs of a positive and a negative in the right order, a tie counting one half."""
    start = hits.new_zeros(1)
    return torch.trapezoid(torch.cat([start, hits]), torch.cat([start, false])) / (hits[-1] * false[-1])


def average_precision(hits: Tensor, false: Tensor) -> Tensor:
    """The sum over thresholds of precision times the step in recall."""
    return (hits / (hits + false) * hits.diff(prepend=hits.new_zeros(1))).sum() / hits[-1]


def log_odds(logits: Tensor) -> Tensor:
    """Logarithms of the odds of each class against all others, in float64.

    They rank samples as the softmax does where it saturates too: in float32 it is 1 from a difference of 17 on.

    Args:
        logits: ``(B, K)``.
    """
    logits = logits.double()
    ordered = logits.sort(dim=1, descending=True).values  # equal numbers in another order give equal sums
    top, rest = ordered[:, :1], ordered[:, 1:].logsumexp(dim=1, keepdim=True)
    shares = (rest - top).exp() - (logits - top).exp()  # of the others but the top, which is 1
    return logits - torch.where(logits == top, rest, top + shares.clamp_min(0).log1p())


class Ranking(Metric):
    """Areas under curves of scores, such as the ROC curve, label by label.

    A label that has not both a positive and a negative sample is NaN, and the mean is over the others. Exact: every
    score is kept, in float64, and nothing is made of it but an order.

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
        # flat float32, since torchmetrics stands in for a rank that has seen nothing with an empty vector of that kind;
        # a number of float64 is two of them
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Adds a micro-batch.

        Args:
            scores: ``(B, L)`` float, higher for more likely.
            targets: ``(B, L)`` float, 0, 1 or NaN where unknown.
        """
        self.scores.append(scores.detach().double().flatten().view(torch.float32))
        self.targets.append(targets.float().flatten())

    def compute(self) -> Tensor:
        """``(areas, L)`` float32, a scalar if there is one; NaN where there are not both a positive and a negative."""
        found = torch.full((len(self.areas), self.labels), torch.nan, device=self.device)
        if not len(self.scores):
            return found
        scores = dim_zero_cat(self.scores).contiguous().view(torch.float64).view(-1, self.labels)
        targets = dim_zero_cat(self.targets).view(-1, self.labels)
        for label in range(self.labels):
            known = ~targets[:, label].isnan()
            score, positive = scores[known, label], targets[known, label].double()
            if 0 < positive.sum() < len(positive):
                counts = _counts(score, positive)
                found[:, label] = torch.stack([area(*counts) for area in self.areas]).float()
        return found


def _counts(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """True and false positives at each different score, falling, of ``(N,)`` scores and truths of 0 and 1."""
    scores, order = scores.sort(descending=True)
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    hits = positive[order].cumsum(0)
    taken = torch.arange(1, len(scores) + 1, dtype=hits.dtype, device=hits.device)
    return hits[last], (taken - hits)[last]
