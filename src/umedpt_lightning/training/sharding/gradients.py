"""The gradients of a round where each rank has a part of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from umedpt_lightning.training.gradient_buffer import GradientBuffer, RoundBuffer
from umedpt_lightning.training.ranks import explained_loss_of_ranks


class ShardedGradients(RoundBuffer):
    """Of blocks that are shared out a part, which torch sums over the ranks within each backward pass; of heads all.

    Args:
        parameters: All that may be trained, by name.
        room: See `GradientBuffer`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], room: int = 0) -> None:
        self._shards = [one for one in parameters.values() if isinstance(one, DTensor)]
        self._whole = GradientBuffer({n: p for n, p in parameters.items() if not isinstance(p, DTensor)}, room)

    def zero(self) -> None:
        """Begins a round; torch makes the gradients of shards when there are some."""
        self._whole.zero()
        for shard in self._shards:
            shard.grad = None

    def exchange(self, others: Sequence[Tensor] = ()) -> list[Tensor]:
        """Sums over the ranks what torch has not."""
        return self._whole.exchange(others)

    def norm(self) -> Tensor:
        """The 2-norm of all gradients on all ranks, a scalar, the same on each of them."""
        whole = self._whole.norm()
        norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in self._parts()]
        squares = torch.stack(norms).square().sum() if norms else whole.new_zeros((), dtype=torch.float64)
        with explained_loss_of_ranks():
            dist.all_reduce(squares)
        return (whole.double().square() + squares).sqrt().to(whole.dtype)

    def multiply(self, factor: Tensor) -> None:
        """Multiplies all gradients with a scalar, in place."""
        self._whole.multiply(factor)
        if parts := self._parts():
            torch._foreach_mul_(parts, factor.to(parts[0].device))

    def _parts(self) -> list[Tensor]:
        """This rank's, where a backward pass has reached them; some may be empty."""
        return [cast(DTensor, shard.grad).to_local() for shard in self._shards if shard.grad is not None]
