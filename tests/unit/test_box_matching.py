"""Average precision by our own matching, held against pycocotools, box by box."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from umedpt_lightning.tasks.average_precision import AveragePrecision
from umedpt_lightning.tasks.box_matching import average_precision, match_boxes

Images = list[NDArray[np.float32]]


def ours(predicted: Images, true: Images, classes: int, most: int = 100) -> tuple[float, float]:
    return average_precision([match_boxes(p, t, classes, most) for p, t in zip(predicted, true, strict=True)])


def theirs(predicted: Images, true: Images, classes: int, most: int = 100) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator: Any = COCOeval(_coco(true, classes), _coco(predicted, classes), "bbox")
        options = evaluator.params
        options.maxDets, options.areaRng, options.areaRngLbl = [most], [[0, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, 0]
    known = precision[:, :, (precision > -1).any((0, 1))]
    return (float(known.mean()), float(known[0].mean())) if known.size else (math.nan, math.nan)


def _coco(images: Images, classes: int) -> COCO:
    annotations: list[dict[str, Any]] = []
    for image, boxes in enumerate(images):
        for x1, y1, x2, y2, label, *score in boxes.astype(np.float64).tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "category_id": int(label)}
            described = box | {"id": len(annotations) + 1, "image_id": image, "iscrowd": 0}
            annotations.append(described | ({"score": score[0]} if score else {}))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def table(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(len(rows), -1)


def guesses(true: NDArray[np.float32], rng: np.random.Generator, classes: int, whole: bool) -> NDArray[np.float32]:
    """Boxes near the true ones and boxes anywhere, with scores of which some are equal."""
    near = np.repeat(true, rng.integers(0, 4, len(true)), axis=0)
    corners = rng.uniform(0, 80, (rng.integers(0, 6), 2))
    anywhere = np.column_stack(
        [corners, corners + rng.uniform(2, 30, corners.shape), rng.integers(0, classes, len(corners))]
    )
    boxes = np.concatenate([near, anywhere])
    boxes[:, :4] += rng.normal(0, 2, (len(boxes), 4)) * rng.integers(0, 2, (len(boxes), 1))
    boxes[:, 2:4] = np.maximum(boxes[:, 2:4], boxes[:, :2] + 1)
    boxes = boxes.round() if whole else boxes  # whole numbers: many overlaps are equal, or exactly at a threshold
    return np.column_stack([boxes, rng.uniform(0, 1, len(boxes)).round(1)]).astype(np.float32)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_random_boxes_have_the_average_precision_that_pycocotools_finds(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    classes, most = int(rng.integers(1, 4)), (100, 3)[seed % 2]
    true, predicted = [], []
    for _ in range(12):
        corners = rng.uniform(0, 60, (rng.integers(0, 9), 2))
        sides = rng.uniform(2, 20, corners.shape)
        boxes = np.column_stack([corners, corners + sides, rng.integers(0, classes, len(corners))])
        true.append((boxes.round() if whole else boxes).astype(np.float32))
        true[-1][:, 2:4] = np.maximum(true[-1][:, 2:4], true[-1][:, :2] + 1)
        predicted.append(guesses(true[-1], rng, classes, whole))
    found = ours(predicted, true, classes, most)
    assert found == pytest.approx(theirs(predicted, true, classes, most), abs=1e-9)
    assert 0 < found[0] < found[1] < 1


@pytest.mark.parametrize("name", ["bccd", "dsb2018"])
def test_real_boxes_have_the_average_precision_that_pycocotools_finds(shared_data: Path, name: str) -> None:
    file = shared_data / name / "instances_val.json"
    content = json.loads(file.read_text())
    number = {category["id"]: i for i, category in enumerate(content["categories"])}
    rng, true = np.random.default_rng(0), []
    for image in content["images"][:20]:
        found = [(*a["bbox"], number[a["category_id"]]) for a in content["annotations"] if a["image_id"] == image["id"]]
        x, y, width, height, labels = np.array(found, np.float64).reshape(-1, 5).T
        true.append(np.column_stack([x, y, x + width, y + height, labels]).astype(np.float32))
    predicted = [guesses(boxes, rng, len(number), False) for boxes in true]
    assert ours(predicted, true, len(number)) == pytest.approx(theirs(predicted, true, len(number)), abs=1e-9)


def test_a_wrong_box_that_is_surer_than_a_right_one_lowers_precision_only_where_it_is_drawn() -> None:
    right, wrong = table([0, 0, 10, 10, 0, 0.5]), table([50, 50, 60, 60, 0, 0.9])
    true = table([0, 0, 10, 10, 0])
    assert ours([right, right], [true, true], 2) == (1.0, 1.0)
    assert ours([wrong], [true], 2) == (0.0, 0.0)
    assert 0 < ours([right, wrong], [true, true], 2)[1] < 0.5, "one of two found, after a wrong one"


def test_without_a_true_box_there_is_no_precision_and_without_a_predicted_one_it_is_zero() -> None:
    nothing, boxes = np.zeros((0, 6), np.float32), table([0, 0, 9, 9, 0, 0.5])
    for images in ([], [boxes]):
        assert all(math.isnan(value) for value in ours(images, [nothing[:, :5]] * len(images), 1))
    assert ours([nothing], [boxes[:, :5]], 1) == (0.0, 0.0)


def test_the_metric_finds_what_the_matching_of_all_images_finds() -> None:
    rng, metric, true, predicted = np.random.default_rng(0), AveragePrecision(3, 4), [], []
    for _ in range(5):
        corners = rng.uniform(0, 60, (6, 2))
        true.append(np.column_stack([corners, corners + 15, rng.integers(0, 3, 6)]).astype(np.float32))
        predicted.append(guesses(true[-1], rng, 3, False))
        metric.update([torch.from_numpy(predicted[-1])], [torch.from_numpy(true[-1])])
    assert metric.compute().tolist() == pytest.approx(ours(predicted, true, 3, 4))
