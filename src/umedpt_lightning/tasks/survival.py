"""The time until an event, which may be censored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.labels.views import Chart
from umedpt_lightning.tasks.base import CERTAIN, FeatureWidths, Task, as_float, finite_or_wrong
from umedpt_lightning.tasks.cox import relative_cox_loss
from umedpt_lightning.types import BatchTargets, SurvivalSpec

# A ratio is the sum of many weights that all learn, a hazard that all samples share is one parameter: steps that are so
# many times larger let it follow. Its gradient stays as it is, so that the clipping of gradients does not see it.
_HASTE = 32.0
_MOST = 30.0  # largest logarithm of a hazard, up or down


class Survival(Task):
    """A linear layer on the embedding that gives the hazard of each interval of time, or a hazard ratio.

    - ``hazard``: one logit an interval, and the likelihood of what was seen of each sample in each interval that it
      reached (Gensheimer & Narasimhan, 2019, doi:10.7717/peerj.6257). It is a mean over samples, so that the size of
      micro-batches does not change it.
    - ``cox``: one hazard ratio, and Cox's partial likelihood, which compares the samples of a micro-batch with each
      other: give it large ones. The hazards of the intervals that all samples share are learned beside it, from the
      likelihood above with proportional hazards (Prentice & Gloeckler, 1978, doi:10.2307/2529588); they give survival
      curves and move nothing else.

    Metrics: ``cindex`` (Harrell), ``cindex_uno``, and ``brier``, integrated over time up to the last of the training
    part's events. The censoring is estimated from the samples that are scored.

    Args:
        spec: Intervals of time, and what was seen in them.
        widths: Channels of the shared features.
        objective: As above.

    Raises:
        ValueError: The reader gives no intervals, survival is to be stated at a time after the last event, or the
            objective is another one.
    """

    needs = "embedding"
    main_metric = "cindex"
    counts_not_finite = True
    lower_is_better = ("brier",)
    spec: SurvivalSpec
    edges: Tensor
    prior: Tensor

    def __init__(
        self, spec: SurvivalSpec, widths: FeatureWidths, objective: Literal["hazard", "cox"] = "hazard"
    ) -> None:
        super().__init__()
        if objective not in ("hazard", "cox"):
            raise ValueError(f"objective is {objective!r}, but it must be hazard or cox.")
        if not spec.edges:
            raise ValueError("Survival needs a reader that gives the intervals of time in its spec.")
        if max(spec.shown_times, default=0.0) > spec.edges[-1]:
            raise ValueError(
                f"Survival is asked for at {max(spec.shown_times):g} {spec.time_unit}, but the last event of the "
                f"training part was at {spec.edges[-1]:g}, and nothing is known of the time after it. Correct `times`."
            )
        self.spec, self.objective = spec, objective
        # a head that knows nothing says what was seen in the training part
        hazards = (np.array(spec.events) + 0.5) / (np.array(spec.events) + np.array(spec.survivors) + 1)
        log_odds = torch.from_numpy(np.log(hazards / (1 - hazards))).float()
        if objective == "cox":
            self.head = nn.Linear(widths.embedding, 1, bias=False)
            self.shifts = nn.Parameter(torch.zeros(len(hazards)))
            log_hazards = torch.from_numpy(np.log(-np.log1p(-hazards))).float()
        else:
            self.head = nn.Linear(widths.embedding, len(spec.edges))
            self.head.bias.data.copy_(log_odds)
        self._uninformed = _uninformed_loss(spec)
        # part of the state: the hazards are those of the intervals that the head was trained on
        self.register_buffer("edges", torch.tensor(spec.edges))  # (K,)
        self.register_buffer("prior", F.pad(log_hazards, (1, 0)) if objective == "cox" else log_odds)

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``scores``."""
        from umedpt_lightning.tasks.survival_scores import SurvivalScores

        return {"scores": SurvivalScores(self.edges.tolist(), self.spec.time_unit)}

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the hazards ``(B, K)``; with ``cox`` the log ratio and complementary log-logs, ``(B, 1 + K)``."""
        output: Tensor = self.head(features)
        if self.objective == "cox":
            return torch.cat([output, output.detach() + self.prior[1:] + _HASTE * self.shifts], dim=1)
        return output

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Over that of a head that knows what was seen in the training part, of ``(B, 2)`` times and events."""
        fit = self._negative_log_likelihoods(output, targets).mean() / self._uninformed
        if self.objective == "hazard":
            return fit
        ranking = relative_cox_loss(as_float(output[:, 0]), targets[:, 0], targets[:, 1] > 0)
        return ranking + (fit - fit.detach()) / _HASTE  # whose gradients are those of the shared hazards alone

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds outputs and ``(B, 2)`` targets; who has no finite output counts as if the contrary had been said."""
        output = finite_or_wrong(output, (CERTAIN - 2 * CERTAIN * targets[:, 1:]).expand_as(output))
        curves = self._curves(output)
        if self.objective == "cox":  # ratios rank as risks do, and do not tie where curves have come to 0
            curves[:, 0] = output[:, 0]
        self.metrics.scores.update(curves, targets)

    def compute(self) -> dict[str, Tensor]:
        """``cindex``, ``cindex_uno``, ``brier``."""
        return dict(zip(("cindex", "cindex_uno", "brier"), self.metrics.scores.compute(), strict=True))

    def chart(self) -> Chart | None:
        """Kaplan-Meier curves of three groups by predicted risk."""
        found: Chart | None = self.metrics.scores.chart
        return found

    def predict(self, output: Tensor) -> Tensor:
        """The risk and the survival at each of `SurvivalSpec.shown_times`, ``(B, 1 + T)``."""
        log_stays = self._log_probabilities(output.float())[0]
        starts = self.edges - self.edges.diff(prepend=self.edges.new_zeros(1))
        times = self.edges.new_tensor(self.spec.shown_times)[:, None]
        # within an interval hazards are constant
        before = ((times - starts) / (self.edges - starts)).clamp(0, 1)  # (T, K)
        survival = (log_stays @ before.T).exp()
        return torch.cat([self._curves(output)[:, :1].float(), survival], dim=1)

    def baseline(self, targets: BatchTargets) -> Tensor:
        """The hazards of the training part for all."""
        return self.prior.expand(len(targets), -1)

    def sample_scores(self, output: Tensor, targets: Tensor) -> NDArray[np.float64]:
        """The logarithm of the likelihood of what was seen."""
        return -self._negative_log_likelihoods(output, targets).double().cpu().numpy()

    def _log_probabilities(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the probabilities of no event and of one in each interval that is reached, ``(B, K)``."""
        output = as_float(output)
        if self.objective == "cox":
            hazards = output[:, -len(self.edges) :].clamp(-_MOST, _MOST).exp()
            return -hazards, (-torch.expm1(-hazards)).log()
        # not softplus, which ONNX Runtime lacks for float64
        return F.logsigmoid(-output), F.logsigmoid(output)

    def _curves(self, output: Tensor) -> Tensor:
        """Risk and survival at the edges, ``(B, 1 + K)`` float64; the risk is the share of the time that is lost."""
        survival = self._log_probabilities(output.double())[0].cumsum(dim=1).exp()
        lengths = self.edges.double().diff(prepend=self.edges.new_zeros(1).double())
        means = (F.pad(survival[:, :-1], (1, 0), value=1.0) + survival) / 2
        risks = ((1 - means) * lengths).sum(dim=1, keepdim=True) / self.edges[-1].double()
        return torch.cat([risks, survival], dim=1)

    def _negative_log_likelihoods(self, output: Tensor, targets: Tensor) -> Tensor:
        """Of each sample, ``(B,)``."""
        log_stays, log_ends = self._log_probabilities(output)
        times, events = targets[:, :1], targets[:, 1:] > 0
        # as `lived_through`
        survived = (self.edges < times) | (~events & (self.edges == times))  # (B, K)
        interval = survived.sum(dim=1, keepdim=True)
        ended = events & (torch.arange(len(self.edges), device=times.device) == interval)
        return -torch.where(survived, log_stays, log_ends * ended).sum(dim=1)


def _uninformed_loss(spec: SurvivalSpec) -> float:
    """The mean loss of the training part's hazards on the training part; 1 where there is none."""
    events, survivors = np.array(spec.events, np.float64), np.array(spec.survivors, np.float64)
    reached = events + survivors
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.nan_to_num(n * np.log(n / reached), nan=0.0, neginf=0.0) for n in (events, survivors)]
    return float(-sum(part.sum() for part in parts) / spec.samples_seen) or 1.0
