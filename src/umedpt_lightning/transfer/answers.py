"""What a model answered for each sample of a part, so that any choice of samples can be scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.tasks import Classification, Detection, MultilabelClassification, Segmentation, Task
from umedpt_lightning.tasks.box_matching import ImageMatches, average_precision, match_boxes
from umedpt_lightning.tasks.segmentation import overlap
from umedpt_lightning.transfer.statistics import calibration_error
from umedpt_lightning.types import IGNORE_INDEX, Boxes

Rows = NDArray[np.int64]


class Answers(ABC):
    """The answers for the samples of a part, in their order."""

    @abstractmethod
    def add(self, output: Any, targets: Any) -> None:
        """Adds a micro-batch: the head's output and the truth."""

    @abstractmethod
    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """The metrics of some samples, given by their rows, repeated where drawn more than once; None for all."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of them in a file."""


def answers_of(task: Task) -> Answers:
    """An empty place for the answers of a task."""
    match task:
        case Segmentation():
            return MaskAnswers(task)
        case Detection():
            return BoxAnswers(task)
    return VectorAnswers(task)


class VectorAnswers(Answers):
    """Of a task with an embedding: classes, labels, numbers.

    Args:
        task: Says what the outputs mean.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Adds outputs ``(B, K)`` and targets ``(B,)`` or ``(B, K)``."""
        self._outputs.append(output.float().cpu())
        self._targets.append(torch.as_tensor(targets).cpu())

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """The task's metrics, and ``ece`` where it states probabilities."""
        outputs, targets = torch.cat(self._outputs), torch.cat(self._targets)
        if rows is not None:
            outputs, targets = outputs[rows], targets[rows]
        return score(self._task, outputs, targets) | calibration(self._task, outputs, targets)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``outputs`` and ``targets``."""
        return {"outputs": torch.cat(self._outputs).numpy(), "targets": torch.cat(self._targets).numpy()}


class MaskAnswers(Answers):
    """Of a segmentation task.

    Args:
        task: It.
    """

    def __init__(self, task: Segmentation) -> None:
        self._task = task
        self._confusions: list[NDArray[np.int64]] = []
        self._masks: list[NDArray[np.uint8]] = []

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Adds logits ``(B, K, H, W)`` and masks ``(B, H, W)``."""
        classes = output.shape[1]
        for mask, truth in zip(self._task.predict(output).cpu().numpy(), targets.cpu().numpy(), strict=True):
            known = truth != IGNORE_INDEX
            pairs = truth[known].astype(np.int64) * classes + mask[known]
            self._confusions.append(np.bincount(pairs, minlength=classes**2).reshape(classes, classes))
            self._masks.append(mask)

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """The task's metrics, from all pixels of the samples together."""
        confusions = np.stack(self._confusions)
        chosen = confusions if rows is None else confusions[rows]
        metrics = overlap(torch.from_numpy(chosen.sum(0)), self._task.spec.classes)
        return {name: float(value) for name, value in metrics.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``score``, the Dice score of each sample, and ``answer_<row>``, its mask ``(H, W)`` uint8."""
        dice = [self.score(np.array([row]))["dice"] for row in range(len(self._masks))]
        return {"score": np.array(dice)} | {f"answer_{row}": mask for row, mask in enumerate(self._masks)}


class BoxAnswers(Answers):
    """Of a detection task.

    Args:
        task: It.
    """

    def __init__(self, task: Detection) -> None:
        self._task = task
        self._predicted: list[NDArray[np.float32]] = []
        self._matches: list[ImageMatches] = []

    def add(self, output: Any, targets: list[Boxes]) -> None:
        """Adds raw outputs and true boxes."""
        classes, most = len(self._task.spec.classes), self._task.max_detections
        for found, truth in zip(self._task.predict(output), targets, strict=True):
            boxes = torch.column_stack([found.boxes, found.labels, found.scores]).float().cpu().numpy()
            self._predicted.append(boxes)
            self._matches.append(match_boxes(boxes, torch.column_stack(truth).float().cpu().numpy(), classes, most))

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """The task's metrics."""
        chosen = self._matches if rows is None else [self._matches[row] for row in rows.tolist()]
        over_all, at_half = average_precision(chosen)
        return {"map": over_all, "map50": at_half}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``score``, the mAP50 of each sample, and ``answer_<row>``, its boxes ``(N, 6)``.

        Columns are x1, y1, x2, y2 in pixels, class and score.
        """
        scores = [self.score(np.array([row]))["map50"] for row in range(len(self._matches))]
        return {"score": np.array(scores)} | {f"answer_{row}": boxes for row, boxes in enumerate(self._predicted)}


def score(task: Task, outputs: Any, targets: Any) -> dict[str, float]:
    """The task's metrics of outputs of its head, NaN where undefined."""
    task.reset()
    task.update(outputs, targets)
    metrics = {name: float(value) for name, value in task.compute().items()}
    task.reset()
    return metrics


def calibration(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """``ece`` where a task states probabilities: of the answer, or the mean over the labels."""
    match task:
        case Classification():
            known = targets != IGNORE_INDEX
            stated, answers = task.predict(outputs[known]).max(dim=1)
            return {"ece": calibration_error(stated.numpy(), (answers == targets[known]).numpy())}
        case MultilabelClassification():
            errors = []
            for said, truth in zip(task.predict(outputs).T.numpy(), targets.T.numpy(), strict=True):
                seen = ~np.isnan(truth)
                errors.append(calibration_error(said[seen], truth[seen] == 1))
            return {"ece": float(np.nanmean(errors)) if not np.isnan(errors).all() else float("nan")}
    return {}
