"""What the program asks of a task is held where it is called, so that the message names the class and its method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from umedpt_lightning.tasks.base import Task
from umedpt_lightning.types import TaskSpec


def as_task(task: Any, name: str) -> Task:
    """The task called `name`, as it was built; raises ValueError where it is none, or lacks an attribute."""
    if not isinstance(task, Task):
        raise ValueError(
            f"Task {name!r} was built as a {type(task).__name__}. Derive it from umedpt_lightning.Task, and name the "
            "class."
        )
    wanted = {"spec": TaskSpec, "needs": str, "main_metric": str}
    lacks = [key for key, kind in wanted.items() if not isinstance(getattr(task, key, None), kind)]
    if lacks:
        raise ValueError(
            f"Task {name!r}: {type(task).__name__} does not say its {', '.join(lacks)}. Write `self.spec = spec` in "
            'the constructor, and in the class such as `needs = "embedding"` and `main_metric = "kappa"`, which names '
            "an entry of `compute`."
        )
    return task


def loss_of(task: Task, output: Any, targets: Any) -> Tensor:
    """The loss of a micro-batch; raises ValueError where it is no scalar from which gradients can be had."""
    loss: Any = task.loss(output, targets)
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        found = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"{type(task).__name__}.loss returned {found}, but it must be a float tensor of shape (), the mean over "
            "the micro-batch. Take its `.mean()`."
        )
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(
            f"{type(task).__name__}.loss does not depend on the head's output, so that nothing can be learned from it. "
            "Compute it from `output` without `detach`, `item` or NumPy; where no target is known return "
            "`output.sum() * 0`."
        )
    return loss


def metrics_of_task(task: Task) -> dict[str, Tensor]:
    """What `compute` gives, as tensors; raises ValueError where these are no numbers by name, or the main one lacks."""
    found: Any = task.compute()
    if not isinstance(found, Mapping):
        raise ValueError(f"{type(task).__name__}.compute returned a {type(found).__name__}. Return numbers by name.")
    metrics = {name: torch.as_tensor(value) for name, value in found.items()}
    if several := [name for name, value in metrics.items() if value.numel() != 1]:
        raise ValueError(
            f"{type(task).__name__}.compute gives several numbers for {', '.join(several)}. Give each a name of its "
            "own."
        )
    if task.main_metric not in metrics:
        raise ValueError(
            f"{type(task).__name__}.compute gives {', '.join(metrics) or 'nothing'}, but main_metric is "
            f"{task.main_metric!r}. Correct one of the two; what is undefined is NaN there."
        )
    return {name: value.reshape(()) for name, value in metrics.items()}


def predictions_of(task: Task, output: Any, count: int) -> Any:
    """What `predict` gives for a micro-batch; raises ValueError where it is not one for each of the `count` samples."""
    found = task.predict(output)
    if not hasattr(found, "__len__") or len(found) != count:
        what = f"{len(found)} predictions" if hasattr(found, "__len__") else type(found).__name__
        raise ValueError(
            f"{type(task).__name__}.predict returned {what} for {count} samples. Return a tensor with the samples "
            "first, or a list with one prediction a sample."
        )
    return found
