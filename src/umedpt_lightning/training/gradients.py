"""Gradients of all ranks, exchanged once a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def average_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Averages gradients over all ranks, in place, in one collective; without ranks it does nothing.

    A parameter without a gradient on some ranks counts as zero there; one without on all ranks stays without, so that
    the optimizer passes it over as it does in a single process.

    Args:
        parameters: The same on every rank, all of one dtype.
        loss: This rank's, a scalar. It travels with the gradients: one that is not finite must be seen by all.

    Returns:
        The mean loss over all ranks.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return loss
    trainable = [p for p in parameters if p.requires_grad]
    present = torch.tensor([p.grad is not None for p in trainable], device=trainable[0].device)
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trainable]
        + [present.to(trainable[0].dtype), loss.to(trainable[0].dtype).view(1)]  # who has a gradient travels with them
    )
    dist.all_reduce(flat)
    *gradients, present_anywhere, total = torch.split(flat, [*(p.numel() for p in trainable), len(trainable), 1])
    for parameter, gradient, somewhere in zip(trainable, gradients, present_anywhere.tolist(), strict=True):
        if somewhere:
            gradient = gradient.view_as(parameter) / dist.get_world_size()
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.copy_(gradient)
    return total[0] / dist.get_world_size()
