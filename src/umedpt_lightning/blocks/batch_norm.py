"""What becomes of an encoder's BatchNorm when several tasks share it.

Batch statistics of X-rays, CT and stained tissue differ; averaging them into one running mean makes an encoder that
fits none at test time. `convert_batch_norm` offers the usual ways out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: ``keep``: shared statistics. ``freeze``: the statistics stay as loaded, in training too. ``group``: replaced by
#: GroupNorm with the same scale and shift. ``per_task``: shared scale and shift, statistics for every task.
BatchNormMode = Literal["keep", "freeze", "group", "per_task"]


class TaskSwitch:
    """The task whose turn it is; shared by all layers that treat tasks differently."""

    def __init__(self) -> None:
        self.task: str | None = None


class PerTaskBatchNorm(nn.Module):
    """One BatchNorm's scale and shift with running statistics for every task.

    Args:
        norm: The layer to multiply; its statistics are everyone's start.
        tasks: Task names.
        switch: Says whose turn it is.
    """

    def __init__(self, norm: _BatchNorm, tasks: Sequence[str], switch: TaskSwitch) -> None:
        super().__init__()
        self.switch = switch
        self.by_task = nn.ModuleDict({task: copy.deepcopy(norm) for task in tasks})
        for layer in self.by_task.values():
            layer.weight, layer.bias = norm.weight, norm.bias  # one parameter, many statistics

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``(B, C, H, W)`` with the statistics of the task whose turn it is."""
        task = self.switch.task
        if task is None or task not in self.by_task:
            raise ValueError(
                f"The encoder keeps BatchNorm statistics per task and has none for {task!r}. "
                f"Name one of {', '.join(self.by_task)}."
            )
        out: Tensor = self.by_task[task](x)
        return out


def replace_per_task(module: nn.Module, task: str | None) -> None:
    """Replaces every `PerTaskBatchNorm` inside `module` by the BatchNorm with the statistics of one task, in place.

    Raises:
        ValueError: There are none for `task`.
    """
    for name, child in module.named_children():
        if not isinstance(child, PerTaskBatchNorm):
            replace_per_task(child, task)
        elif task is not None and task in child.by_task:
            setattr(module, name, child.by_task[task])
        else:
            raise ValueError(
                f"The encoder keeps BatchNorm statistics per task and has none for {task!r}. "
                f"Name the task that is most like the new one: {', '.join(child.by_task)}."
            )


def group_norm(channels: int) -> nn.GroupNorm:
    """A GroupNorm with at most 32 groups that divides `channels`."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def to_group_norm(norm: _BatchNorm) -> nn.Module:
    """A GroupNorm with the scale and shift of `norm`, and with the activation some timm layers carry inside."""
    replacement = group_norm(norm.num_features)
    replacement.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    fused = [layer for layer in (getattr(norm, "drop", None), getattr(norm, "act", None)) if layer is not None]
    return nn.Sequential(replacement, *fused) if fused else replacement


def replace_batch_norm(module: nn.Module, replacement: Callable[[_BatchNorm], nn.Module]) -> None:
    """Replaces every BatchNorm inside `module`, in place."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, replacement(child))
        else:
            replace_batch_norm(child, replacement)


def normalises_by_batch(module: nn.Module) -> bool:
    """Whether a BatchNorm inside `module`, which is in training, normalises by the batch: none that is frozen does."""
    return any(isinstance(m, _BatchNorm) and m.training for m in module.modules())
