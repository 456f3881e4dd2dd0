"""From the boxes of an exported graph to those that are shown, in NumPy alone: NMS is left out of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def select_boxes(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    max_detections: int = 300,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The best boxes of one image, class by class without those that overlap a better one.

    What `MultiTaskModel.predict` finds too, unless more than 1000 boxes of a level of the pyramid are above the
    threshold: of these it looks at the best 1000 only.

    Args:
        boxes: ``(P, 4)``, the graph's ``boxes`` of an image, pixels.
        scores: ``(P, K)``, its ``scores``.
        score_threshold: Boxes below are dropped.
        nms_threshold: Of two boxes of a class that overlap by more (IoU), the better stays.
        max_detections: At most so many boxes.

    Returns:
        Boxes ``(N, 4)``, scores ``(N,)`` and classes ``(N,)``, best first.
    """
    places, labels = np.nonzero(scores > score_threshold)
    found = scores[places, labels]
    order = np.argsort(-found, kind="stable")
    places, labels, found = places[order], labels[order], found[order]
    kept: list[int] = []
    for label in np.unique(labels):
        kept += _suppress(boxes[places], np.flatnonzero(labels == label), nms_threshold)
    best = np.sort(np.array(kept, dtype=np.int64))[:max_detections]
    return boxes[places[best]], found[best], labels[best]


def _suppress(boxes: NDArray[Any], candidates: NDArray[np.int64], threshold: float) -> list[int]:
    """Those of the candidates, best first, that overlap no better one by more than the threshold."""
    kept: list[int] = []
    while len(candidates):
        first, candidates = int(candidates[0]), candidates[1:]
        kept.append(first)
        candidates = candidates[~(_iou(boxes[first], boxes[candidates]) > threshold)]
    return kept


def _iou(box: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    overlap = sides.clip(0).prod(axis=1)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (box, others)]
    with np.errstate(invalid="ignore"):  # two boxes without area: NaN, which is not larger than any threshold
        shares: NDArray[Any] = overlap / (areas[0] + areas[1] - overlap)
    return shares
