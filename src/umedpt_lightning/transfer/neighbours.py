"""The vote of the nearest neighbours, by the angle between embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors

Array = NDArray[np.float64]

#: How much nearer neighbours count for more; Wu et al., 2018, doi:10.1109/CVPR.2018.00393.
TEMPERATURE = 0.07


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
        return next(votes(self.features, self.values, features, [self.k]))


def votes(ours: Array, values: Array, features: Array, ks: Sequence[int]) -> Iterator[Array]:
    """As `Neighbours` for several `k` in turn, which are looked for together.

    Args:
        ours: ``(N, D)`` as `Neighbours.features`.
        values: ``(N, K)`` as `Neighbours.values`.
        features: ``(M, D)``.
        ks: Numbers of neighbours.
    """
    known = ~np.isnan(values)
    values = np.nan_to_num(values)
    fallback = values.sum(0) / np.maximum(known.sum(0), 1)  # (K,)
    index = NearestNeighbors(n_neighbors=min(max(ks), len(ours)), algorithm="brute").fit(_unit(ours))
    distances, nearest = index.kneighbors(_unit(features))  # (M, k), nearest first
    weights = np.exp(-(distances**2) / 2 / TEMPERATURE)  # of unit vectors: 1 less the cosine is half their distance²
    for k in ks:
        chosen = weights[:, :k]
        rows = np.arange(0, chosen.size + 1, chosen.shape[1])
        shares = csr_array((chosen.ravel(), nearest[:, :k].ravel(), rows), shape=(len(features), len(ours)))
        total = shares @ known.astype(np.float64)  # (M, K)
        yield np.where(total > 0, shares @ values / np.where(total > 0, total, 1), fallback)


def _unit(features: Array) -> Array:
    lengths: Array = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Array = features / np.where(lengths > 0, lengths, 1)
    return unit
