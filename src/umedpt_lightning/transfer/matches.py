"""Average precision of any choice of images: boxes are matched once, which is what takes time."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


class BoxMatches:
    """Which predicted boxes meet a true one, image by image.

    Args:
        predicted: ``(N, 6)`` an image: x1, y1, x2, y2, class, score.
        true: ``(M, 5)`` an image: x1, y1, x2, y2, class.
        classes: How many there are.
        max_detections: At most so many boxes of a class count in an image.
    """

    def __init__(
        self,
        predicted: Sequence[NDArray[np.float32]],
        true: Sequence[NDArray[np.float32]],
        classes: int,
        max_detections: int,
    ) -> None:
        self._images = len(true)
        with redirect_stdout(io.StringIO()):  # pycocotools tells what it does
            truth, found = _annotations(true, classes), _annotations(predicted, classes)
            self._evaluator: Any = COCOeval(truth, found, "bbox")
            options = self._evaluator.params
            options.maxDets, options.areaRng, options.areaRngLbl = [max_detections], [[0, 1e10]], ["all"]
            self._evaluator.evaluate()
        self._by_class = [self._evaluator.evalImgs[i * self._images : (i + 1) * self._images] for i in range(classes)]

    def __call__(self, rows: NDArray[np.int64]) -> tuple[float, float]:
        """Average precision over IoU 0.50 to 0.95 and at 0.50, means over the classes that have a true box.

        Args:
            rows: The images, repeated where they were drawn more than once.
        """
        evaluator = copy.copy(self._evaluator)
        evaluator.params = copy.copy(self._evaluator.params)
        evaluator.params.imgIds = list(range(len(rows)))
        evaluator._paramsEval = evaluator.params
        evaluator.evalImgs = [images[row] for images in self._by_class for row in rows.tolist()]
        with redirect_stdout(io.StringIO()):
            evaluator.accumulate()
        precision = evaluator.eval["precision"][:, :, :, 0, 0]  # (IoU thresholds, recalls, classes)
        known = precision[:, :, (precision > -1).any((0, 1))]  # -1: the class has no true box
        return (float(known.mean()), float(known[0].mean())) if known.size else (float("nan"), float("nan"))


def _annotations(images: Sequence[NDArray[np.float32]], classes: int) -> COCO:
    """Boxes as pycocotools holds them."""
    annotations: list[dict[str, Any]] = []
    for image, boxes in enumerate(images):
        for x1, y1, x2, y2, label, *score in boxes.astype(np.float64).tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "category_id": int(label)}
            # an id of 0 would count as not matched
            described = box | {"id": len(annotations) + 1, "image_id": image, "iscrowd": 0}
            annotations.append(described | ({"score": score[0]} if score else {}))
    coco = COCO()
    categories = [{"id": label, "name": str(label)} for label in range(classes)]
    coco.dataset = {"images": [{"id": i} for i in range(len(images))], "categories": categories}
    coco.dataset["annotations"] = annotations
    coco.createIndex()
    return coco
