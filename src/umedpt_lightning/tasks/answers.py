"""What a task answered for each sample of a part, so that any choice of samples can be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.labels.calibration import mean_calibration_error
from umedpt_lightning.types import map_leaves, to_numpy

if TYPE_CHECKING:
    from umedpt_lightning.tasks.base import Task

Rows = NDArray[np.int64]


class Answers:
    """The answers of a task for the samples of a part, in their order.

    This one keeps the head's outputs and the targets, and runs them through the task's metrics. It serves every task
    whose `forward` gives a tensor with ``B`` first, or a dataclass or mapping of such.

    Args:
        task: Whose answers.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._outputs: list[Any] = []
        self._targets: list[Any] = []

    def add(self, output: Any, targets: Any) -> None:
        """Adds a micro-batch: the head's output and the truth."""
        self._outputs.append(map_leaves(output, _on_cpu))
        self._targets.append(map_leaves(targets, _on_cpu))

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """The metrics of some samples, and ``ece`` where probabilities are stated.

        Args:
            rows: Which, repeated where they were drawn more than once; None for all.
        """
        outputs, targets = joined(self._outputs), joined(self._targets)
        if rows is not None:
            outputs, targets = picked(outputs, rows), picked(targets, rows)
        metrics = metrics_of(self._task, outputs, targets)
        predictions, truth = to_numpy(self._task.predict(outputs)), to_numpy(targets)
        stated = self._task.spec.stated(predictions, truth)
        return metrics | {"ece": mean_calibration_error(stated)} if stated else metrics

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of them in a file: ``score`` ``(N,)``, NaN where undefined, ``predictions`` and ``targets``."""
        outputs, targets = joined(self._outputs), joined(self._targets)
        kept: dict[str, Any] = {"score": self._task.sample_scores(outputs, targets)}
        kept |= {"predictions": to_numpy(self._task.predict(outputs)), "targets": to_numpy(targets)}
        return {name: value for name, value in kept.items() if isinstance(value, np.ndarray)}

    def prediction(self, arrays: Mapping[str, NDArray[Any]], row: int) -> Any:
        """The prediction for a sample, out of what `arrays` gave; None where none is kept."""
        return arrays["predictions"][row] if "predictions" in arrays else None


def metrics_of(task: Task, outputs: Any, targets: Any) -> dict[str, float]:
    """The task's metrics of outputs of its head, NaN where undefined."""
    task.reset()
    task.update(outputs, targets)
    metrics = {name: float(value) for name, value in task.compute().items()}
    task.reset()
    return metrics


def joined(parts: Sequence[Any]) -> Any:
    """Micro-batches as one: tensors with ``B`` first, lists of ``B`` items, and dataclasses and mappings of such."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    if isinstance(first, dict):
        return {key: joined([part[key] for part in parts]) for key in first}
    if is_dataclass(first) and not isinstance(first, type):
        return replace(first, **{f.name: joined([getattr(part, f.name) for part in parts]) for f in fields(first)})
    raise ValueError(
        f"Outputs and targets that are a {type(first).__name__} cannot be joined and scored again. Give your task an "
        "`answers` that returns an `Answers` of its own."
    )


def picked(value: Any, rows: Rows) -> Any:
    """Some samples of what `joined` gave."""
    if isinstance(value, Tensor):
        return value[torch.from_numpy(rows)]
    if isinstance(value, list):
        return [value[row] for row in rows.tolist()]
    if isinstance(value, dict):
        return {key: picked(item, rows) for key, item in value.items()}
    return replace(value, **{f.name: picked(getattr(value, f.name), rows) for f in fields(value)})


def _on_cpu(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
