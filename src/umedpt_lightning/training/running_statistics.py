"""BatchNorm's running statistics, moved once a round by all its micro-batches together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from umedpt_lightning.blocks.batch_norm import PerTaskBatchNorm


class RunningStatistics:
    """Means and variances of all BatchNorm layers that train.

    Torch moves them in every forward pass, so that they would depend on the order of tasks and on how many
    micro-batches a rank has. Here those of a layer move once a round, ``r <- (1 - m) r + m b`` with the layer's
    momentum ``m``, towards the mean ``b`` of the batch statistics over all micro-batches that went through the layer,
    on whatever rank. Layers that no micro-batch has used stay as they are. ``num_batches_tracked`` counts rounds.

    Args:
        module: Where the layers are.
    """

    def __init__(self, module: nn.Module) -> None:
        of_tasks = {
            layer: task
            for per_task in module.modules()
            if isinstance(per_task, PerTaskBatchNorm)
            for task, layer in per_task.by_task.items()
        }
        layers: dict[str | None, list[Any]] = {}
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                layers.setdefault(of_tasks.get(layer), []).append(layer)
        self._all = {task: _Layers(of_task) for task, of_task in layers.items()}
        self._groups: dict[str | None, _Layers] = {}

    @property
    def size(self) -> int:
        """How many numbers `sums` has at most."""
        return sum(2 * layer.num_features + 1 for group in self._all.values() for layer in group.layers)

    @contextmanager
    def round(self, tasks: Iterable[str]) -> Iterator[None]:
        """Lets micro-batches of these tasks go through the layers.

        Where it ends without `move`, by an error or because the round is left out, the layers are as before.
        """
        groups = {key: self._all[key] for key in (None, *tasks) if key in self._all}
        self._groups = {key: group for key, group in groups.items() if group.begin()}
        try:
            yield
        finally:
            for group in self._groups.values():
                group.end()

    def restart(self) -> None:
        """Forgets the micro-batches of the round so far."""
        for group in self._groups.values():
            group.restart()

    def add(self, task: str) -> None:
        """Takes what a forward pass of a task has left in the layers; called after each."""
        for key in (None, task) if self._groups else ():
            if key in self._groups:
                self._groups[key].add()

    def sums(self) -> list[Tensor]:
        """What is to be summed over the ranks, the same shapes on each."""
        return [tensor for group in self._groups.values() for tensor in group.sums()]

    def move(self, sums: Sequence[Tensor]) -> None:
        """Moves the layers, given the sums over all ranks."""
        for number, group in enumerate(self._groups.values()):
            group.move(*sums[2 * number : 2 * number + 2])


class _Layers:
    """Layers that all tasks go through, or one task alone.

    Within a round they have the momentum 1, so that a forward pass leaves its batch statistics in them.

    Args:
        layers: Any, since torch's type allows for layers without statistics.
    """

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self._training: list[Any] = []
        self._own_momenta: list[float | None] = []
        self._moved = False

    def begin(self) -> bool:
        """Keeps the statistics of the layers that train; False where none does."""
        training = [layer for layer in self.layers if layer.training]  # frozen ones normalise by what they have
        if not training:
            return False
        means, variances = ([getattr(layer, name) for layer in training] for name in ("running_mean", "running_var"))
        own_momenta = [layer.momentum for layer in training]
        if (training, own_momenta) != (self._training, self._own_momenta) or self._channels.device != means[0].device:
            self._describe(training, own_momenta, means[0])
        self._statistics: list[Tensor] = means + variances
        self._tracked: list[Tensor] = [layer.num_batches_tracked for layer in training]
        self._before, self._tracked_before = torch.cat(self._statistics), torch.stack(self._tracked)
        self._sums = [torch.empty_like(one) for one in self._statistics]
        for layer in training:
            layer.momentum = 1.0
        self.restart()
        return True

    def restart(self) -> None:
        torch._foreach_zero_([*self._sums, *self._statistics])
        torch._foreach_copy_(self._tracked, self._tracked_before.unbind())
        self._last_tracked, self._uses = self._tracked_before, torch.zeros_like(self._tracked_before)
        self._moved = False

    def add(self) -> None:
        torch._foreach_add_(self._sums, self._statistics)
        torch._foreach_zero_(self._statistics)  # a layer that the next pass does not use is to add nothing
        tracked = torch.stack(self._tracked)
        self._uses += tracked > self._last_tracked  # of a layer used twice in a pass the last statistics are left
        self._last_tracked = tracked

    def sums(self) -> tuple[Tensor, Tensor]:
        """Sums of batch statistics ``(2 C)``, and in how many micro-batches each layer was used ``(L)``."""
        return torch.cat(self._sums), self._uses

    def move(self, sums: Tensor, uses: Tensor) -> None:
        tracked = self._tracked_before + (uses > 0)
        momenta = torch.where(self._momenta.isnan(), 1 / tracked, self._momenta).to(sums.dtype)
        uses, momenta = (
            one.repeat(2).repeat_interleave(self._channels, output_size=len(sums)) for one in (uses, momenta)
        )
        moved = torch.lerp(self._before, sums / uses, momenta)
        self._set(torch.where(uses > 0, moved, self._before), tracked)
        self._moved = True

    def end(self) -> None:
        for layer, momentum in zip(self._training, self._own_momenta, strict=True):
            layer.momentum = momentum
        if not self._moved:
            self._set(self._before, self._tracked_before)

    def _set(self, statistics: Tensor, tracked: Tensor) -> None:
        torch._foreach_copy_(self._statistics, torch.split(statistics, [len(one) for one in self._statistics]))
        torch._foreach_copy_(self._tracked, tracked.unbind())

    def _describe(self, training: list[Any], momenta: list[float | None], like: Tensor) -> None:
        """Brings what is the same in every round to the layers' device."""
        self._training, self._own_momenta = training, momenta
        # a layer without momentum has the mean over all rounds
        self._momenta = like.new_tensor([math.nan if momentum is None else momentum for momentum in momenta])
        self._channels = torch.tensor([layer.num_features for layer in training] * 2, device=like.device)
