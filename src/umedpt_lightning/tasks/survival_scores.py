"""How well predicted risks and survival curves fit what was seen, where times may be censored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from umedpt_lightning.labels.kaplan_meier import KaplanMeier, Numbers
from umedpt_lightning.labels.views import Chart, Curve

_PAIRS = 1 << 24  # compared at a time
_GROUPS = {"low risk": 0, "middle risk": 4, "high risk": 1}  # from blue to red
Events = NDArray[np.bool_]


def concordance(risks: Numbers, times: Numbers, events: Events, weights: Numbers | None = None) -> float:
    """Harrell's C-index: the share of pairs in which who has the event first has the higher risk, a tie one half.

    A pair counts where it is known who comes first: the one with the earlier event, or with an event at the time of
    the other's censoring. NaN where there is no such pair. Harrell et al., 1982, doi:10.1001/jama.1982.03320430047030.

    Args:
        risks: ``(N,)``.
        times: ``(N,)``.
        events: ``(N,)``.
        weights: ``(N,)`` of the pairs in which each sample comes first; None for 1.
    """
    right = pairs = 0.0
    rows = np.flatnonzero(events)
    for chosen in np.array_split(rows, max(1, -(-len(rows) * len(times) // _PAIRS))):
        one = chosen[:, None]
        later = (times > times[one]) | ((times == times[one]) & ~events)
        ordered = (later & (risks < risks[one])).sum(axis=1) + 0.5 * (later & (risks == risks[one])).sum(axis=1)
        weight = np.ones(len(chosen)) if weights is None else weights[chosen]
        right += float(weight @ ordered)
        pairs += float(weight @ later.sum(axis=1))
    return right / pairs if pairs else np.nan


def censoring_weights(times: Numbers, events: Events) -> Numbers:
    """``(N,)`` the squared inverse of the probability not to be censored yet, which make Harrell's index Uno's.

    Their C-index does not depend on the censoring. Uno et al., 2011, doi:10.1002/sim.4154. Who comes when all others
    are censored has 0.
    """
    free = KaplanMeier(times, events, censoring=True)(times)
    weights: Numbers = np.where(free > 0, 1 / np.where(free > 0, free, 1.0) ** 2, 0.0)
    return weights


def integrated_brier(survival: Numbers, moments: Numbers, times: Numbers, events: Events) -> float:
    """The mean squared error of survival curves over time, weighted by the inverse probability of being censored.

    Graf et al., 1999, doi:10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5. By trapezoids, over
    the moments at which not all are censored; NaN where there are not two.

    Args:
        survival: ``(N, T)`` the predicted probability of no event until each moment.
        moments: ``(T,)`` rising.
        times: ``(N,)``.
        events: ``(N,)``.
    """
    uncensored = KaplanMeier(times, events, censoring=True)
    known = (uncensored(moments) > 0) & (moments < times.max())
    moments, survival = moments[known], survival[:, known]
    if len(moments) < 2:
        return np.nan
    over = (times[:, None] <= moments) & events[:, None]
    own = uncensored(times)[:, None]
    died = over * survival**2 / np.where(over, own, 1.0)
    alive = (times[:, None] > moments) * (1 - survival) ** 2 / uncensored(moments)
    errors = (died + alive).mean(axis=0)
    return float(np.trapezoid(errors, moments) / (moments[-1] - moments[0]))


def risk_groups(risks: Numbers, times: Numbers, events: Events) -> tuple[Curve, ...]:
    """Kaplan-Meier curves of the thirds with the lowest, middle and highest risk; censored times have ticks."""
    order = np.argsort(risks, kind="stable")
    curves = []
    for (name, colour), rows in zip(_GROUPS.items(), np.array_split(order, len(_GROUPS)), strict=True):
        if len(rows):
            found = KaplanMeier(times[rows], events[rows])
            x, y = np.append(0.0, found.moments), np.append(1.0, found.shares)
            marks = np.unique(times[rows][~events[rows]])
            curves.append(Curve(f"{name} ({len(rows)}, events: {int(events[rows].sum())})", x, y, marks, colour))
    return tuple(curves)


class SurvivalScores(Metric):
    """C-index, Uno's C-index and integrated Brier score of all samples, in float64.

    Args:
        edges: ``(K,)`` at which curves are given; they are 1 at 0.
        time_unit: Of times.

    Attributes:
        chart: Of the samples of the last `compute`.
    """

    curves: list[Tensor]
    targets: list[Tensor]

    def __init__(self, edges: Sequence[float], time_unit: str) -> None:
        super().__init__()
        self.edges, self.time_unit = np.array(edges), time_unit
        self.chart: Chart | None = None
        # flat float32, as in `Ranking`: a number of float64 is two of them
        self.add_state("curves", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, curves: Tensor, targets: Tensor) -> None:
        """Adds a micro-batch.

        Args:
            curves: ``(B, 1 + K)`` float64, a number that ranks by risk and the survival at each edge.
            targets: ``(B, 2)`` times and events.
        """
        self.curves.append(curves.detach().double().flatten().view(torch.float32))
        self.targets.append(targets.float().flatten())

    def compute(self) -> Tensor:
        """``(3,)``: Harrell's and Uno's C-index and the integrated Brier score."""
        if not len(self.curves):
            return torch.full((3,), torch.nan, device=self.device)
        curves = dim_zero_cat(self.curves).contiguous().cpu().view(torch.float64).view(-1, 1 + len(self.edges)).numpy()
        targets = dim_zero_cat(self.targets).cpu().view(-1, 2).double().numpy()
        risks, times, events = curves[:, 0], targets[:, 0], targets[:, 1] > 0
        title, unit = f"by predicted risk ({len(times)} samples)", f"time ({self.time_unit})"
        self.chart = Chart(title, unit, "share without an event", risk_groups(risks, times, events), steps=True)
        survival = np.hstack([np.ones((len(times), 1)), curves[:, 1:]])
        scores = (
            concordance(risks, times, events),
            concordance(risks, times, events, censoring_weights(times, events)),
            integrated_brier(survival, np.append(0.0, self.edges), times, events),
        )
        return torch.tensor(scores, device=self.device)
