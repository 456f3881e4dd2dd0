"""The inner products of tasks' gradients, over all ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from umedpt_lightning.training.ranks import explained_loss_of_ranks, several_ranks

_AT_ONCE = 2**17  # elements of all rows that are in full precision at once


class Gram(NamedTuple):
    """Inner products of the tasks' gradients.

    Attributes:
        tasks: Names of T tasks.
        matrix: ``(T, T)`` float64 on the CPU, symmetric.
    """

    tasks: list[str]
    matrix: Tensor

    @property
    def norms(self) -> Tensor:
        """``(T,)`` the lengths of the gradients."""
        return self.matrix.diagonal().clamp(min=0).sqrt()

    @property
    def cosines(self) -> Tensor:
        """``(T, T)``; 0 with a gradient that is zero."""
        lengths = self.norms
        together = lengths[:, None] * lengths
        cosines = torch.where(together > 0, self.matrix / together.clamp(min=1e-300), 0.0)
        return cosines.clamp(-1, 1)

    @property
    def shares(self) -> dict[str, float]:
        """Each task's length over the sum of all lengths."""
        lengths = self.norms
        return dict(zip(self.tasks, (lengths / lengths.sum().clamp(min=1e-300)).tolist(), strict=True))


def inner_products(rows: Tensor, device: torch.device, is_part: bool = False) -> Tensor:
    """The inner products of rows over all ranks; every rank must call it.

    Args:
        rows: ``(T, N)`` of this rank, in any floating type; they stay as they are.
        device: Where ranks exchange.
        is_part: Whether the ranks have parts of the rows, which come one behind the other, or what is to be summed.

    Returns:
        ``(T, T)`` float64 on that device, the same on all ranks.
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=device)
    for part in torch.split(rows, max(1, _AT_ONCE // max(1, len(rows))), dim=1):
        if several_ranks() and not is_part:
            part = part.to(device, dtype, copy=True)
            with explained_loss_of_ranks():
                dist.all_reduce(part)
        part = part.to(device, dtype)
        total += part @ part.T
    if several_ranks() and is_part:
        with explained_loss_of_ranks():
            dist.all_reduce(total)
    return total
