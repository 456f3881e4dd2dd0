"""Heads on frozen embeddings, with what is free in them chosen on validation data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.tasks import Task
from umedpt_lightning.tasks.answers import metrics_of
from umedpt_lightning.tasks.base import CERTAIN, LinearFamily
from umedpt_lightning.transfer.embeddings import Embeddings
from umedpt_lightning.transfer.linear import Linear, binary_path, logistic_path, ridge_path, votes

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
    """A head on embeddings that has been fitted: a standardiser, then a model.

    Attributes:
        options: What was chosen on the val part.
        val: The metrics there.
        notes: Sentences on what is not as one might expect.
    """

    standardiser: Standardiser
    model: Model
    options: dict[str, float]
    val: dict[str, float]
    notes: tuple[str, ...]

    def __call__(self, features: NDArray[np.float32]) -> Tensor:
        """Outputs like those of the task's head for features ``(N, D)``."""
        return _as_output(self.model(self.standardiser(features)))


def linear_probe(task: Task, train: Embeddings, val: Embeddings) -> Probe:
    """Logistic regression for classes and labels, ridge for numbers.

    The strength of the penalty is that with the least loss of the task on the val part: a ranking alone, as AUROC,
    often takes so strong a penalty that all samples go to the largest class. Weights of classes are those of the task,
    which is built from the spec of the labelled samples.

    Raises:
        ValueError: The task has no linear model, or the val part cannot tell good from bad.
    """
    family, train, standardiser = _start(task, train)
    count, weights = len(task.spec.names), task.linear_weights()
    weights = np.ones(count) if weights is None else weights
    path = family.path(standardiser(train.features), _targets(task, train), STRENGTHS, weights)
    x_val = standardiser(val.features)
    candidates = [({"strength": s}, model, model(x_val)) for s, model in zip(STRENGTHS, path, strict=True)]

    def worth(outputs: Tensor, targets: Tensor) -> float:
        return -float(task.loss(outputs.clamp_min(_NEVER), targets))

    options, model, metrics = _best(task, candidates, val.targets, worth)
    notes = task.spec.lacking(train.targets)
    if not next(linear for tried, linear, _ in candidates if tried == options).converged:
        notes = (*notes, "The logistic regression did not converge: its gradient is not quite zero.")
    return Probe(standardiser, model, options, metrics, notes)


def neighbour_probe(task: Task, train: Embeddings, val: Embeddings) -> Probe:
    """The nearest neighbours; their number is that with the best main metric on the val part.

    Arguments and errors are those of `linear_probe`.
    """
    family, train, standardiser = _start(task, train)
    x = standardiser(train.features)
    values = family.votes(_targets(task, train), len(task.spec.names))

    def model_of(k: int) -> Model:
        return lambda features: family.to_output(next(votes(x, values, features, [k])))

    numbers = [k for k in NEIGHBOURS if k <= len(x)]
    candidates = (
        ({"k": float(k)}, model_of(k), family.to_output(mean))
        for k, mean in zip(numbers, votes(x, values, standardiser(val.features), numbers), strict=True)
    )

    def worth(outputs: Tensor, targets: Tensor) -> float:
        return metrics_of(task, outputs, targets)[task.main_metric]

    options, model, metrics = _best(task, candidates, val.targets, worth)
    return Probe(standardiser, model, options, metrics, task.spec.lacking(train.targets))


def _best(
    task: Task,
    candidates: Iterable[tuple[dict[str, float], Model, Array]],
    val: NDArray[Any],
    worth: Callable[[Tensor, Tensor], float],
) -> tuple[dict[str, float], Model, dict[str, float]]:
    """Options, model and metrics of the first of those whose outputs are worth most for the targets of the val part."""
    targets, rated = torch.from_numpy(val), []
    for options, model, answers in candidates:
        outputs = _as_output(answers)
        rated.append((worth(outputs, targets), options, model, metrics_of(task, outputs, targets)))
    _, options, model, metrics = max(rated, key=lambda rating: -math.inf if math.isnan(rating[0]) else rating[0])
    if math.isnan(metrics[task.main_metric]):
        raise ValueError(
            f"The val part has no defined {task.main_metric}, so nothing can be chosen on it. It needs samples of two "
            "classes, of both values of a label, or two different numbers: give it more."
        )
    return options, model, metrics


def _as_output(answers: Array) -> Tensor:
    """In float32, and finite where a class cannot be: metrics count what is not finite as wrong."""
    return torch.from_numpy(answers.astype(np.float32)).clamp_min(-CERTAIN)


class _Family(NamedTuple):
    """How a `LinearFamily` is fitted.

    Attributes:
        path: The models for standardised features, targets, strengths, and weights of classes or labels.
        votes: What neighbours vote with, of targets and the number of classes.
        to_output: How the mean of votes becomes an output of the head.
    """

    path: Callable[[Array, NDArray[Any], Sequence[float], Array], Iterator[Linear]]
    votes: Callable[[NDArray[Any], int], Array]
    to_output: Callable[[Array], Array]


def _log(shares: Array) -> Array:
    logs: Array = np.log(np.clip(shares, 1e-12, 1))
    return logs


_FAMILIES: dict[LinearFamily, _Family] = {
    "classes": _Family(logistic_path, lambda classes, count: np.eye(count)[classes], _log),
    "labels": _Family(binary_path, lambda labels, _: labels, lambda shares: _log(shares) - _log(1 - shares)),
    "numbers": _Family(ridge_path, lambda numbers, _: numbers, lambda numbers: numbers),
}


def _targets(task: Task, train: Embeddings) -> NDArray[Any]:
    targets = task.linear_targets(train.targets)
    return targets if task.linear_family == "classes" else targets.astype(np.float64)


def _start(task: Task, train: Embeddings) -> tuple[_Family, Embeddings, Standardiser]:
    """How the task is fitted, the samples that have a label, and their standardisation."""
    if task.linear_family is None:
        raise ValueError(
            f"{type(task).__name__} has no linear model on embeddings, so that no linear probe and no neighbours "
            "can stand in for its head: use `finetune`, or set its `linear_family`."
        )
    rows = np.flatnonzero(task.spec.labelled(train.targets))
    if not len(rows):
        raise ValueError("None of the labelled samples has a label. Take a larger fraction.")
    return _FAMILIES[task.linear_family], train[rows], Standardiser.of(train[rows].features)
