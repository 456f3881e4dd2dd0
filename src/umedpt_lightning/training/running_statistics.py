"""BatchNorm's running statistics, the same on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from umedpt_lightning.training.gradients import several_ranks


class RunningStatistics:
    """Means and variances of all BatchNorm layers, which every rank moves by its own micro-batches.

    After a round they are averaged over the ranks by the micro-batches that each rank has put through the layer. Those
    of a layer that only one rank has used (``batch_norm: per_task``) are thus that rank's.

    Args:
        module: Where the layers are.
    """

    def __init__(self, module: nn.Module) -> None:
        # Any, since torch's type allows for layers without statistics, which are left out
        self._layers: list[Any] = [
            m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None
        ]
        self._before: Tensor | None = None

    def start(self) -> None:
        """Remembers how often each layer was used until now."""
        self._before = self._tracked() if self._layers and several_ranks() else None

    def weighted(self) -> list[Tensor]:
        """What is to be summed over the ranks: means and variances times uses, ``(C)``, and the uses of each layer."""
        if self._before is None:
            return []
        uses = self._tracked() - self._before
        return [self._means() * self._by_channel(uses), self._variances() * self._by_channel(uses), uses]

    def take(self, sums: Sequence[Tensor]) -> None:
        """Sets the layers to what was summed; those that no rank has used stay."""
        if self._before is not None:
            self._set(self._before, *sums)

    @torch.no_grad()
    def _set(self, before: Tensor, means: Tensor, variances: Tensor, uses: Tensor) -> None:
        by_channel = self._by_channel(uses)
        channels = [layer.num_features for layer in self._layers]
        means = torch.where(by_channel > 0, means / by_channel, self._means())
        variances = torch.where(by_channel > 0, variances / by_channel, self._variances())
        for layer, mean, variance, tracked in zip(
            self._layers,
            torch.split(means, channels),
            torch.split(variances, channels),
            before + uses,
            strict=True,
        ):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
            layer.num_batches_tracked.copy_(tracked)

    def _tracked(self) -> Tensor:
        return torch.stack([layer.num_batches_tracked for layer in self._layers])

    def _means(self) -> Tensor:
        return torch.cat([layer.running_mean for layer in self._layers])

    def _variances(self) -> Tensor:
        return torch.cat([layer.running_var for layer in self._layers])

    def _by_channel(self, uses: Tensor) -> Tensor:
        channels = torch.tensor([layer.num_features for layer in self._layers], device=uses.device)
        return uses.repeat_interleave(channels, output_size=sum(layer.num_features for layer in self._layers))
