"""Shares of people without an event so far, where some are seen for a while only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]


class KaplanMeier:
    """The product-limit estimate, a step function of time (Kaplan & Meier, 1958, doi:10.2307/2281868).

    Args:
        times: ``(N,)`` until the event, or until nothing more is known.
        events: ``(N,)`` whether the event was seen; else the time is censored.
        censoring: Estimates how many are not censored yet instead; an event comes before a censoring at its time.

    Attributes:
        moments: ``(T,)`` the different times, rising.
        shares: ``(T,)`` from each of them on.
    """

    def __init__(self, times: Numbers, events: NDArray[np.bool_], censoring: bool = False) -> None:
        self.moments, place, counts = np.unique(times, return_inverse=True, return_counts=True)
        ended = np.bincount(place, weights=events, minlength=len(self.moments))
        at_risk = len(times) - np.cumsum(counts) + counts
        if censoring:
            at_risk, ended = at_risk - ended, counts - ended
        self.shares: Numbers = np.cumprod(1 - ended / np.maximum(at_risk, 1))

    def __call__(self, times: Numbers) -> Numbers:
        """The shares at any times, 1 before the first of `moments`."""
        found: Numbers = np.append(1.0, self.shares)[np.searchsorted(self.moments, times, side="right")]
        return found
