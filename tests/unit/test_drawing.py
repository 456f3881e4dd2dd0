from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umedpt_lightning.drawing.attention import MOST_SHOWN, draw_attention, heat, most_attended
from umedpt_lightning.drawing.pictures import (
    Example,
    colour,
    draw,
    enlarge,
    outline,
    overlay,
    panel,
    to_rgb,
)
from umedpt_lightning.labels import BoxLayer, MaskLayer
from umedpt_lightning.labels.boxes import FEWEST_BOXES
from umedpt_lightning.labels.views import MOST_LINES, View
from umedpt_lightning.types import (
    IGNORE_INDEX,
    BoxArrays,
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    TaskSpec,
)


def describe(spec: TaskSpec, truth: Any, prediction: Any) -> View:
    return spec.comparison_view(truth, prediction)


CELLS = BoxSpec(channels=3, classes=("red cell", "white cell"))


def boxes(*corners: tuple[float, float, float, float], labels: list[int] | None = None) -> BoxArrays:
    labels = labels or [0] * len(corners)
    return BoxArrays(np.array(corners, np.float32).reshape(-1, 4), np.array(labels[: len(corners)], np.int64))


def detections(truth: BoxArrays) -> SimpleNamespace:
    scores = np.linspace(0.1, 0.9, len(truth.boxes), dtype=np.float32)
    return SimpleNamespace(boxes=truth.boxes, labels=truth.labels, scores=scores)


def mask(shape: tuple[int, int] = (20, 30)) -> np.ndarray[Any, np.dtype[np.int16]]:
    values = np.zeros(shape, np.int16)
    values[4:8, 5:15] = 1
    values[10:12, 5:9] = 2
    return values


CASES: dict[str, tuple[TaskSpec, Any, Any]] = {
    "class": (ClassSpec(channels=1, classes=("normal", "pneumonia")), np.array(1), np.array([0.2, 0.8])),
    "labels": (
        MultilabelSpec(channels=1, labels=("edema", "mass", "nodule")),
        np.array([1, 0, np.nan], np.float32),
        np.array([0.9, 0.8, 0.5], np.float32),
    ),
    "numbers": (
        RegressionSpec(channels=1, quantities=("z", "age"), units=("mm", "")),
        np.array([10, np.nan], np.float32),
        np.array([12.5, 60], np.float32),
    ),
    "mask": (MaskSpec(channels=1, classes=("background", "bone", "edge")), mask(), np.roll(mask(), 1)),
    "boxes": (CELLS, boxes((2, 3, 10, 12), (5, 6, 20, 18)), detections(boxes((2, 3, 10, 12)))),
    "no boxes": (CELLS, boxes(), detections(boxes())),
}


def example(case: str, image: Any = None) -> Example:
    spec, truth, prediction = CASES[case]
    image = np.full((1, 20, 30), 100, np.uint8) if image is None else image
    return Example(to_rgb(image, spec.value_range), "folder/a.png", describe(spec, truth, prediction))


@pytest.mark.parametrize("case", CASES)
def test_every_label_type_yields_a_picture(case: str) -> None:
    picture = draw([example(case)] * 3, "task, val, step 1")
    assert picture.mode == "RGB"
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        ("class", ["pneumonia"]),
        ("labels", ["yes: edema", "no: mass", "not known: nodule"]),
        ("numbers", ["z: 10 mm", "age: ?"]),
        ("mask", []),
        ("boxes", ["boxes: 2"]),
        ("no boxes", ["boxes: 0"]),
    ],
)
def test_the_truth_alone_is_shown_for_every_label_type(case: str, lines: list[str]) -> None:
    spec, truth, prediction = CASES[case]
    view = spec.truth_view(truth)
    assert [line.text for line in view.lines] == lines
    assert view.prediction is None
    whole = describe(spec, truth, prediction)
    assert (view.truth is None) == (whole.truth is None)
    assert view.classes == whole.classes


def test_an_outline_lies_inside_of_its_region_and_leaves_the_rest() -> None:
    image = np.full((20, 30, 3), 7, np.uint8)
    values = np.zeros((20, 30), np.int16)
    values[4:14, 5:19] = 1
    values[4:14, 12:19] = IGNORE_INDEX
    drawn = (outline(image, values) != 7).any(axis=2)
    assert not drawn[values == 0].any()
    assert drawn[4:6, 5:19].all()
    assert drawn[4:14, 10:14].all()  # where two regions meet
    assert not drawn[6:12, 7:10].any()
    assert (outline(image, values)[5, 6] == colour(1)).all()
    assert (outline(image, values)[5, 15] == colour(IGNORE_INDEX)).all()


@pytest.mark.parametrize("filled", [True, False])
def test_masks_of_large_and_small_images_are_drawn(filled: bool) -> None:
    for shape in ((20, 30), (800, 600)):
        picture = panel(np.zeros((*shape, 3), np.uint8), MaskLayer(mask(shape)), {}, filled)
        assert picture.size == enlarge(np.zeros((*shape, 3), np.uint8))[0].size
        assert np.asarray(picture).any()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("dtype", "value_range"), [("uint8", (0, 255)), ("uint16", (1000, 3000)), ("float32", (-1.0, 1.0))]
)
def test_the_value_range_becomes_black_and_white(channels: int, dtype: str, value_range: tuple[float, float]) -> None:
    low, high = value_range
    image = np.full((channels, 4, 6), low, dtype)
    image[0, 0, 0] = high
    rgb = to_rgb(image, value_range)
    assert rgb.shape == (4, 6, 3)
    assert rgb.dtype == np.uint8
    assert rgb[1:].max() == 0
    assert rgb[0, 0].tolist() == ([255, 0, 0] if channels >= 3 else [255, 255, 255])


def test_what_lies_outside_the_value_range_is_cut_and_nan_is_black() -> None:
    image = np.array([[[-5, np.nan, 0.5, 7]]], np.float32)
    assert to_rgb(image, (0, 1))[0, :, 0].tolist() == [0, 0, 128, 255]


def test_colours_of_classes_differ() -> None:
    assert len({colour(i) for i in range(40)} | {colour(IGNORE_INDEX)}) == 41


def test_an_overlay_changes_the_pixels_of_the_mask_and_no_other() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    values = mask()
    values[0, :3] = IGNORE_INDEX
    before = image.copy()
    result = overlay(image, values)
    assert np.array_equal(image, before)
    assert np.array_equal(result[values == 0], image[values == 0])
    for index in (1, 2, IGNORE_INDEX):
        inside = values == index
        assert np.abs(result[inside] - (image[inside] / 2 + np.array(colour(index)) / 2)).max() <= 0.5


def test_a_small_image_is_enlarged_and_its_pixels_stay_squares() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 20, 3), dtype=np.uint8)
    picture, scale = enlarge(image)
    assert scale == 10
    assert np.array_equal(np.asarray(picture), image.repeat(10, axis=0).repeat(10, axis=1))


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (512, 640), (1, 1), (224, 224), (400, 400)])
def test_panels_have_a_readable_size(shape: tuple[int, int]) -> None:
    picture, scale = enlarge(np.zeros((*shape, 3), np.uint8))
    assert 200 <= max(picture.size) <= 400
    assert max(picture.size) == round(max(shape) * scale)


@pytest.mark.parametrize("shape", [(48, 48), (600, 800)])
def test_the_frame_lies_on_the_edge_of_the_box(shape: tuple[int, int]) -> None:
    height, width = shape
    box = np.array([width / 4, height / 2, width / 2, height])
    image = np.zeros((*shape, 3), np.uint8)
    layer = BoxLayer(box[None], np.array([1]))
    picture = panel(image, layer, {1: "x"})
    scale = picture.width / width
    pixels = (np.asarray(picture) == colour(1)).all(axis=2)
    left, top, right, bottom = (round(edge * scale) for edge in box)
    assert pixels[top:bottom, left].all()
    assert pixels[top:bottom, right - 1].all()
    assert pixels[top, left:right].all()
    assert pixels[bottom - 1, left:right].all()
    assert not pixels[top + 2 : bottom - 2, left + 2 : right - 2].any()  # the inside stays to be seen
    outside = pixels.copy()
    outside[top - 13 : bottom, left:right] = False  # the name stands on the upper edge
    assert not outside.any()


def test_boxes_beyond_the_picture_and_without_extent_are_drawn_at_its_border() -> None:
    layer = BoxLayer(np.array([[-5, -5, 4, 4], [20, 20, 900, 900], [30, 30, 30, 30]]), np.zeros(3, int))
    assert isinstance(panel(np.zeros((32, 32, 3), np.uint8), layer, {0: "x"}), Image.Image)


def test_a_class_is_written_with_its_probabilities_and_coloured_by_whether_it_is_right() -> None:
    spec, truth, prediction = CASES["class"]
    right, wrong = describe(spec, truth, prediction), describe(spec, 1 - truth, prediction)
    assert [line.text for line in right.lines] == ["truth: pneumonia", "prediction: pneumonia 0.80, normal 0.20"]
    assert [right.lines[1].right, wrong.lines[1].right] == [True, False]
    unknown = describe(spec, np.array(IGNORE_INDEX), prediction).lines
    assert (unknown[0].text, unknown[1].right) == ("truth: ?", None)


def test_labels_are_written_one_a_line_with_unknown_ones_marked() -> None:
    lines = describe(*CASES["labels"]).lines
    assert [line.text for line in lines] == [
        "edema: yes, predicted 0.90",
        "mass: no, predicted 0.80",
        "nodule: ?, predicted 0.50",
    ]
    assert [line.right for line in lines] == [True, False, None]


def test_of_many_labels_those_are_written_that_there_are() -> None:
    names = tuple(f"label{i}" for i in range(50))
    truth, prediction = np.zeros(50), np.full(50, 0.1)
    truth[40], prediction[45], truth[3] = 1, 0.9, np.nan
    lines = describe(MultilabelSpec(channels=1, labels=names), truth, prediction).lines
    texts = [line.text for line in lines]
    assert len(lines) == MOST_LINES + 1
    assert "label40: yes, predicted 0.10" in texts
    assert "label45: no, predicted 0.90" in texts
    assert texts[-1] == f"and {50 - MOST_LINES} more labels"


def test_numbers_are_written_with_unit_and_error() -> None:
    lines = describe(*CASES["numbers"]).lines
    assert [line.text for line in lines] == ["z: 10 mm, predicted 12.5 mm, error +2.5 mm", "age: ?, predicted 60"]


def test_masks_say_that_pixels_are_not_labelled_only_where_some_are_not() -> None:
    spec, truth, prediction = CASES["mask"]
    assert IGNORE_INDEX not in describe(spec, truth, prediction).classes
    truth = truth.copy()
    truth[0] = IGNORE_INDEX
    view = describe(spec, truth, prediction)
    assert view.classes == {0: "background", 1: "bone", 2: "edge", IGNORE_INDEX: "not labelled"}
    assert isinstance(view.truth, MaskLayer)


@pytest.mark.parametrize(("true", "shown"), [(0, FEWEST_BOXES), (1, FEWEST_BOXES), (20, 25), (70, 45)])
def test_the_best_boxes_are_shown_and_all_counted(true: int, shown: int) -> None:
    many = boxes(*[(i, 0, i + 5, 9) for i in range(80)])  # 45 of them have half the best score or more
    view = describe(CELLS, boxes(*[(2, 3, 10, 12)] * true), detections(many))
    assert isinstance(view.prediction, BoxLayer)
    assert view.prediction.scores is not None
    assert len(view.prediction.boxes) == shown
    assert view.prediction.scores[0] == pytest.approx(0.9)
    assert view.prediction.captions(view.classes)[0] == "red cell 0.90"
    assert view.lines[0].text == f"boxes: {true} true, 80 predicted ({shown} best shown)"


def test_the_legend_shows_the_colours_of_the_classes_but_not_of_the_background() -> None:
    spec, _, _ = CASES["mask"]
    empty = np.zeros((20, 30), np.int16)
    rgb = np.zeros((20, 30, 3), np.uint8)
    pixels = np.asarray(draw([Example(rgb, "a", describe(spec, empty, empty))], "task"))
    shown = {tuple(int(v) for v in p) for p in np.unique(pixels.reshape(-1, 3), axis=0)}
    assert {colour(1), colour(2)} <= shown
    assert colour(0) not in shown


def test_long_names_and_many_classes_fit_on_the_sheet() -> None:
    spec = MaskSpec(channels=1, classes=tuple(f"a very long name of a class {'x' * 90} {i}" for i in range(200)))
    values = np.arange(20 * 30).reshape(20, 30) % 200
    sample = Example(np.zeros((20, 30, 3), np.uint8), "folder/" * 100 + "a.png", describe(spec, values, values))
    assert draw([sample], "a caption " * 50).width < 1000


def test_the_most_attended_images_come_first_and_attention_lies_where_it_is() -> None:
    weights = np.array([0.1, 0.6, 0.0, 0.3])
    assert most_attended(weights).tolist() == [1, 3, 0, 2]
    assert len(most_attended(np.full(40, 1 / 40))) == MOST_SHOWN
    greys = [np.full((10, 20, 3), 40 * k, np.uint8) for k in range(1, 5)]
    line = np.stack([np.linspace(0, 1, 4), np.zeros(4)], 1)
    sheet = np.asarray(draw_attention(greys, weights, line, 200))
    assert [sheet[50, 50, 0], sheet[50, 150, 0], sheet[150, 50, 0]] == [40, 80, 120]
    bars = sheet[-20:-3, :, 0] > 200
    assert bars[:, 60:80].any()  # the second image of four, a third of the way
    assert not bars[:, 120:140].any()
    over = np.asarray(draw_attention(greys, weights, np.array([[0, 0], [1, 1], [0, 1], [1, 0]]), 200))
    assert over[-3, -3].tolist() == [255, 196, 0]  # the tile below on the right
    hot = np.asarray(
        heat(np.zeros((20, 20, 3), np.uint8), np.array([[0, 0, 10, 10], [10, 10, 20, 20]]), np.array([0, 1]))
    )
    assert hot[5, 5].tolist() == [0, 0, 0]
    assert hot[15, 15].tolist() == [128, 98, 0]
