"""Heads on frozen embeddings, with what is free in them chosen on validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.tasks import Classification, MultilabelClassification, Regression, Task
from umedpt_lightning.transfer.answers import score
from umedpt_lightning.transfer.embeddings import Embeddings
from umedpt_lightning.transfer.linear import Linear, binary_path, logistic_path, ridge_path
from umedpt_lightning.transfer.neighbours import Neighbours
from umedpt_lightning.types import IGNORE_INDEX

Array = NDArray[np.float64]
#: Strengths of the penalty that are tried, from strong to weak.
STRENGTHS = tuple(10.0**exponent for exponent in range(3, -6, -1))
#: Numbers of neighbours that are tried.
NEIGHBOURS = (1, 3, 5, 10, 20, 50)

#: Stands for a logit of minus infinity in the loss.
_NEVER = -30.0

#: Standardised features ``(N, D)`` to outputs like those of the task's head.
Model = Callable[[Array], Array]


@dataclass(frozen=True)
class Standardiser:
    """Mean 0 and standard deviation 1 of every feature, by the labelled samples; constant features become 0.

    Attributes:
        mean: ``(D,)``.
        scale: ``(D,)``.
    """

    mean: Array
    scale: Array

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Standardiser:
        """That of features ``(N, D)``."""
        x = features.astype(np.float64)
        std = x.std(0)
        constant = std <= 1e-6 * (np.abs(x).max(0) + 1e-12)  # what is left there is rounding
        return cls(x.mean(0), np.where(constant, np.inf, std))

    def __call__(self, features: NDArray[np.float32]) -> Array:
        """Standardised features ``(N, D)``."""
        standardised: Array = (features.astype(np.float64) - self.mean) / self.scale
        return standardised


@dataclass(frozen=True)
class Probe:
    """A head on embeddings that has been fitted.

    Attributes:
        standardiser: Comes first.
        model: Comes second.
        options: What was chosen on validation data.
        val: The metrics of the val part.
        notes: Sentences on what is not as one might expect.
    """

    standardiser: Standardiser
    model: Model
    options: dict[str, float]
    val: dict[str, float]
    notes: tuple[str, ...]

    def __call__(self, features: NDArray[np.float32]) -> Tensor:
        """Outputs like those of the task's head for features ``(N, D)``."""
        return torch.from_numpy(self.model(self.standardiser(features)).astype(np.float32))


def linear_probe(task: Task, train: Embeddings, val: Embeddings) -> Probe:
    """Logistic regression for classes and labels, ridge for numbers.

    The strength of the penalty is that with the least loss of the task on the val part: a ranking alone, as AUROC,
    often takes so strong a penalty that all samples go to the largest class. Weights of classes are those of the task.

    Args:
        task: Of the label type of the data, built from the spec of the labelled samples.
        train: Embeddings of the labelled samples.
        val: Embeddings of the val part.

    Raises:
        ValueError: The task has no embedding, or the val part cannot tell good from bad.
    """
    train = _known(train)
    standardiser = Standardiser.of(train.features)
    x = standardiser(train.features)
    path = _path(task, x, train.targets)
    models = [({"strength": strength}, model) for strength, model in zip(STRENGTHS, path, strict=True)]
    probe = _best(task, models, standardiser, val, _few(task, train.targets), _negative_loss)
    chosen = next(model for options, model in models if options == probe.options)
    if not chosen.converged:
        return _noted(probe, "The logistic regression did not converge: its gradient is not quite zero.")
    return probe


def neighbour_probe(task: Task, train: Embeddings, val: Embeddings) -> Probe:
    """The nearest neighbours; their number is that with the best main metric on the val part.

    Arguments and errors are those of `linear_probe`.
    """
    train = _known(train)
    standardiser = Standardiser.of(train.features)
    x = standardiser(train.features)
    values, to_output = _values(task, train.targets)
    candidates = [k for k in NEIGHBOURS if k <= len(x)]
    models = (({"k": float(k)}, _Answer(Neighbours(x, values, k), to_output)) for k in candidates)
    return _best(task, models, standardiser, val, _few(task, train.targets), _main_metric)


@dataclass(frozen=True)
class _Answer:
    neighbours: Neighbours
    to_output: Callable[[Array], Array]

    def __call__(self, features: Array) -> Array:
        return self.to_output(self.neighbours(features))


