"""Every label kind, those of the package and two of a user's own, through all that the program asks of one."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    KINDS,
    SMALL_DETECTION,
    SMALL_PIXELS,
    random_survival,
    random_target,
    small_encoder,
    spec_of,
    survival_spec,
)
from own_kind import LandmarkSpec, LandmarkTask, RiseSpec, RiseTask

from umedpt_lightning.data.formats.strata import strata_of
from umedpt_lightning.data.loading.dataset import collate
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.drawing.pictures import Example, draw, to_rgb
from umedpt_lightning.labels import IGNORE_INDEX, BoxLayer, MaskLayer, PageView, View
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Task, default_task
from umedpt_lightning.tasks.answers import metrics_of
from umedpt_lightning.types import BoxArrays, ClassSpec, MaskSpec, Sample, TaskBatch, TaskSpec, UnlabelledSpec, to_numpy

SIDE, SAMPLES = 32, 6


@dataclass
class Kind:
    """A label kind under test.

    Attributes:
        spec: What its data say.
        target: A random target.
        task: Its head; None for that of the package.
    """

    spec: TaskSpec
    target: Callable[[np.random.Generator], Any]
    task: type[Task] | None = None


def _rise(rng: np.random.Generator) -> dict[str, Any]:
    height = None if rng.random() < 0.3 else float(rng.normal())
    return {"slope": rng.normal(size=(SIDE, SIDE)).astype(np.float32), "height": height}


ALL = {kind: Kind(spec_of(kind), lambda rng, kind=kind: random_target(kind, SIDE, rng)) for kind in KINDS} | {  # type: ignore[misc]
    "landmarks": Kind(
        LandmarkSpec(channels=3, landmarks=("apex", "base")),
        lambda rng: rng.random((2, 2), np.float32),
        LandmarkTask,
    ),
    "rise": Kind(RiseSpec(channels=3), _rise, RiseTask),
    "survival": Kind(survival_spec(), random_survival),
    "unlabelled": Kind(UnlabelledSpec(channels=3), lambda rng: int(rng.integers(1 << 32))),
}
every_kind = pytest.mark.parametrize("name", ALL)


def samples_of(name: str) -> list[Sample]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, SIDE, SIDE, 3), np.uint8)
    return [Sample(image, ALL[name].target(rng), f"{i}.png") for i, image in enumerate(images)]


def predicted(name: str) -> tuple[MultiTaskModel, TaskBatch, Any, list[Any]]:
    """An untrained model, a batch, the head's output for it, and the predictions."""
    torch.manual_seed(0)
    kind = ALL[name]
    tasks = {"t": kind.task} if kind.task else None
    model = MultiTaskModel(small_encoder(), {"t": kind.spec}, tasks, SMALL_PIXELS, SMALL_DETECTION).eval()
    if name == "box":  # an untrained one says nothing above its threshold
        model.task("t").fcos.score_thresh = 0.0
    batch = model.task("t").prepare(collate("t", samples_of(name)))
    with torch.inference_mode():
        output = model(batch.images, "t")
    return model, batch, output, [to_numpy(one) for one in model.task("t").predict(output)]


@every_kind
def test_a_sound_target_has_no_fault_and_as_many_figures_as_it_says(name: str) -> None:
    spec = ALL[name].spec
    rows = np.full((SAMPLES, spec.columns), np.nan, np.float32)
    for row, sample in zip(rows, samples_of(name), strict=True):
        found, figures = spec.inspect(sample.target, (SIDE, SIDE))
        assert not [one for one in found if one.severity == "error"]
        if figures is not None:
            row[:] = figures
    assert set(spec.samples(rows)) in ({*spec.names}, set())
    statistics = spec.statistics(rows)
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics
    lines = spec.check_lines(statistics, SAMPLES)
    assert all(isinstance(text, str) for text in [*lines, *lines.values()])
    for one in spec.names if spec.columns else ():
        assert any(one in heading for heading in lines)


@every_kind
def test_figures_of_no_readable_sample_can_be_told_too(name: str) -> None:
    spec = ALL[name].spec
    statistics = spec.statistics(np.full((2, spec.columns), np.nan, np.float32))
    json.dumps(statistics, allow_nan=False)
    spec.check_lines(statistics, 2)


@pytest.mark.parametrize("wrong", ["text", None, 1.5, np.zeros((2, 3, 4), complex)])
@pytest.mark.parametrize("name", [*KINDS, "survival"])
def test_what_is_no_target_is_an_error_with_a_mend(name: str, wrong: Any) -> None:
    found, figures = ALL[name].spec.inspect(wrong, (SIDE, SIDE))
    assert [one.severity for one in found] == ["error"]
    assert found[0].mend.endswith(".")
    assert figures is None
    with pytest.raises(ValueError, match=r"this one is .*\."):
        ALL[name].spec.prepared(wrong, (SIDE, SIDE))


