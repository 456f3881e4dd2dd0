"""The answer of the nearest neighbours, by the angle between embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: How much nearer neighbours count for more; Wu et al., 2018, doi:10.1109/CVPR.2018.00393.
TEMPERATURE = 0.07
_ROWS = 1024


@dataclass(frozen=True)
class Neighbours:
    """The weighted mean of the values of the nearest samples, those with unknown values left out.

    Attributes:
        features: ``(N, D)`` of the samples that are known.
        values: ``(N, K)`` one-hot classes, labels or numbers; NaN where unknown.
        k: How many neighbours are asked; all where there are fewer.
    """

    features: Array
    values: Array
    k: int

    def __call__(self, features: Array) -> Array:
        """``(M, K)`` for features ``(M, D)``; the mean of all samples where no neighbour's value is known."""
        known = ~np.isnan(self.values)
        values = np.nan_to_num(self.values)
        fallback = values.sum(0) / np.maximum(known.sum(0), 1)  # (K,)
        ours = _unit(self.features)
        answers = []
        for begin in range(0, len(features), _ROWS):
            cosines = _unit(features[begin : begin + _ROWS]) @ ours.T  # (M, N)
            nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : self.k]  # (M, k)
            weights = np.exp((np.take_along_axis(cosines, nearest, 1) - 1) / TEMPERATURE)[..., None]  # (M, k, 1)
            weights = weights * known[nearest]  # (M, k, K)
            total = weights.sum(1)
            answer = (weights * values[nearest]).sum(1) / np.where(total > 0, total, 1)
            answers.append(np.where(total > 0, answer, fallback))
        return np.concatenate(answers)


def _unit(features: Array) -> Array:
    lengths: Array = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Array = features / np.where(lengths > 0, lengths, 1)
    return unit
