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


class PartBuffer(GradientBuffer):
    """This rank's parts of the gradients of blocks that are shared out: torch adds to them in each backward pass."""

    is_part = True

    def _own(self, parameter: nn.Parameter) -> Tensor:
        return cast(DTensor, parameter.detach()).to_local()

    def _grad(self, parameter: nn.Parameter, view: Tensor) -> Tensor:
        whole = cast(DTensor, parameter)
        return DTensor.from_local(
            view, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )

    def _sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)  # the gradients are sums already, and all ranks reach the same blocks


class ShardedGradients(RoundBuffer):
    """Of blocks that are shared out a part, which torch sums over the ranks within each backward pass; of heads all.

    Args:
        parameters: All that may be trained, by name.
        room: See `GradientBuffer`.

    Attributes:
        parts: The former.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], room: int = 0) -> None:
        self.parts = PartBuffer({n: p for n, p in parameters.items() if isinstance(p, DTensor)})
        self._whole = GradientBuffer({n: p for n, p in parameters.items() if not isinstance(p, DTensor)}, room)

    @property
    def shared(self) -> GradientBuffer:
        """The parts."""
        return self.parts

    def zero(self) -> None:
        """Begins a round."""
        self._whole.zero()
        self.parts.zero()

    def exchange(self, others: Sequence[Tensor] = ()) -> list[Tensor]:
        """Sums over the ranks what torch has not."""
        self.parts.exchange()
        return self._whole.exchange(others)

    def norm(self) -> Tensor:
        """The 2-norm of all gradients on all ranks, a scalar, the same on each of them."""
        whole = self._whole.norm()
        squares = self.parts.norm().to(whole.device, torch.float64).square()
        with explained_loss_of_ranks():
            dist.all_reduce(squares)
        return (whole.double().square() + squares).sqrt().to(whole.dtype)

    def multiply(self, factor: Tensor) -> None:
        """Multiplies all gradients with a scalar, in place."""
        self._whole.multiply(factor)
        self.parts.multiply(factor)
