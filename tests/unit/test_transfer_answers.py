"""Answers of a part, scored as a whole and for any choice of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import SMALL_DETECTION, SMALL_PIXELS, WIDTHS, MemoryReader, random_target, small_encoder, spec_of

from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import DEFAULT_TASKS
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.transfer.evaluation import evaluation_batches, predict_part
from umedpt_lightning.types import IGNORE_INDEX

KINDS = ("class", "multilabel", "regression", "mask", "box")


def answered(kind: str, rows: list[int] | None = None) -> tuple[Answers, dict[str, float]]:
    """The answers of an untrained model for some samples, and the metrics that its task finds."""
    reader = MemoryReader(kind, size=8)
    if kind == "mask":
        reader.values[0][:9] = IGNORE_INDEX
    if rows is not None:
        reader.images, reader.values = reader.images[rows], [reader.values[row] for row in rows]
    torch.manual_seed(0)
    model = MultiTaskModel(small_encoder(), {"new": spec_of(kind)}, None, SMALL_PIXELS, SMALL_DETECTION)
    if kind == "box":  # an untrained one says nothing above its threshold
        model.task("new").fcos.score_thresh = 0.0
    data = TaskData(batch_size=3)
    answers, task = predict_part(model, "new", data, reader, ComputeOptions()), model.task("new")
    with torch.inference_mode():
        for batch in evaluation_batches("new", data, reader, ComputeOptions()):
            task.update(model(batch.images, "new"), batch.targets)
    return answers, {name: float(value) for name, value in task.compute().items()}


@pytest.mark.parametrize("rows", [None, [0, 3, 5]])
@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_some_samples_is_that_of_a_part_with_only_these(kind: str, rows: list[int] | None) -> None:
    answers, metrics = answered(kind)
    if rows is not None:
        metrics = answered(kind, rows)[1]
    found = answers.score(None if rows is None else np.array(rows))
    assert metrics
    # boxes of an untrained head are nearly equal: which of them is kept hangs on the last bits, thus on the batch
    near = 1e-3 if kind == "box" else 1e-5
    assert {name: found[name] for name in metrics} == pytest.approx(metrics, abs=near, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_is_drawn_twice_counts_twice(kind: str) -> None:
    answers = answered(kind)[0]
    assert answers.score(np.array([0, 0, 1])) == pytest.approx(
        answered(kind, [0, 0, 1])[0].score(), abs=1e-5, nan_ok=True
    )


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_every_answer_is_kept_with_its_own_score(kind: str) -> None:
    answers = answered(kind)[0]
    kept = answers.arrays()
    assert len(kept["score"]) == 8
    assert sum(name.startswith("answer_") for name in kept) == 8
    main = "dice" if kind == "mask" else "map50"
    assert kept["score"][5] == pytest.approx(answers.score(np.array([5]))[main], nan_ok=True)


@pytest.mark.parametrize("kind", ["class", "multilabel"])
def test_an_answer_that_is_no_number_states_no_probability(kind: str) -> None:
    spec, rng = spec_of(kind), np.random.default_rng(0)
    task = DEFAULT_TASKS[type(spec)](spec, WIDTHS)
    targets = torch.from_numpy(np.stack([random_target(kind, 8, rng) for _ in range(20)]))
    outputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    outputs[0] = torch.nan
    answers = task.answers()
    answers.add(outputs, targets)
    assert answers.score()["ece"] == pytest.approx(answers.score(np.arange(1, 20))["ece"])
    assert np.isnan(answers.score(np.zeros(3, np.int64))["ece"])
