"""Any number of labels an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.tasks.base import CERTAIN, FeatureWidths, Task, as_float, finite_or_wrong
from umedpt_lightning.tasks.cross_entropy import MOST_WEIGHT
from umedpt_lightning.types import BatchTargets, MultilabelSpec


class MultilabelClassification(Task):
    """A linear layer on the embedding with binary cross-entropy; unknown (NaN) labels do not count.

    Metrics: ``auroc`` and ``ap`` (means over the labels seen both ways), and both for every label.

    Args:
        spec: Label names and counts.
        widths: Channels of the shared features.
        positive_weights: A weight of the positives a label, or ``balanced`` for negatives over positives in the
            training part, at most 100.

    Raises:
        ValueError: Not one weight a label, a negative one, or ``balanced`` where the reader gives no counts.
    """

    needs = "embedding"
    main_metric = "auroc"
    counts_not_finite = True
    linear_family = "labels"
    spec: MultilabelSpec
    positive_weights: Tensor | None

    def __init__(
        self,
        spec: MultilabelSpec,
        widths: FeatureWidths,
        positive_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.Linear(widths.embedding, len(spec.labels))
        self.register_buffer("positive_weights", _weights(spec, positive_weights), persistent=False)

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``ranking``."""
        from umedpt_lightning.tasks.ranking import Ranking, area_under_roc, average_precision

        return {"ranking": Ranking(len(self.spec.labels), area_under_roc, average_precision)}

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, L)`` for an embedding ``(B, D)``."""
        logits: Tensor = self.head(features)
        return logits

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy over ln 2, mean over the known of ``(B, L)``; 0 where none is known."""
        output, known = as_float(output), ~targets.isnan()
        losses = F.binary_cross_entropy_with_logits(
            output, targets.nan_to_num().to(output.dtype), pos_weight=self.positive_weights, reduction="none"
        )
        return (losses * known).sum() / known.sum().clamp_min(1) / math.log(2)

    def known(self, targets: Tensor) -> Tensor:
        """As `Task.known`."""
        return (~targets.isnan()).sum()

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds logits ``(B, L)`` and targets ``(B, L)`` of 0, 1 and NaN; what is not finite counts as the opposite."""
        output = finite_or_wrong(output, (0.5 - targets.nan_to_num()) * 2 * CERTAIN)
        self.metrics.ranking.update(output, targets)  # logits rank as probabilities do, and do not saturate

    def compute(self) -> dict[str, Tensor]:
        """``auroc``, ``ap``, ``auroc_<label>``, ``ap_<label>``."""
        areas, precisions = self.metrics.ranking.compute()
        by_label = {f"auroc_{name}": area for name, area in zip(self.spec.labels, areas, strict=True)}
        by_label |= {f"ap_{name}": area for name, area in zip(self.spec.labels, precisions, strict=True)}
        return {"auroc": areas.nanmean(), "ap": precisions.nanmean(), **by_label}

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities ``(B, L)``."""
        return output.float().sigmoid()

    def baseline(self, targets: BatchTargets) -> Tensor:
        """The label frequencies of the training part as logits, ``(B, L)``."""
        shares = torch.full((len(self.spec.labels),), 0.5)
        if self.spec.counts:
            shares = torch.tensor(self.spec.counts) / torch.tensor(self.spec.known).clamp_min(1)
        return shares.to(self.device).logit(eps=1e-6).expand(len(targets), -1)

    def linear_weights(self) -> NDArray[np.float64] | None:
        """Those of the positives of each label."""
        return None if self.positive_weights is None else self.positive_weights.double().cpu().numpy()


def _weights(spec: MultilabelSpec, weights: Literal["balanced"] | Sequence[float] | None) -> Tensor | None:
    if weights is None:
        return None
    if weights == "balanced":
        if not spec.counts:
            raise ValueError(
                "positive_weights: balanced needs a reader that counts its labels; give a list of weights."
            )
        positives = torch.tensor(spec.counts, dtype=torch.float32)
        negatives = torch.tensor(spec.known) - positives
        return (negatives.clamp_min(1) / positives.clamp_min(1)).clamp_max(MOST_WEIGHT)
    if len(weights) != len(spec.labels):
        raise ValueError(f"positive_weights has {len(weights)} numbers, but there are {len(spec.labels)} labels.")
    found = torch.tensor([float(w) for w in weights])
    if not (found.isfinite() & (found >= 0)).all():
        raise ValueError(f"positive_weights must be 0 or more, but it is {list(weights)}.")
    return found
