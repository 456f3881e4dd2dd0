"""The metrics of a part: the task's own, calibration, and intervals over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Classification, MultilabelClassification, Task
from umedpt_lightning.transfer.embeddings import Machine, evaluation_batches
from umedpt_lightning.transfer.statistics import calibration_error, over_groups
from umedpt_lightning.types import IGNORE_INDEX

#: How often patients are drawn for an interval.
REPLICATES = 200


def score(task: Task, outputs: Any, targets: Any) -> dict[str, float]:
    """The task's metrics of outputs of its head, NaN where undefined."""
    task.reset()
    task.update(outputs, targets)
    metrics = {name: float(value) for name, value in task.compute().items()}
    task.reset()
    return metrics


def full_score(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The task's metrics, and ``ece`` where it states probabilities: of the answer, or the mean over the labels."""
    metrics = score(task, outputs, targets)
    match task:
        case Classification():
            known = targets != IGNORE_INDEX
            stated, answers = task.predict(outputs[known]).max(dim=1)
            metrics["ece"] = calibration_error(stated.numpy(), (answers == targets[known]).numpy())
        case MultilabelClassification():
            errors = []
            for stated, truth in zip(task.predict(outputs).T.numpy(), targets.T.numpy(), strict=True):
                seen = ~np.isnan(truth)
                errors.append(calibration_error(stated[seen], truth[seen] == 1))
            metrics["ece"] = float(np.nanmean(errors)) if not np.isnan(errors).all() else float("nan")
    return metrics


def patient_intervals(
    task: Task, outputs: Tensor, targets: Tensor, groups: NDArray[np.str_] | None
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each of the task's metrics over patients, see `over_groups`."""

    def metrics(rows: NDArray[np.int64]) -> dict[str, float]:
        return score(task, outputs[rows], targets[rows])

    return over_groups(metrics, groups, len(targets), REPLICATES)


@torch.inference_mode()
def evaluate(
    model: MultiTaskModel, name: str, data: TaskData, reader: Reader, machine: Machine
) -> tuple[dict[str, float], Tensor | None, Tensor | None]:
    """The metrics of a model on a part; for tasks with an embedding its outputs and targets too, on the CPU."""
    task = model.task(name)
    model.eval()
    task.reset()
    outputs, targets = [], []
    for batch in evaluation_batches(name, data, reader, machine):
        output = model(batch.images, name)
        if task.needs == "embedding":
            outputs.append(output.float().cpu())
            targets.append(torch.as_tensor(batch.targets).cpu())
        task.update(output, batch.targets)
    metrics = {key: float(value) for key, value in task.compute().items()}
    task.reset()
    if not outputs:
        return metrics, None, None
    return metrics, torch.cat(outputs), torch.cat(targets)