@every_kind
def test_targets_pass_transforms_workers_and_batches(name: str) -> None:
    spec, samples = ALL[name].spec, samples_of(name)
    prepared = [replace(one, target=spec.prepared(one.target, (SIDE, SIDE))) for one in samples]
    moved = [Transform((16, 16))(one, 0) for one in prepared]
    if name == "mask":
        assert moved[0].target.shape == (16, 16)
    batch = collate("t", moved)
    travelled = pickle.loads(pickle.dumps(batch)).to("cpu")
    assert str(to_numpy(travelled.targets)) == str(to_numpy(batch.targets))
    assert len(batch.targets) == SAMPLES


@every_kind
def test_statistics_strata_and_what_is_lacking_come_of_targets_in_memory(name: str) -> None:
    spec = ALL[name].spec
    targets = [sample.target for sample in samples_of(name)]
    if not isinstance(targets[0], int | np.ndarray) or name == "mask":
        assert strata_of(spec, None, SAMPLES, 0.5).names == ["samples"]
        return
    stacked = np.stack(targets)
    assert spec.with_statistics(stacked) == spec, "statistics do not count"
    strata = strata_of(spec, stacked, SAMPLES, 0.5)
    assert strata.members.shape[0] == SAMPLES
    assert strata.members.shape[1] >= len(strata.names)
    assert all(strata.members[:, i].any() for i in range(len(strata.names)))
    assert spec.labelled(stacked).shape == (SAMPLES,)
    assert all(sentence.endswith(".") for sentence in spec.lacking(stacked))


@every_kind
def test_truth_and_prediction_are_drawn_and_worded(name: str) -> None:
    spec, samples = ALL[name].spec, samples_of(name)
    predictions = predicted(name)[3]
    for sample, prediction in zip(samples, predictions, strict=True):
        views = [spec.truth_view(sample.target), spec.prediction_view(prediction)]
        views.append(spec.comparison_view(sample.target, prediction))
        for view in views:
            assert isinstance(view, View)
            assert view.lines or view.truth is not None or view.prediction is not None
        image = to_rgb(sample.image.transpose(2, 0, 1), spec.value_range)
        assert draw([Example(image, sample.name, view) for view in views], "task").width > 0


@every_kind
def test_a_table_has_a_row_of_plain_values(name: str) -> None:
    spec = ALL[name].spec
    rows = [spec.row(one) for one in predicted(name)[3]]
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert rows[0]
    assert all(isinstance(value, int | float | str) for row in rows for value in row.values())


@every_kind
def test_the_page_shows_something_of_every_prediction(name: str) -> None:
    spec = ALL[name].spec
    for prediction in predicted(name)[3]:
        shown = spec.page_view(prediction, 0.5)
        assert isinstance(shown, PageView)
        assert shown.bars or shown.numbers or shown.legend or shown.layer is not None
    assert spec.phrase
    assert spec.hub_type


