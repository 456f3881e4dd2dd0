"""One class an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.tasks.base import CERTAIN, FeatureWidths, Task, finite_or_wrong
from umedpt_lightning.tasks.cross_entropy import bounded, checked_smoothing, checked_weights, cross_entropy
from umedpt_lightning.types import IGNORE_INDEX, BatchTargets, ClassSpec


class Classification(Task):
    """A linear layer on the embedding with cross-entropy.

    Metrics: ``auroc`` (one against the rest, mean over the classes seen), ``accuracy``, ``f1`` (macro).

    Args:
        spec: Class names and counts.
        widths: Channels of the shared features.
        class_weights: A weight a class, or ``balanced`` for inverse frequencies in the training part, the largest at
            most 100 times the smallest.
        label_smoothing: Probability spread over all classes, 0 to 1.

    Raises:
        ValueError: Not one weight a class, a negative one, ``balanced`` where the reader gives no counts, or a
            smoothing that is no share.
    """

    needs = "embedding"
    main_metric = "auroc"
    counts_not_finite = True
    linear_family = "classes"
    spec: ClassSpec
    class_weights: Tensor | None

    def __init__(
        self,
        spec: ClassSpec,
        widths: FeatureWidths,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.label_smoothing = checked_smoothing(label_smoothing)
        self.head = nn.Linear(widths.embedding, len(spec.classes))
        self.register_buffer("class_weights", _weights(spec, class_weights), persistent=False)

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``accuracy``, ``f1``, ``ranking``."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        from umedpt_lightning.tasks.ranking import Ranking, area_under_roc

        classes = max(2, len(self.spec.classes))  # as torchmetrics wants; one that never occurs changes nothing
        return {
            "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE_INDEX),
            "f1": MulticlassF1Score(classes, average="macro", ignore_index=IGNORE_INDEX),
            "ranking": Ranking(len(self.spec.classes), area_under_roc),
        }

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(B, K)`` for an embedding ``(B, D)``."""
        logits: Tensor = self.head(features)
        return logits

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over ln K of logits ``(B, K)`` and classes ``(B,)``; `IGNORE_INDEX` does not count."""
        return cross_entropy(output, targets, self.class_weights, self.label_smoothing)

    def known(self, targets: Tensor) -> Tensor:
        """As `Task.known`."""
        return (targets != IGNORE_INDEX).sum()

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds logits ``(B, K)`` and classes ``(B,)``; logits that are not finite count as those of the next class."""
        from umedpt_lightning.tasks.ranking import log_odds

        next_class = (targets[:, None] + 1) % output.shape[1] == torch.arange(output.shape[1], device=targets.device)
        output = finite_or_wrong(output, next_class * 2 * CERTAIN - CERTAIN)
        logits = F.pad(output.float(), (0, max(0, 2 - output.shape[1])), value=-torch.inf)
        self.metrics.accuracy.update(logits, targets)
        self.metrics.f1.update(logits, targets)
        known = targets != IGNORE_INDEX
        one_hot = F.one_hot(targets[known], output.shape[1])
        self.metrics.ranking.update(log_odds(output[known]), one_hot)

    def compute(self) -> dict[str, Tensor]:
        """``auroc``, ``accuracy``, ``f1``."""
        areas = self.metrics.ranking.compute()  # one a class
        others = {name: self.metrics[name].compute() for name in ("accuracy", "f1")}
        return {"auroc": areas.nanmean(), **others}

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities ``(B, K)``."""
        return output.float().softmax(dim=1)

    def baseline(self, targets: BatchTargets) -> Tensor:
        """The class frequencies of the training part as logits, ``(B, K)``."""
        counts = torch.tensor(self.spec.counts or [1] * len(self.spec.classes), dtype=torch.float32, device=self.device)
        return counts.clamp_min(1e-6).log().expand(len(targets), -1)

    def linear_weights(self) -> NDArray[np.float64] | None:
        """Those of the classes."""
        return None if self.class_weights is None else self.class_weights.double().cpu().numpy()

    def sample_scores(self, output: Tensor, targets: Tensor) -> NDArray[np.float64]:
        """The probability of the true class."""
        known = targets != IGNORE_INDEX
        stated = self.predict(output).gather(1, targets.where(known, 0)[:, None])[:, 0].double()
        return stated.where(known, torch.nan).cpu().numpy()


def _weights(spec: ClassSpec, weights: Literal["balanced"] | Sequence[float] | None) -> Tensor | None:
    if weights is None:
        return None
    if weights == "balanced":
        if not spec.counts:
            raise ValueError("class_weights: balanced needs a reader that counts its classes; give a list of weights.")
        counts = torch.tensor(spec.counts, dtype=torch.float32)
        return bounded(counts.sum() / (len(counts) * counts.clamp_min(1)))
    return checked_weights(weights, len(spec.classes))
