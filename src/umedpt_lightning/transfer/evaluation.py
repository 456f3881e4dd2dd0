"""The answers for a part, and how sure figures are: intervals over seeds and over patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.loaders import EvaluationLoader, WorkerPool
from umedpt_lightning.data.loading.sampling import EvaluationSampler
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.types import TaskBatch

#: How often patients are drawn for an interval.
REPLICATES = 200
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of so many defined values, NaN for none, and where the true one lies with a probability of 95 %.

    Both ends are NaN for fewer than two different values, which tell nothing of a spread.
    """

    mean: float
    low: float
    high: float
    count: int


def seed_interval(values: Sequence[float]) -> Interval:
    """The t-interval of the mean of independent repetitions; undefined (NaN) values do not count."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if len(np.unique(known)) < 2:  # repetitions of the same, as of a probe with all labels
        return Interval(mean, math.nan, math.nan, len(known))
    half = float(student.ppf((1 + LEVEL) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return Interval(mean, mean - half, mean + half, len(known))


def bootstrap_intervals(
    metrics: Callable[[NDArray[np.int64]], dict[str, float]],
    groups: NDArray[np.str_] | None,
    samples: int,
    replicates: int,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstrap percentile intervals of 95 % over patients: whole groups are drawn with replacement.

    Samples of a patient are alike, so drawing them one by one would make the interval too narrow. Efron & Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        metrics: The metrics of some samples, given by their rows, repeated where they were drawn more than once.
        groups: ``(samples,)`` what each shares with others; None where each is of its own.
        samples: How many there are.
        replicates: How often they are drawn.
        seed: Of the draws.

    Returns:
        Lower and upper end of each metric, NaN for one that is never defined, or where there is one group alone, which
        tells nothing of a spread.
    """
    units, unit_of = np.unique(np.arange(samples) if groups is None else groups, return_inverse=True)
    members = np.split(np.argsort(unit_of, kind="stable"), np.bincount(unit_of).cumsum()[:-1])
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(replicates):
        rows = np.concatenate([members[unit] for unit in rng.integers(0, len(units), len(units))])
        for name, value in metrics(rows).items():
            drawn.setdefault(name, []).append(value)
    intervals = {}
    for name, values in drawn.items():
        known = [value for value in values if len(units) > 1 and not math.isnan(value)] or [math.nan]
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        intervals[name] = (low, high)
    return intervals


def patient_intervals(answers: Answers, reader: Reader) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each metric over patients, of the answers for a reader's samples."""
    return bootstrap_intervals(answers.score, reader.groups, len(reader), REPLICATES)


def evaluation_batches(name: str, data: TaskData, reader: Reader, compute: ComputeOptions) -> Iterator[TaskBatch]:
    """All samples of a reader in order, resized, without augmentation, on the device that computes."""
    dataset = MultiTaskDataset({name: reader}, {name: data.evaluation_transform})
    sampler = EvaluationSampler({name: len(reader)}, {name: data.batch_size})
    pool = WorkerPool(compute.num_workers, pin_memory=compute.device.startswith("cuda"))
    for batch in EvaluationLoader(dataset, sampler, pool):
        yield batch.to(compute.device)


@torch.inference_mode()
def predict_part(model: MultiTaskModel, name: str, data: TaskData, reader: Reader, compute: ComputeOptions) -> Answers:
    """A model's answers for all samples of a part."""
    model.eval().to(compute.device)  # Lightning leaves it on the CPU
    task = model.task(name)
    answers = task.answers()
    for batch in evaluation_batches(name, data, reader, compute):
        answers.add(model(batch.images, name), task.truth(batch))
    return answers
