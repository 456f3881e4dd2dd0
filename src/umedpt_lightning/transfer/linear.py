"""Models on embeddings by scikit-learn: linear ones for each strength of the penalty, and nearest neighbours.

Everywhere `strength` is the weight of the squared norm of the weights beside the *mean* loss of the samples, halved:
``loss + strength / 2 * |W|^2``. Biases are not penalised.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

Array = NDArray[np.float64]

_MOST_ITERATIONS = 10_000
#: Largest entry of the gradient that counts as zero: a thousandth of the weakest penalty on weights of 1.
_TOLERANCE = 1e-8
#: How much nearer neighbours count for more; Wu et al., 2018, doi:10.1109/CVPR.2018.00393.
TEMPERATURE = 0.07


@dataclass(frozen=True)
class Linear:
    """A linear model.

    Attributes:
        weights: ``(D, K)``.
        bias: ``(K,)``; minus infinity for a class that cannot be.
        converged: Whether the search for the minimum came to its end.
    """

    weights: Array
    bias: Array
    converged: bool = True

    def __call__(self, features: Array) -> Array:
        """Outputs ``(N, K)`` for features ``(N, D)``."""
        outputs: Array = features @ self.weights + self.bias
        return outputs


def logistic_path(
    features: Array, classes: NDArray[np.int64], strengths: Sequence[float], class_weights: Array
) -> Iterator[Linear]:
    """Logistic regression of classes for one strength after the other, each starting from the one before.

    Two classes share one vector of weights, as everywhere; more have one each. Classes without a sample get a
    probability of 0; if there is only one class, it is always the answer.

    Args:
        features: ``(N, D)``, standardised.
        classes: ``(N,)``, 0 to K - 1.
        strengths: Of the penalty, best from strong to weak.
        class_weights: ``(K,)`` the weight of a sample of each class.
    """
    present, count = np.unique(classes), len(class_weights)
    always = repeat(_constant(features, 0.0), len(strengths))
    for found in _logistic(features, classes, class_weights[classes], strengths) if len(present) > 1 else always:
        weights, bias = np.zeros((features.shape[1], count)), np.full(count, -np.inf)
        if len(present) == 2:
            weights[:, present[1]], bias[present] = found.weights[:, 0], [0.0, found.bias[0]]
        else:
            weights[:, present], bias[present] = found.weights, found.bias
        yield Linear(weights, bias, found.converged)


def binary_path(
    features: Array, labels: Array, strengths: Sequence[float], positive_weights: Array
) -> Iterator[Linear]:
    """Logistic regression of each label by itself for one strength after the other, as `logistic_path`.

    A label of which only one value is known is answered by its frequency, with half a sample of either value added.

    Args:
        features: ``(N, D)``, standardised.
        labels: ``(N, L)`` of 0, 1 and NaN, which does not count.
        strengths: Of the penalty, best from strong to weak.
        positive_weights: ``(L,)`` the weight of a sample that has the label.
    """
    paths: list[Iterator[Linear]] = []
    for label, weight in zip(labels.T, positive_weights, strict=True):
        known = ~np.isnan(label)
        values = label[known]
        if len(np.unique(values)) == 2:
            x = features if known.all() else features[known]
            paths.append(_logistic(x, values, np.where(values == 1, weight, 1.0), strengths))
        else:
            odds = np.log((values.sum() + 0.5) / (len(values) - values.sum() + 0.5))
            paths.append(repeat(_constant(features, odds), len(strengths)))
    return map(_joined, zip(*paths, strict=True))


def ridge_path(features: Array, numbers: Array, strengths: Sequence[float], *_: Any) -> Iterator[Linear]:
    """Ridge regression of numbers ``(N, Q)``, NaN where unknown, on standardised features ``(N, D)``.

    No weights are used. The penalty stands beside half of the mean squared error of each quantity's known values.
    """
    for strength in strengths:
        columns = []
        for values in numbers.T:
            known = ~np.isnan(values)
            if known.any():
                ridge = Ridge(alpha=strength * known.sum()).fit(features[known], values[known])
                columns.append(Linear(ridge.coef_[:, None], np.array([ridge.intercept_])))
            else:
                columns.append(_constant(features, 0.0))
        yield _joined(columns)


def votes(ours: Array, values: Array, features: Array, ks: Sequence[int]) -> Iterator[Array]:
    """The weighted mean of the values of the nearest samples by angle, for several numbers of neighbours in turn.

    Args:
        ours: ``(N, D)`` of the samples that are known.
        values: ``(N, K)`` one-hot classes, labels or numbers; NaN where unknown, which does not count.
        features: ``(M, D)`` of the samples that are asked for.
        ks: How many neighbours are asked; all where there are fewer.

    Yields:
        ``(M, K)``; the mean of all samples where no neighbour's value is known.
    """
    known = ~np.isnan(values)
    values = np.nan_to_num(values)
    fallback = values.sum(0) / np.maximum(known.sum(0), 1)  # (K,)
    index = NearestNeighbors(n_neighbors=min(max(ks), len(ours)), algorithm="brute").fit(normalize(ours))
    distances, nearest = index.kneighbors(normalize(features))  # (M, k), nearest first
    weights = np.exp(-(distances**2) / 2 / TEMPERATURE)  # of unit vectors: 1 less the cosine is half their distance²
    for k in ks:
        chosen = weights[:, :k]
        rows = np.arange(0, chosen.size + 1, chosen.shape[1])
        shares = csr_array((chosen.ravel(), nearest[:, :k].ravel(), rows), shape=(len(features), len(ours)))
        total = shares @ known.astype(np.float64)  # (M, K)
        yield np.where(total > 0, shares @ values / np.where(total > 0, total, 1), fallback)


def _logistic(
    features: Array, labels: NDArray[np.generic], sample_weights: Array, strengths: Sequence[float]
) -> Iterator[Linear]:
    """Of two or more values, in their order."""
    model = LogisticRegression(tol=_TOLERANCE, max_iter=_MOST_ITERATIONS, warm_start=True)
    for strength in strengths:
        # C multiplies the sum of the weighted losses: their mean, as weights sum to 1
        model.set_params(C=1 / strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # which the number of iterations tells
            model.fit(features, labels, sample_weight=sample_weights / sample_weights.sum())
        converged = bool(model.n_iter_.max() < _MOST_ITERATIONS)
        yield Linear(model.coef_.T.copy(), model.intercept_.copy(), converged)


def _constant(features: Array, bias: float) -> Linear:
    return Linear(np.zeros((features.shape[1], 1)), np.array([bias]))


def _joined(models: Sequence[Linear]) -> Linear:
    """Their outputs beside each other."""
    weights = np.concatenate([model.weights for model in models], axis=1)
    return Linear(weights, np.concatenate([model.bias for model in models]), all(model.converged for model in models))
