"""The metrics of a part, and intervals over patients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.loaders import EvaluationLoader, WorkerPool
from umedpt_lightning.data.loading.sampling import EvaluationSampler
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.transfer.statistics import bootstrap_intervals
from umedpt_lightning.types import TaskBatch

#: How often patients are drawn for an interval.
REPLICATES = 200


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
