"""The metrics of a part, and intervals over patients."""

from __future__ import annotations

import torch

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.transfer.embeddings import evaluation_batches
from umedpt_lightning.transfer.statistics import bootstrap_intervals

#: How often patients are drawn for an interval.
REPLICATES = 200


def patient_intervals(answers: Answers, reader: Reader) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each metric over patients, of the answers for a reader's samples."""
    return bootstrap_intervals(answers.score, reader.groups, len(reader), REPLICATES)


@torch.inference_mode()
def predict_part(model: MultiTaskModel, name: str, data: TaskData, reader: Reader, compute: ComputeOptions) -> Answers:
    """A model's answers for all samples of a part."""
    model.eval().to(compute.device)  # Lightning leaves it on the CPU
    task = model.task(name)
    answers = task.answers()
    for batch in evaluation_batches(name, data, reader, compute):
        answers.add(model(batch.images, name), task.truth(batch))
    return answers
