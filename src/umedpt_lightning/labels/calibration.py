"""How often what was stated with a probability is so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Stated probabilities ``(N,)`` and whether it was so ``(N,)``.
Stated = tuple[NDArray[np.floating], NDArray[np.bool_]]
_BINS = 15


def calibration_error(probabilities: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: how far stated probabilities are from frequencies, on average.

    Bins of equal width, weighted by what is in them. Guo et al., On Calibration of Modern Neural Networks, 2017,
    arXiv:1706.04599, equation 3. Arguments are those of `reliability`.
    """
    stated, frequency, counts = reliability(probabilities, correct)
    return float((np.abs(stated - frequency) * counts).sum() / counts.sum()) if len(counts) else math.nan


def mean_calibration_error(stated: Sequence[Stated]) -> float:
    """The mean of the calibration errors of several labels, without those of which nothing is known."""
    errors = np.array([calibration_error(*one) for one in stated])
    return math.nan if np.isnan(errors).all() else float(np.nanmean(errors))


def reliability(
    probabilities: NDArray[np.floating], correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """What was stated and how often it was so, in bins of equal width; empty bins are left out.

    Args:
        probabilities: ``(N,)`` of what was answered; NaN, where an output was not finite, states nothing.
        correct: ``(N,)`` whether it was so.

    Returns:
        ``(bins,)`` mean probability, frequency, and how many there are.
    """
    told = ~np.isnan(probabilities)
    probabilities, correct = probabilities[told], correct[told]
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    filled = counts > 0
    stated = np.bincount(bins, weights=probabilities.astype(np.float64), minlength=_BINS)
    right = np.bincount(bins, weights=correct.astype(np.float64), minlength=_BINS)
    return stated[filled] / counts[filled], right[filled] / counts[filled], counts[filled]
