"""What 16-mixed needs besides Lightning: losses are scaled up there, lest small gradients vanish."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor


def scaler_of(trainer: pl.Trainer) -> torch.amp.GradScaler | None:
    """The scaler of 16-mixed, None at other precisions."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def loss_scale(trainer: pl.Trainer) -> float:
    """What losses are multiplied with, 1 without a scaler."""
    scaler = scaler_of(trainer)
    return 1.0 if scaler is None else scaler.get_scale()


def scaled(shares: Mapping[str, Tensor], trainer: pl.Trainer) -> Mapping[str, Tensor]:
    """Where the gradients of each task's losses begin: at its share, scaled where there is a scaler."""
    scaler = scaler_of(trainer)
    return shares if scaler is None else {task: scaler.scale(share) for task, share in shares.items()}


def leave_nothing_to_step(module: pl.LightningModule) -> None:
    """Takes the gradients away: the step still counts, as the round does, but changes no weight."""
    module.zero_grad()  # an optimizer passes over parameters without gradients
    if scaler_of(module.trainer) is not None:  # which does not pass over none, but over infinite ones
        parameter = next(p for p in module.parameters() if p.requires_grad)
        parameter.grad = torch.full_like(parameter, math.inf)