def _negative_loss(task: Task, outputs: Tensor, targets: Tensor) -> float:
    return -float(task.loss(outputs.clamp_min(_NEVER), targets))


def _main_metric(task: Task, outputs: Tensor, targets: Tensor) -> float:
    return score(task, outputs, targets)[task.main_metric]


def _best(
    task: Task,
    models: Iterable[tuple[dict[str, float], Model]],
    standardiser: Standardiser,
    val: Embeddings,
    notes: tuple[str, ...],
    worth: Callable[[Task, Tensor, Tensor], float],
) -> Probe:
    """The first of those that are worth most on validation data."""
    x, targets = standardiser(val.features), torch.from_numpy(val.targets)
    rated = []
    for options, model in models:
        outputs = torch.from_numpy(model(x).astype(np.float32))
        rated.append((worth(task, outputs, targets), options, model, score(task, outputs, targets)))
    _, options, model, metrics = max(rated, key=lambda candidate: candidate[0])
    if math.isnan(metrics[task.main_metric]):
        raise ValueError(
            f"The val part has no defined {task.main_metric}, so nothing can be chosen on it. It needs samples of two "
            "classes, of both values of a label, or two different numbers: give it more."
        )
    return Probe(standardiser, model, options, metrics, notes)


def _path(task: Task, x: Array, targets: NDArray[Any]) -> Iterator[Linear]:
    match task:
        case Classification():
            count = len(task.spec.classes)
            weights = np.ones(count) if task.class_weights is None else task.class_weights.double().cpu().numpy()
            return logistic_path(x, targets, count, STRENGTHS, weights)
        case MultilabelClassification():
            given = task.positive_weights
            weights = np.ones(targets.shape[1]) if given is None else given.double().cpu().numpy()
            return binary_path(x, targets.astype(np.float64), STRENGTHS, weights)
        case Regression():
            return ridge_path(x, _standardised(task, targets), STRENGTHS)
    raise ValueError(f"{type(task).__name__} reads no embedding, so there is no linear probe for it: use `finetune`.")


def _values(task: Task, targets: NDArray[Any]) -> tuple[Array, Callable[[Array], Array]]:
    """What neighbours vote with, and how their mean becomes an output of the head."""
    match task:
        case Classification():
            return np.eye(len(task.spec.classes))[targets], _log
        case MultilabelClassification():
            return targets.astype(np.float64), lambda p: _log(p) - _log(1 - p)
        case Regression():
            return _standardised(task, targets), lambda numbers: numbers
    raise ValueError(f"{type(task).__name__} reads no embedding, so it has no neighbours: use `finetune`.")


def _log(shares: Array) -> Array:
    logs: Array = np.log(np.clip(shares, 1e-12, 1))
    return logs


def _standardised(task: Regression, targets: NDArray[Any]) -> Array:
    numbers: Array = (targets - task.means.double().cpu().numpy()) / task.stds.double().cpu().numpy()
    return numbers


def _known(train: Embeddings) -> Embeddings:
    """Without samples that have no class."""
    if train.targets.ndim > 1:
        return train
    rows = np.flatnonzero(train.targets != IGNORE_INDEX)
    if not len(rows):
        raise ValueError("None of the labelled samples has a class. Take a larger fraction.")
    return train[rows]


def _few(task: Task, targets: NDArray[Any]) -> tuple[str, ...]:
    """What the labelled samples lack."""
    match task:
        case Classification():
            counts = np.bincount(targets, minlength=len(task.spec.classes))
            present = [name for name, count in zip(task.spec.classes, counts, strict=True) if count]
            if len(present) == 1:
                return (f"All {len(targets)} labelled samples are of class {present[0]!r}: it is always the answer.",)
            lacking = [name for name in task.spec.classes if name not in present]
            return (f"No labelled sample is of class {', '.join(lacking)}: never the answer.",) if lacking else ()
        case MultilabelClassification():
            one = [n for n, v in zip(task.spec.labels, targets.T, strict=True) if len(set(v[~np.isnan(v)])) < 2]
            return (f"The labelled samples show {', '.join(one)} one way only: answered by frequency.",) if one else ()
    return ()


def _noted(probe: Probe, note: str) -> Probe:
    return Probe(probe.standardiser, probe.model, probe.options, probe.val, (*probe.notes, note))