@every_kind
def test_predictions_fit_a_picture_of_another_size(name: str) -> None:
    spec = ALL[name].spec
    (prediction, *_) = predicted(name)[3]
    small = spec.resized(prediction, (SIDE, SIDE), (SIDE // 2, SIDE // 4))
    layer = spec.prediction_view(small).prediction
    match layer:
        case MaskLayer(values):
            assert values.shape == (SIDE // 2, SIDE // 4)
        case BoxLayer(boxes):
            np.testing.assert_allclose(boxes, prediction.boxes * [0.25, 0.5, 0.25, 0.5], rtol=1e-6)
        case None:
            assert str(small) == str(prediction)
    assert spec.form == {"mask": "mask", "box": "objects"}.get(name, "values")


@every_kind
def test_answers_are_scored_as_the_task_scores_and_each_sample_alone(name: str) -> None:
    model, batch, output, _ = predicted(name)
    task = model.task("t")
    expected = metrics_of(task, output, batch.targets)
    answers = task.answers()
    answers.add(output, batch.targets)
    assert {key: answers.score()[key] for key in expected} == pytest.approx(expected, abs=1e-5, nan_ok=True)
    some = answers.score(np.array([0, 0, 3]))
    assert some.keys() >= expected.keys()
    arrays = answers.arrays()
    assert arrays["score"].shape == (SAMPLES,)
    assert not np.isnan(arrays["score"]).all()
    assert all(array.dtype != object for array in arrays.values()), "files of them are read without pickle"


@every_kind
def test_the_majority_baseline_is_scored_or_there_is_none(name: str) -> None:
    model, batch, _, _ = predicted(name)
    task = model.task("t")
    assert task.has_baseline == (ALL[name].task is None)
    if task.has_baseline:
        assert task.main_metric in metrics_of(task, task.baseline(batch.targets), batch.targets)


@every_kind
def test_the_loss_is_finite_and_teaches(name: str) -> None:
    model, batch, _, _ = predicted(name)
    loss = model.task("t").loss(model(batch.images, "t"), batch.targets)
    loss.backward()
    assert math.isfinite(loss.item())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.task("t").parameters())


def test_a_kind_without_a_head_is_told_with_the_mend() -> None:
    with pytest.raises(ValueError, match=r"'lung' has targets of the kind RiseSpec.*model\.tasks\.lung: \{class_path"):
        MultiTaskModel(small_encoder(), {"lung": RiseSpec(channels=3)})


def test_a_kind_that_derives_from_another_has_its_head() -> None:
    class Grades(ClassSpec):
        """Classes in an order."""

    spec = Grades(channels=3, classes=("low", "high"))
    assert default_task(spec) is default_task(spec_of("class"))


def test_a_task_with_the_older_name_of_its_baseline_is_told() -> None:
    class Older(LandmarkTask):
        def trivial(self, targets: Any) -> torch.Tensor:
            return torch.zeros(len(targets), 2, 2)

    model = MultiTaskModel(small_encoder(), {"t": ALL["landmarks"].spec}, {"t": Older})
    assert model.task("t").has_baseline
    with pytest.warns(FutureWarning, match=r"Older\.trivial is called `baseline` now"):
        assert model.task("t").baseline(torch.ones(3, 2, 2)).shape == (3, 2, 2)


# what is unlabelled


class OldReader(Reader):
    """A reader of a user's own from before, with 255 for what is unlabelled."""

    def __init__(self, kind: str, classes: int = 3) -> None:
        names = tuple(f"n{i}" for i in range(classes))
        self.spec = {"class": ClassSpec, "mask": MaskSpec}[kind](channels=1, classes=names)
        self.target = 255 if kind == "class" else np.array([[0, 255], [2, 1]], np.uint8)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((2, 2, 1), np.uint8), self.target, "old")


@pytest.mark.parametrize("kind", ["class", "mask"])
def test_255_of_a_reader_of_ones_own_is_unlabelled_for_one_more_release(kind: str) -> None:
    reader = OldReader(kind)
    with pytest.warns(FutureWarning, match=r"gives 255 for what is unlabelled.*It is -1 now.*return it"):
        target = reader.spec.prepared(reader.target, (2, 2))
    given = np.array(reader.target, np.int16)
    assert np.array_equal(target, np.where(given == 255, IGNORE_INDEX, given))
    with pytest.warns(FutureWarning):
        found, _ = reader.spec.inspect(reader.target, (2, 2))
    assert [one.severity for one in found] == (["warning"] if kind == "class" else [])


@pytest.mark.parametrize("kind", ["class", "mask"])
def test_255_is_a_class_where_there_are_so_many(kind: str) -> None:
    reader = OldReader(kind, classes=300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(reader.spec.prepared(reader.target, (2, 2)), reader.target)


def test_masks_are_int16_whatever_a_reader_gives() -> None:
    spec = MaskSpec(channels=1, classes=tuple(map(str, range(400))))
    for dtype in (np.uint8, np.uint16, np.int32, np.int64, np.int16):
        prepared = spec.prepared(np.array([[0, 99]], dtype), (1, 2))
        assert prepared.dtype == np.int16
        assert prepared.tolist() == [[0, 99]]
    with pytest.raises(ValueError, match=r"the mask is 1x2 .* the image is 2x2.*Save both"):
        spec.prepared(np.zeros((1, 2), np.int16), (2, 2))
    with pytest.raises(ValueError, match="at most 32768 classes"):
        MaskSpec(channels=1, classes=tuple(map(str, range(40_000))))


def test_a_value_that_no_class_has_is_an_error_and_no_unlabelled_pixel() -> None:
    spec = MaskSpec(channels=1, classes=("a", "b"))
    (found,) = spec.inspect(np.array([[0, 65535]], np.uint16), (1, 2))[0]
    assert found.severity == "error"
    assert spec.prepared(np.array([[0, 65535]], np.uint16), (1, 2)).tolist() == [[0, 32767]]


def test_boxes_stay_as_they_are() -> None:
    boxes = BoxArrays(np.ones((1, 4)), np.ones(1, np.int32))
    prepared = spec_of("box").prepared(boxes, (4, 4))
    assert (prepared.boxes.dtype, prepared.labels.dtype) == (np.float32, np.int64)
