"""Gradients of all ranks, exchanged once a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def several_ranks() -> bool:
    """Whether there are other processes to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def explained_loss_of_ranks() -> Iterator[None]:
    """Says what it means where an exchange with the other ranks fails inside.

    Raises:
        RuntimeError: Another rank is gone, or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"Rank {dist.get_rank()} of {dist.get_world_size()} could not exchange what all ranks need: another rank "
            "has ended or does not answer. Why is in that rank's output. Go on from the last checkpoint with "
            "--ckpt_path last. The time that ranks wait for each other is trainer.strategy.init_args.timeout."
        ) from error


def sum_gradients(parameters: Iterable[nn.Parameter], others: Sequence[Tensor] = ()) -> list[Tensor]:
    """Sums gradients over all ranks, in place, in one collective; without ranks it does nothing.

    A parameter without a gradient on some ranks counts as zero there; one without on all ranks stays without, so that
    the optimizer passes it over as it does in a single process.

    Args:
        parameters: The same on every rank, all of one dtype.
        others: Small tensors that travel with the gradients, of the same shapes on every rank.

    Returns:
        The sums of `others` over all ranks, in their own dtypes.

    Raises:
        RuntimeError: Another rank is gone, or has not answered in time.
    """
    if not several_ranks():
        return list(others)
    trainable = [p for p in parameters if p.requires_grad]
    present = torch.tensor([p.grad is not None for p in trainable], device=trainable[0].device)
    tensors = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainable]
    tensors += [other.to(trainable[0].dtype) for other in (present, *others)]  # who has a gradient is told as well
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with explained_loss_of_ranks():
        dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    gradients, (present_anywhere, *sums) = parts[: len(trainable)], parts[len(trainable) :]
    for parameter, gradient, somewhere in zip(trainable, gradients, present_anywhere.tolist(), strict=True):
        if somewhere and parameter.grad is None:
            parameter.grad = gradient.view_as(parameter).clone()
        elif somewhere and parameter.grad is not None:
            parameter.grad.copy_(gradient.view_as(parameter))
    return [total.view_as(other).to(other.dtype) for total, other in zip(sums, others, strict=True)]


def gather_objects(own: T) -> list[T]:
    """What every rank has, by rank; all of them must call it."""
    if not several_ranks():
        return [own]
    gathered: list[T] = [own] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered
