"""Predicting in Python: images as they are stored, of any size, and results in their own pixels."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_convnext, small_encoder, spec_of

from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.io.arrays import stacks
from umedpt_lightning.io.resize import resize
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Detections
from umedpt_lightning.types import Sample

SIZES = {"a_class": (64, 32), "a_mask": (32, 64), "a_box": (64, 64)}


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {f"a_{kind}": spec_of(kind) for kind in KINDS} | {"grey": spec_of("class", channels=1)}
    model = MultiTaskModel(
        small_encoder(), specs, pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION, sizes=SIZES
    )
    return model.eval()


def picture(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Any:
    """Smooth, as images are; noise would hide a shift."""
    noise = np.random.default_rng(seed).random(shape)
    return (cv2.GaussianBlur(noise, (5, 5), 2) * 255).reshape(shape).astype(dtype)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("new", [(20, 30), (31, 47), (64, 96), (150, 200), (64, 200), (150, 96), (64, 50), (90, 50)])
def test_resizing_is_that_of_the_training_data(new: tuple[int, int], dtype: Any, channels: int) -> None:
    for image in (picture(64, 96, channels, dtype=dtype), picture(96, 64, channels, dtype=dtype).transpose(1, 0, 2)):
        ours, theirs = resize(image, new), Transform(new)(Sample(np.ascontiguousarray(image), 0, "x"), 0).image
        assert ours.dtype == dtype
        assert np.array_equal(ours, theirs)


def test_predictions_are_those_of_the_training_pipeline(model: MultiTaskModel) -> None:
    image = picture(96, 80, 3)
    shown = Transform(SIZES["a_class"])(Sample(image, 0, "x"), 0).image
    with torch.no_grad():
        output = model(torch.from_numpy(shown).permute(2, 0, 1)[None], "a_class")
    (found,) = model.predict([image], "a_class")
    assert torch.allclose(found, model.task("a_class").predict(output)[0], atol=1e-4)


def test_images_of_all_sizes_come_back_in_their_order(model: MultiTaskModel) -> None:
    shapes = [(40, 50), (64, 64), (64, 64), (40, 50), (7, 300)]
    images = [picture(*shape, 3, seed=i) for i, shape in enumerate(shapes)]
    for task in model.tasks:
        if task == "grey":
            continue
        together = model.predict(images, task, batch_size=2)
        for one, image, shape in zip(together, images, shapes, strict=True):
            (alone,) = model.predict([image], task)
            if isinstance(one, Detections):
                assert torch.allclose(one.scores, alone.scores, atol=1e-5)
            elif task == "a_mask":
                assert (one != alone).float().mean() < 0.01, "two classes may be equally likely but for rounding"
            else:
                assert torch.allclose(one.float(), alone.float(), atol=1e-4)
            if task == "a_mask":
                assert tuple(one.shape) == shape
                assert one.dtype == torch.uint8


def test_masks_and_boxes_are_in_the_images_own_pixels(model: MultiTaskModel) -> None:
    mask, boxes = model.task("a_mask"), model.task("a_box")
    shown = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)
    larger = mask.resized(shown, (2, 2), (4, 6))
    assert torch.equal(larger, shown.repeat_interleave(2, 0).repeat_interleave(3, 1))
    found = Detections(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert boxes.resized(found, (10, 20), (20, 80)).boxes.tolist() == [[4.0, 4.0, 12.0, 8.0]]


def test_detected_boxes_lie_in_the_image(model: MultiTaskModel) -> None:
    (found,) = model.predict([picture(200, 30, 3)], "a_box")
    assert len(found.boxes)
    assert found.boxes.min() >= 0
    assert found.boxes[:, 2].max() <= 30.001
    assert 64 < found.boxes[:, 3].max() <= 200.001


def test_what_may_be_given_as_an_image(model: MultiTaskModel) -> None:
    image = picture(40, 50)
    expected = model.predict([image], "grey")[0]
    for same in (image[..., None], torch.from_numpy(image), image.astype(np.uint16), image.astype(np.float64)):
        assert torch.equal(model.predict([same], "grey")[0], expected)
    assert torch.equal(model.predict(image[None], "grey")[0], expected), "an array of images is a sequence too"
    turned = np.ascontiguousarray(image[:, ::-1])[:, ::-1]  # a view that torch cannot look at
    assert torch.equal(model.predict([turned], "grey")[0], expected)
    for task in model.tasks:
        model.predict([np.zeros((1, 1) if task == "grey" else (1, 1, 3), np.uint8)], task)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"images\[0\] has shape \(4, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 3), bool), "array of bool"),
        (np.zeros((4, 4, 3), object), "array of object"),
        ("image.png", "is a str"),
        (None, "is a NoneType"),
    ],
)
def test_what_is_no_image_is_told(model: MultiTaskModel, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.predict([image], "a_class")


def test_no_image_has_no_prediction_and_no_such_task_is_told(model: MultiTaskModel) -> None:
    assert model.predict([], "a_class") == []
    with pytest.raises(ValueError, match="batch_size is 0"):
        model.predict([], "a_class", batch_size=0)
    with pytest.raises(ValueError, match="no task 'b'"):
        model.predict([picture(4, 4, 3)], "b")


@pytest.mark.parametrize("task", [f"a_{kind}" for kind in KINDS])
def test_what_is_not_finite_is_told(model: MultiTaskModel, task: str) -> None:
    image = picture(40, 50, 3).astype(np.float32)
    with pytest.raises(ValueError, match=rf"task '{task}' gives for images\[1\] is not finite"):
        model.predict([image, np.full_like(image, 3e38)], task)


def test_predicting_leaves_the_model_as_it_was() -> None:
    model = MultiTaskModel(small_convnext(0.9), {"a": spec_of("class")}).train()
    images = [picture(32, 32, 3)]
    first, second = (model.predict(images, "a")[0] for _ in range(2))
    assert torch.equal(first, second), "stochastic depth must be off"
    assert model.training
    assert not first.requires_grad


def test_batches_are_no_larger_than_asked() -> None:
    images = [np.zeros((8, 8, 1), np.uint8)] * 5 + [np.zeros((8, 8, 1), np.uint16), np.zeros((9, 8, 1), np.uint16)]
    assert [(start, len(batch)) for start, batch in stacks(images, 2)] == [(0, 2), (2, 2), (4, 1), (5, 1), (6, 1)]
    assert list(stacks([], 2)) == []


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_floats_that_were_scaled_are_told(model: MultiTaskModel, scale: float) -> None:
    image = (picture(40, 50, 3) / 255).astype(np.float32)
    with pytest.warns(UserWarning, match=r"images\[1\] holds floats .* 0 to 255.*as it was stored, or image \* 255"):
        model.predict([image * 255, image * scale], "a_class")


def test_floats_that_were_scaled_are_told_where_they_are_embedded(model: MultiTaskModel) -> None:
    batch = torch.from_numpy(picture(40, 50, 3)).permute(2, 0, 1)[None]
    with pytest.warns(UserWarning, match="the batch holds floats from .* stored, or image"):
        model.embed(batch / 255, "a_class")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(model.embed(batch, "a_class"), model.embed(batch.float(), "a_class"))
        assert model.embed(batch[:0].float(), "a_class").shape[0] == 0


def test_floats_that_were_scaled_around_0_are_told(model: MultiTaskModel) -> None:
    image = (picture(40, 50, 3) / 127.5 - 1).astype(np.float32)
    with pytest.warns(UserWarning, match=r"scaled to -1\.\.1, give it as it was stored, or \(image \+ 1\) / 2 \* 255"):
        model.predict([image], "a_class")


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32])
def test_images_of_another_depth_are_told(model: MultiTaskModel, dtype: type[np.generic]) -> None:
    image = picture(40, 50, 3)
    with pytest.warns(UserWarning, match=r"images\[1\] holds .* up to 48573, but the task .* from 0 to 255\."):
        model.predict([image, image.astype(dtype) * 257], "a_class")
    with pytest.warns(UserWarning, match="the batch holds .* up to 48573, but"):
        model.embed(torch.from_numpy(image.astype(dtype) * 257).permute(2, 0, 1)[None], "a_class")
    spec = replace(spec_of("class"), value_range=(0.0, 65535.0))
    with pytest.warns(UserWarning, match=r"images\[0\] holds uint8 up to 189, but .* from 0 to 65535"):
        MultiTaskModel(small_encoder(), {"deep": spec}).predict([image], "deep")


@pytest.mark.filterwarnings("error")
def test_floats_of_the_range_and_flat_images_are_not_told(model: MultiTaskModel) -> None:
    image = picture(40, 50, 3)
    model.predict([image, image.astype(np.float32), np.zeros((40, 50, 3), np.float32), image // 255], "a_class")
