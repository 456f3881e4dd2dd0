"""Gradients of all ranks, exchanged once a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over all ranks, in place, in one collective; without ranks it does nothing.

    A parameter without a gradient on some ranks counts as zero there; one without on all ranks stays without, so that
    the optimizer passes it over as it does in a single process.

    Args:
        parameters: The same on every rank, all of one dtype.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    trainable = [p for p in parameters if p.requires_grad]
    present = torch.tensor([p.grad is not None for p in trainable], device=trainable[0].device)
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trainable]
        + [present.to(trainable[0].dtype)]  # who has a gradient travels with the gradients
    )
    dist.all_reduce(flat)
    *gradients, present_anywhere = torch.split(flat, [*(p.numel() for p in trainable), len(trainable)])
    for parameter, gradient, somewhere in zip(trainable, gradients, present_anywhere.tolist(), strict=True):
        if somewhere:
            gradient = gradient.view_as(parameter) / dist.get_world_size()
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.copy_(gradient)


def gather_objects(own: T) -> list[T]:
    """What every rank has, by rank; all of them must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    gathered: list[T] = [own] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered
