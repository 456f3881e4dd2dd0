"""Linear models on embeddings, solved to the end: logistic regression and ridge.

Everywhere `strength` is the weight of the squared norm of the weights beside the *mean* loss of the samples, halved:
``loss + strength / 2 * |W|^2``. Biases are not penalised. scikit-learn's ``C`` is ``1 / (strength * N)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

Array = NDArray[np.float64]
#: The loss and its gradients by weights and biases.
Objective = Callable[[Array, Array], tuple[float, Array, Array]]

_MOST_ITERATIONS = 10_000
#: Largest entry of the gradient that counts as zero: a thousandth of the weakest penalty on weights of 1.
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Linear:
    """A linear model.

    Attributes:
        weights: ``(D, K)``.
        bias: ``(K,)``; minus infinity for a class that cannot be.
        converged: Whether the gradient vanishes.
    """

    weights: Array
    bias: Array
    converged: bool = True

    def __call__(self, features: Array) -> Array:
        """Outputs ``(N, K)`` for features ``(N, D)``."""
        outputs: Array = features @ self.weights + self.bias
        return outputs


def logistic_path(
    features: Array, classes: NDArray[np.int64], count: int, strengths: Sequence[float], class_weights: Array
) -> Iterator[Linear]:
    """Logistic regression of classes for one strength after the other, each starting from the one before.

    Two classes share one vector of weights, as everywhere; more have one each. Classes without a sample get a
    probability of 0; if there is only one class, it is always the answer.

    Args:
        features: ``(N, D)``, standardised.
        classes: ``(N,)``, 0 to `count` - 1.
        count: Number of classes.
        strengths: Of the penalty, best from strong to weak.
        class_weights: ``(count,)`` the weight of a sample of each class.
    """
    present, found = np.unique(classes, return_inverse=True)
    shares = class_weights[classes] / class_weights[classes].sum()  # (N,)
    if len(present) == 2:
        objective, columns = _binary(features, found.astype(np.float64), shares), 1
    else:
        objective, columns = _multinomial(features, found, len(present), shares), len(present)
    start = Linear(np.zeros((features.shape[1], columns)), np.zeros(columns))
    for strength in strengths:
        start = _solved(objective, start, strength) if len(present) > 1 else start
        weights, bias = np.zeros((features.shape[1], count)), np.full(count, -np.inf)
        if len(present) == 2:
            weights[:, present[1]], bias[present] = start.weights[:, 0], [0.0, start.bias[0]]
        else:
            weights[:, present], bias[present] = start.weights, start.bias
        yield Linear(weights, bias, start.converged)


def binary_path(
    features: Array, labels: Array, strengths: Sequence[float], positive_weights: Array
) -> Iterator[Linear]:
    """Logistic regression of each label by itself for one strength after the other.

    A label of which only one value is known is answered by its frequency, with half a sample of either value added.

    Args:
        features: ``(N, D)``, standardised.
        labels: ``(N, L)`` of 0, 1 and NaN, which does not count.
        strengths: Of the penalty, best from strong to weak.
        positive_weights: ``(L,)`` the weight of a sample that has the label.
    """
    objectives: list[Objective | None] = []
    starts = []
    for label, weight in zip(labels.T, positive_weights, strict=True):
        known = ~np.isnan(label)
        values = label[known]
        shares = np.where(values == 1, weight, 1.0)
        bias = np.log((values.sum() + 0.5) / (len(values) - values.sum() + 0.5))
        starts.append(Linear(np.zeros((features.shape[1], 1)), np.array([bias])))
        both = len(np.unique(values)) == 2
        objectives.append(_binary(features[known], values, shares / shares.sum()) if both else None)
    for strength in strengths:
        starts = [_solved(o, s, strength) if o else s for o, s in zip(objectives, starts, strict=True)]
        weights = np.concatenate([s.weights for s in starts], axis=1)
        yield Linear(weights, np.concatenate([s.bias for s in starts]), all(s.converged for s in starts))


def ridge_path(features: Array, numbers: Array, strengths: Sequence[float]) -> Iterator[Linear]:
    """Ridge regression of each quantity, exact, through the singular values of the features.

    Args:
        features: ``(N, D)``, standardised.
        numbers: ``(N, Q)``, NaN where unknown, which does not count.
        strengths: Of the penalty beside half of the mean squared error.
    """
    parts = []
    for values in numbers.T:
        known = ~np.isnan(values)
        x, y = features[known], values[known]
        if not len(y):
            x, y = np.zeros((1, features.shape[1])), np.zeros(1)
        centre, mean = x.mean(0), y.mean()
        u, s, v = np.linalg.svd(x - centre, full_matrices=False)  # (N, R), (R,), (R, D)
        parts.append((centre, mean, u.T @ (y - mean), s, v, len(y)))
    for strength in strengths:
        columns = [v.T @ (s / (s**2 + n * strength) * uy) for _, _, uy, s, v, n in parts]
        bias = [mean - centre @ w for (centre, mean, *_), w in zip(parts, columns, strict=True)]
        yield Linear(np.stack(columns, axis=1), np.array(bias))


def _multinomial(features: Array, classes: NDArray[np.int64], count: int, shares: Array) -> Objective:
    rows = np.arange(len(classes))

    def objective(weights: Array, bias: Array) -> tuple[float, Array, Array]:
        logits = features @ weights + bias  # (N, K)
        logs = logits - logsumexp(logits, axis=1, keepdims=True)
        errors = np.exp(logs)
        errors[rows, classes] -= 1
        errors *= shares[:, None]
        return float(-shares @ logs[rows, classes]), features.T @ errors, errors.sum(0)

    return objective


def _binary(features: Array, labels: Array, shares: Array) -> Objective:
    def objective(weights: Array, bias: Array) -> tuple[float, Array, Array]:
        logits = (features @ weights + bias)[:, 0]  # (N,)
        errors = (shares * (expit(logits) - labels))[:, None]
        return float(shares @ (np.logaddexp(0, logits) - labels * logits)), features.T @ errors, errors.sum(0)

    return objective


def _solved(objective: Objective, start: Linear, strength: float) -> Linear:
    """The minimum, by L-BFGS (Liu & Nocedal, 1989, doi:10.1007/BF01589116)."""
    shape = start.weights.shape

    def penalised(flat: Array) -> tuple[float, Array]:
        weights, bias = flat[: start.weights.size].reshape(shape), flat[start.weights.size :]
        loss, by_weights, by_bias = objective(weights, bias)
        penalty = strength / 2 * float((weights**2).sum())
        return loss + penalty, np.concatenate([(by_weights + strength * weights).ravel(), by_bias])

    options = {"maxiter": _MOST_ITERATIONS, "maxfun": 2 * _MOST_ITERATIONS, "gtol": _TOLERANCE, "ftol": 0, "maxcor": 20}
    flat = np.concatenate([start.weights.ravel(), start.bias])
    flat = minimize(penalised, flat, jac=True, method="L-BFGS-B", options=options).x
    # rounding can end the search a little before the tolerance is met
    converged = bool(np.abs(penalised(flat)[1]).max() <= 10 * _TOLERANCE)
    return Linear(flat[: start.weights.size].reshape(shape), flat[start.weights.size :], converged)
