"""Cox's partial likelihood."""

from __future__ import annotations

import torch
from torch import Tensor


def cox_loss(log_risks: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """The negative logarithm of the partial likelihood, a mean over the events; 0 where there is none.

    Times that several events share by Efron, 1977, doi:10.1080/01621459.1977.10480613.

    Args:
        log_risks: ``(B,)`` logarithms of the hazard ratios.
        times: ``(B,)`` until the event, or until nothing more is known.
        events: ``(B,)`` bool, whether the event was seen.
    """
    at_risk = times[None] >= times[:, None]  # (B, B), a row a sample
    tied = (times[None] == times[:, None]) & events[None] & events[:, None]
    before = tied.tril(-1).sum(dim=1) / tied.sum(dim=1).clamp_min(1)  # those of a tie leave one after the other
    shares = at_risk.to(log_risks.dtype) - before[:, None] * tied  # of each sample's risk that is still there
    remaining = (log_risks[None] + shares.log()).logsumexp(dim=1)
    return ((remaining - log_risks) * events).sum() / events.sum().clamp_min(1)


def relative_cox_loss(log_risks: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """The same over that of equal risks, so that a head that knows nothing has 1."""
    equal = cox_loss(torch.zeros_like(log_risks), times, events)
    return cox_loss(log_risks, times, events) / torch.where(equal > 0, equal, 1.0)
