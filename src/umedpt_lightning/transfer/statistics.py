"""How sure the figures are: intervals over seeds and over patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of so many defined values, NaN for none, and where the true one lies with a probability of 95 %.

    Both ends are NaN for fewer than two values.
    """

    mean: float
    low: float
    high: float
    count: int


def seed_interval(values: Sequence[float]) -> Interval:
    """The t-interval of the mean of independent repetitions; undefined (NaN) values do not count."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if len(known) < 2:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(student.ppf((1 + LEVEL) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Interval(mean, mean - half, mean + half, len(known))


def bootstrap_intervals(
    metrics: Callable[[NDArray[np.int64]], dict[str, float]],
    groups: NDArray[np.str_] | None,
    samples: int,
    replicates: int,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstrap percentile intervals of 95 % over patients: whole groups are drawn with replacement.

    Samples of a patient are alike, so drawing them one by one would make the interval too narrow. Efron & Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        metrics: The metrics of some samples, given by their rows, repeated where they were drawn more than once.
        groups: ``(samples,)`` what each shares with others; None where each is of its own.
        samples: How many there are.
        replicates: How often they are drawn.
        seed: Of the draws.

    Returns:
        Lower and upper end of each metric, NaN for one that is never defined.
    """
    units, unit_of = np.unique(np.arange(samples) if groups is None else groups, return_inverse=True)
    members = np.split(np.argsort(unit_of, kind="stable"), np.bincount(unit_of).cumsum()[:-1])
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(replicates):
        rows = np.concatenate([members[unit] for unit in rng.integers(0, len(units), len(units))])
        for name, value in metrics(rows).items():
            drawn.setdefault(name, []).append(value)
    intervals = {}
    for name, values in drawn.items():
        known = [value for value in values if not math.isnan(value)] or [math.nan]
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        intervals[name] = (low, high)
    return intervals
