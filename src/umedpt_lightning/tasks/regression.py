"""One or several numbers an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.tasks.base import FeatureWidths, Task, as_float, finite_or_wrong
from umedpt_lightning.types import BatchTargets, RegressionSpec

_WRONG_BY = 10.0  # standard deviations; there is no number that is as wrong as can be


class Regression(Task):
    """A linear layer on the embedding with the squared error of standardised numbers; unknown (NaN) ones do not count.

    Inside, numbers are standardised with mean and standard deviation of the training part, so that a head that always
    says the mean has a loss of 1. Predictions and MAE are in the units of the data.

    Metrics: ``r2`` (mean over the quantities), ``mae_<quantity>`` in its unit, and ``r2_<quantity>`` of several.

    Args:
        spec: Quantities, units, means and standard deviations.
        widths: Channels of the shared features.

    Raises:
        ValueError: The reader gives no means and standard deviations.
    """

    needs = "embedding"
    main_metric = "r2"
    counts_not_finite = True
    lower_is_better = ("mae",)
    linear_family = "numbers"
    spec: RegressionSpec
    means: Tensor
    stds: Tensor

    def __init__(self, spec: RegressionSpec, widths: FeatureWidths) -> None:
        super().__init__()
        if not spec.means or not spec.stds:
            raise ValueError("Regression needs a reader that gives means and standard deviations in its spec.")
        self.spec = spec
        self.head = nn.Linear(widths.embedding, len(spec.quantities))
        # part of the state: predictions in units need the numbers of the set the head was trained on
        self.register_buffer("means", torch.tensor(spec.means))  # (Q,)
        self.register_buffer("stds", torch.tensor([s if s > 0 else 1.0 for s in spec.stds]))  # (Q,)

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``mae`` and ``r2``, one a quantity each."""
        from torchmetrics import MeanAbsoluteError

        from umedpt_lightning.tasks.explained import Explained

        return {
            "mae": nn.ModuleList(MeanAbsoluteError() for _ in self.spec.quantities),
            "r2": nn.ModuleList(Explained(1) for _ in self.spec.quantities),
        }

    def forward(self, features: Tensor) -> Tensor:
        """Standardised numbers ``(B, Q)`` for an embedding ``(B, D)``."""
        numbers: Tensor = self.head(features)
        return numbers

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over the known of ``(B, Q)``, in standard deviations; 0 where none is known."""
        known = ~targets.isnan()
        errors = as_float(output) - self._standardise(targets.nan_to_num())
        return (errors.square() * known).sum() / known.sum().clamp_min(1)

    def known(self, targets: Tensor) -> Tensor:
        """As `Task.known`."""
        return (~targets.isnan()).sum()

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds standardised numbers ``(B, Q)`` and targets ``(B, Q)`` in units.

        Numbers that are not finite count as ten standard deviations off.
        """
        standardised = self._standardise(targets)
        output = finite_or_wrong(output, standardised + _WRONG_BY)
        for quantity, (mae, r2) in enumerate(zip(self.metrics.mae, self.metrics.r2, strict=True)):
            known = ~targets[:, quantity].isnan()
            if known.any():
                said, true = output[known, quantity].float(), standardised[known, quantity]
                mae.update(said, true)
                r2.update(said[:, None], true[:, None])

    def compute(self) -> dict[str, Tensor]:
        """``r2``, ``mae_<quantity>``, and ``r2_<quantity>`` where there are several."""
        metrics: dict[str, Tensor] = {}
        scores = []
        for name, std, mae, r2 in zip(self.spec.quantities, self.stds, *self.metrics.values(), strict=True):
            metrics[f"mae_{name}"] = mae.compute() * std
            scores.append(r2.compute())
        if len(scores) > 1:
            metrics |= {f"r2_{name}": score for name, score in zip(self.spec.quantities, scores, strict=True)}
        return {"r2": torch.stack(scores).nanmean(), **metrics}

    def predict(self, output: Tensor) -> Tensor:
        """Numbers in units, ``(B, Q)``."""
        return output.float() * self.stds + self.means

    def baseline(self, targets: BatchTargets) -> Tensor:
        """The means of the training part, ``(B, Q)`` zeros."""
        return torch.zeros(len(targets), len(self.spec.quantities), device=self.device)

    def linear_targets(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Standardised numbers, as the head gives them."""
        numbers: NDArray[np.float64] = (targets - self.means.double().cpu().numpy()) / self.stds.double().cpu().numpy()
        return numbers

    def _standardise(self, numbers: Tensor) -> Tensor:
        return (numbers.float() - self.means) / self.stds
