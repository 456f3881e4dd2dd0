"""The metrics of a part, and intervals over patients."""

from __future__ import annotations

import torch

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.transfer.embeddings import Machine, evaluation_batches
from umedpt_lightning.transfer.statistics import bootstrap_intervals

#: How often patients are drawn for an interval.
REPLICATES = 200


def patient_intervals(answers: Answers, reader: Reader) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each metric over patients, of the answers for a reader's samples."""
    return bootstrap_intervals(answers.score, reader.groups, len(reader), REPLICATES)


@torch.inference_mode()
def predict_part(model: MultiTaskModel, name: str, data: TaskData, reader: Reader, machine: Machine) -> Answers:
    """A model's answers for all samples of a part."""
    model.eval()
    task = model.task(name)
    answers = task.answers()
    for batch in evaluation_batches(name, data, reader, machine):
        answers.add(model(batch.images, name), task.truth(batch))
    return answers
