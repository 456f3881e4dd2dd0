"""What is wrong with a class of a user's own is told where it is found, by the names of the class and its method."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import own_training
import pytest
import torch
from builders import SMALL_DETECTION, SMALL_PIXELS, MemoryReader, small_encoder, spec_of, trainer_of
from own_encoder import TwoMaps
from torch import Tensor, nn

from umedpt_lightning.blocks import Pyramid
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.loading.dataset import MultiTaskDataset, collate, prepared
from umedpt_lightning.data.loading.loaders import WorkerPool
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers import Bags, Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Classification
from umedpt_lightning.tasks.contract import as_task, loss_of, metrics_of_task
from umedpt_lightning.training import MultiTaskModule, ParameterGroups
from umedpt_lightning.training.aggregation import GradientAggregator
from umedpt_lightning.training.aggregation.base import planned
from umedpt_lightning.training.checkpoints import AtomicCheckpointIO, CheckpointError
from umedpt_lightning.training.coefficients import Coefficients
from umedpt_lightning.training.weighting import LossWeighting
from umedpt_lightning.types import RoundPlan, Sample, TaskRate, TaskSpec

pytestmark = pytest.mark.filterwarnings("ignore:.* does not keep the arguments:UserWarning")
PLAN = RoundPlan({"a": 1, "b": 1}, [], 1, {"a": TaskRate(1, 1), "b": TaskRate(1, 1)})


# --- encoders -------------------------------------------------------------------------------------------------------


class Changed(TwoMaps):
    """Whose pyramid is changed before it is given."""

    def __init__(self, change: Callable[[Pyramid], Any], **attributes: Any) -> None:
        super().__init__(in_channels=1)
        self.change = change
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        pyramid = super().forward(images, task)
        self.change(pyramid)
        return pyramid


@pytest.mark.parametrize(
    ("change", "attributes", "words"),
    [
        (lambda p: None, {"strides": [8, 16]}, r"Changed\.forward gave tensors .*\(2, 8, 6, 8\).*strides \[8, 16\]"),
        (lambda p: None, {"channels": [8, 8]}, r"Changed\.forward gave .*channels \[8, 8\].*in its constructor"),
        (lambda p: p.maps.reverse(), {}, r"Changed\.forward gave tensors .*finest first"),
        (lambda p: p.maps.pop(), {}, r"Changed\.forward gave tensors"),
        (lambda p: setattr(p, "padded_size", (12, 16)), {}, r"padded to \(12, 16\)"),
        (
            lambda p: setattr(p, "embedding", torch.zeros(2, 5)),
            {},
            r"embedding \(2, 5\).*embedding_channels.*\(2, 16\)",
        ),
    ],
)
def test_a_pyramid_that_is_not_what_the_attributes_say_is_refused(change: Any, attributes: Any, words: str) -> None:
    encoder = Changed(change, **attributes)
    model = MultiTaskModel(encoder, {"m": spec_of("mask", 1)}, None, SMALL_PIXELS, SMALL_DETECTION)
    with pytest.raises(ValueError, match=words):
        model(torch.zeros(2, 1, 24, 32), "m")


def test_where_places_do_not_count_maps_may_be_of_any_size() -> None:
    model = MultiTaskModel(Changed(lambda p: None, strides=[8, 16]), {"c": spec_of("class", 1)})
    assert len(model(torch.zeros(2, 1, 24, 32), "c")) == 2


@pytest.mark.parametrize("strides", [[3, 6, 12], [1]])
def test_strides_that_are_no_powers_of_two_are_called_so(strides: list[int]) -> None:
    encoder = Changed(lambda p: None, strides=strides, channels=[4] * len(strides))
    with pytest.raises(ValueError, match=r"'m' needs 'pixels'.*encoder Changed.*powers of two.*the last above 1"):
        MultiTaskModel(encoder, {"m": spec_of("mask", 1)})


# --- label kinds ----------------------------------------------------------------------------------------------------


def head(**methods: Any) -> Any:
    return type("Guest", (Classification,), methods)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"needs": None}, "Task 'c': Guest does not say its needs"),
        ({"main_metric": 3}, "Guest does not say its main_metric"),
    ],
)
def test_a_head_without_what_the_program_reads_is_refused(methods: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultiTaskModel(small_encoder(), {"c": spec_of("class")}, {"c": head(**methods)})
    with pytest.raises(ValueError, match="was built as a Linear"):
        as_task(nn.Linear(1, 1), "c")


def test_arguments_that_do_not_fit_are_told_with_the_class() -> None:
    def init(self: Any, spec: Any) -> None: ...

    with pytest.raises(TypeError, match=r"init\(\) takes 2 positional arguments"):
        MultiTaskModel(small_encoder(), {"c": spec_of("class")}, {"c": head(__init__=init)})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda self, output, targets: output.mean(1), r"Guest\.loss returned torch\.float32 of shape \(2,\)"),
        (lambda self, output, targets: 1.0, r"Guest\.loss returned float"),
        (lambda self, output, targets: None, r"Guest\.loss returned NoneType"),
        (lambda self, output, targets: output.detach().mean(), r"Guest\.loss does not depend on the head's output"),
    ],
)
def test_a_loss_that_teaches_nothing_is_refused(loss: Any, words: str) -> None:
    model = MultiTaskModel(small_encoder(), {"c": spec_of("class")}, {"c": head(loss=loss)})
    with pytest.raises(ValueError, match=words):
        loss_of(model.task("c"), torch.zeros(2, 3, requires_grad=True), torch.zeros(2).long())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"f1": torch.tensor(1.0)}, r"Guest\.compute gives f1, but main_metric is 'auroc'"),
        (torch.tensor(1.0), r"Guest\.compute returned a Tensor"),
        ({"auroc": torch.ones(2)}, r"Guest\.compute gives several numbers for auroc"),
    ],
)
def test_metrics_that_are_no_numbers_by_name_are_refused(found: Any, words: str) -> None:
    made = head(compute=lambda self: found)
    model = MultiTaskModel(small_encoder(), {"c": spec_of("class")}, {"c": made})
    with pytest.raises(ValueError, match=words):
        metrics_of_task(model.task("c"))


def test_metrics_may_be_plain_numbers() -> None:
    made = head(compute=lambda self: {"auroc": 0.5, "f1": torch.ones(1)})
    model = MultiTaskModel(small_encoder(), {"c": spec_of("class")}, {"c": made})
    assert {name: value.shape for name, value in metrics_of_task(model.task("c")).items()} == {"auroc": (), "f1": ()}


@pytest.mark.parametrize(("given", "words"), [(torch.ones(1, 2), "1 predictions for 3"), (None, "NoneType for 3")])
def test_predictions_that_are_not_one_a_sample_are_refused(given: Any, words: str) -> None:
    made = head(predict=lambda self, output: given)
    model = MultiTaskModel(small_encoder(), {"c": spec_of("class")}, {"c": made})
    with pytest.raises(ValueError, match=rf"Guest\.predict returned {words} samples"):
        model.predict([np.zeros((32, 32, 3), np.uint8)] * 3, "c")


# --- readers --------------------------------------------------------------------------------------------------------


class Drawing(Reader):
    """Whose samples come from the global generators."""

    def __init__(self) -> None:
        self.spec = TaskSpec(channels=1)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        target = (float(np.random.rand()), float(torch.rand(())))
        return Sample(np.random.randint(0, 255, (4, 4, 1), dtype=np.uint8), target, f"{index}")


def test_what_is_drawn_from_global_generators_follows_from_the_sample_alone() -> None:
    keys = [SampleKey("t", index, 7 + index) for index in range(4)]
    dataset = MultiTaskDataset({"t": Drawing()}, {"t": Transform()})

    def found(start: int) -> list[tuple[list[int], Any]]:
        stream = WorkerPool(1).stream(WorkerPool(1).load(dataset, [[key] for key in keys[start:]]))
        return [(batch.images.flatten().tolist(), batch.targets) for batch in stream]

    whole = found(0)
    assert found(2) == whole[2:]
    assert whole[0] != whole[1]
    images = [dataset[key].sample.image.flatten().tolist() for key in keys]  # without workers too
    assert images == [image for image, _ in whole]


class Given(Drawing):
    def __init__(self, sample: Any) -> None:
        super().__init__()
        self.sample = sample

    def __getitem__(self, index: int) -> Any:
        return self.sample


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (None, "Given gives a NoneType for sample 0"),
        ((np.zeros((4, 4, 1)), 1), "Given gives a tuple for sample 0"),
        (Sample(np.zeros((4, 4), np.uint8), 1, "x"), r"x: Given gives an image that is uint8 of shape \(4, 4\)"),
        (Sample(np.zeros((1, 4, 4), np.uint8), 1, "x"), r"it must be an array \(H, W, 1\)"),
    ],
)
def test_a_sample_of_another_form_is_refused(sample: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prepared(Given(sample), 0)


@pytest.mark.parametrize(("target", "kind"), [(torch.tensor(3), torch.int64), (torch.ones(2), torch.float32)])
def test_targets_may_be_tensors(target: Tensor, kind: torch.dtype) -> None:
    one = prepared(Given(Sample(np.zeros((4, 4, 1), np.uint8), target, "x")), 0)
    targets = collate("t", [one, one]).targets
    assert isinstance(targets, Tensor)
    assert (targets.dtype, targets.shape) == (kind, (2, *target.shape))


def test_an_image_that_cannot_be_resized_is_not_said_to_be_the_fault_of_augmentations() -> None:
    sample = Sample(np.zeros((4, 4, 1), np.int32), 1, "x")
    with pytest.raises(ValueError, match=r"(?s)x: int32 images .*cannot be resized .*uint8, uint16 or float32"):
        Transform(2)(sample, 0)


def test_bags_keep_a_number_as_it_is() -> None:
    reader = Drawing()
    reader.targets = np.array([1.5, 2.75, 3.0, 4.25], np.float32)
    bags = Bags(reader, group=r"(\d+)")
    assert [bags[i].target for i in range(len(bags))] == [1.5, 2.75, 3.0, 4.25]


def test_bags_of_a_reader_without_targets_name_it() -> None:
    with pytest.raises(ValueError, match=r"Given has no `targets`.*Give a `table`.*or set `targets`"):
        Bags(Given(Sample(np.zeros((4, 4, 1), np.uint8), 1, "7")), group=r"(\d+)")


# --- training -------------------------------------------------------------------------------------------------------


class Says(LossWeighting):
    def __init__(self, given: Any) -> None:
        super().__init__({"a": 1.0, "b": 1.0})
        self.given = given

    def forward(self, number: int) -> Any:
        return self.given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.tensor([1.0, -0.5]), r"Says\.forward gives the weights a 1, b -0\.5"),
        (torch.tensor([1.0, torch.nan]), r"Says\.forward gives the weights a 1, b nan"),
        (torch.zeros(2), r"Says\.forward gives the weights a 0, b 0"),
        ([1.0, 1.0], r"Says\.forward returned a list"),
    ],
)
def test_weights_that_make_no_sense_are_refused_in_any_round(given: Any, words: str) -> None:
    weighting = Says(torch.ones(2))
    coefficients = Coefficients(weighting)
    coefficients.of_round(0, PLAN, torch.zeros(()))
    weighting.given = given
    with pytest.raises(ValueError, match=rf"model\.weighting: {words}"):
        coefficients.of_round(1, PLAN, torch.zeros(()))


@pytest.mark.parametrize("factors", [None, [1.0, 1.0], {"c": 2.0}])
def test_factors_that_are_of_no_task_are_refused(factors: Any) -> None:
    class Guest(GradientAggregator):
        def plan_round(self, *_: Any) -> Any:
            return factors

    with pytest.raises(ValueError, match=r"Guest\.plan_round returned .*names of tasks \(a, b\)"):
        planned(Guest(), 0, PLAN, 1.0)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), None])
def test_a_rate_that_is_no_share_is_refused(rate: Any) -> None:
    class Guest(ParameterGroups):
        def rate(self, *_: Any) -> Any:
            return rate

    with pytest.raises(ValueError, match=r"Guest\.rate gives .* for weight"):
        Guest().split(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"callbacks": {"Fine": {"x": 1}, "Counter": {"x": np.float64(2)}}}, r"callbacks\.Counter holds .*numpy"),
        ({"aggregator": {"seen": deque([1.0])}}, r"aggregator\.seen holds .*collections\.deque"),
        ({"optimizer_states": [{"state": {0: {"a": np.arange(3)}}}]}, r"optimizer_states holds .*numpy"),
    ],
)
def test_a_checkpoint_that_could_not_be_loaded_again_is_not_written(part: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}}, file)
    with pytest.raises(CheckpointError, match=rf"^The checkpoint \S+ is not written.*{words}.*float\(x\)"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(2)}, **part}, file)
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    assert AtomicCheckpointIO().load_checkpoint(file)["state_dict"]["w"].tolist() == [1, 1]


class Doubles(GradientAggregator):
    def plan_round(self, *_: Any) -> dict[str, float]:
        return {"nothing": 2.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": {"c": head(loss=lambda self, output, targets: output.detach().mean())}}, r"Guest\.loss does not"),
        ({"tasks": {"c": head(loss=lambda self, output, targets: output.mean(1))}}, r"Guest\.loss returned"),
        ({"tasks": {"c": head(compute=lambda self: {"f1": torch.ones(())})}}, r"Guest\.compute gives f1"),
        ({"aggregator": Doubles()}, r"Doubles\.plan_round returned"),
    ],
)
def test_a_run_says_so_too(options: dict[str, Any], words: str) -> None:
    reader = MemoryReader("class")
    data = MultiTaskDataModule(
        {"c": TaskData(train=reader, val=reader, batch_size=2)}, num_workers=0, steps_per_epoch=1
    )
    module = MultiTaskModule(data.specs, small_encoder(), **options)
    with pytest.raises(ValueError, match=words):
        trainer_of(max_epochs=1, limit_val_batches=1).fit(module, data)


def test_own_parts_of_these_tests_are_not_refused() -> None:
    weighting = own_training.SlowestFirst({"a": 1.0, "b": 1.0})
    assert set(Coefficients(weighting).of_round(0, PLAN, torch.zeros(()))) == {"a", "b"}
