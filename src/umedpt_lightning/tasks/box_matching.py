"""COCO's average precision: predicted boxes are matched to true ones image by image, then ranked over all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Overlaps (IoU) from which on a box counts as found; the first is that of mAP50.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class ImageMatches:
    """The predicted boxes of one image, compared with the true ones.

    Attributes:
        labels: ``(N,)`` classes of those that count.
        scores: ``(N,)`` their scores.
        hits: ``(N, 10)`` whether each meets a true box at each of `THRESHOLDS`.
        true: ``(K,)`` numbers of true boxes of each class.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    true: NDArray[np.int64]


def match_boxes(
    predicted: NDArray[np.floating], true: NDArray[np.floating], classes: int, max_detections: int
) -> ImageMatches:
    """Matches the boxes of one image as pycocotools does (Lin et al., Microsoft COCO, ECCV 2014).

    In the order of their scores, each predicted box takes the true box of its class that it overlaps most and that no
    other has taken.

    Args:
        predicted: ``(N, 6)``: x1, y1, x2, y2, class, score.
        true: ``(M, 5)``: x1, y1, x2, y2, class.
        classes: How many there are.
        max_detections: At most so many boxes of a class count.
    """
    found, truth = predicted.astype(np.float64), true.astype(np.float64)  # as pycocotools computes
    kept, hits = [], []
    for label in np.unique(found[:, 4]):
        rows = np.flatnonzero(found[:, 4] == label)
        rows = rows[np.argsort(-found[rows, 5], kind="stable")][:max_detections]
        overlaps = _overlaps(found[rows, :4], truth[truth[:, 4] == label, :4])
        kept.append(rows)
        hits.append(_match(overlaps))
    chosen = np.concatenate([np.zeros(0, np.int64), *kept])
    return ImageMatches(
        found[chosen, 4].astype(np.int64),
        found[chosen, 5],
        np.concatenate([np.zeros((0, len(THRESHOLDS)), np.bool_), *hits]),
        np.bincount(truth[:, 4].astype(np.int64), minlength=classes),
    )


def average_precision(images: Sequence[ImageMatches]) -> tuple[float, float]:
    """Average precision over IoU 0.50 to 0.95 and at 0.50, means over the classes that have a true box.

    NaN where there is no true box at all.
    """
    true = np.sum([image.true for image in images], axis=0) if images else np.zeros(0)
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)])
    scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
    hits = np.concatenate([np.zeros((0, len(THRESHOLDS)), np.bool_), *(image.hits for image in images)])
    areas = []
    for label in np.flatnonzero(true):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        areas.append(_areas(hits[rows], int(true[label])))
    if not areas:
        return float("nan"), float("nan")
    over_thresholds = np.mean(areas, axis=0)  # (10,)
    return float(over_thresholds.mean()), float(over_thresholds[0])


def _areas(hits: NDArray[np.bool_], true: int) -> NDArray[np.float64]:
    """``(10,)`` the precision at 101 recalls, each the best at this recall or a higher one, on average."""
    right = hits.cumsum(0)  # (N, 10)
    precision = right / (np.arange(len(hits))[:, None] + 1)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = right / true
    areas = np.zeros(hits.shape[1])
    for threshold in range(hits.shape[1]):
        places = np.searchsorted(recall[:, threshold], _RECALLS, side="left")
        areas[threshold] = precision[places[places < len(hits)], threshold].sum() / len(_RECALLS)
    return areas


def _match(overlaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``(N, 10)`` whether each predicted box, best first, takes a true one, by their overlaps ``(N, M)``."""
    hits = np.zeros((len(overlaps), len(THRESHOLDS)), np.bool_)
    # only boxes that overlap some true box enough at all have to wait for their turn
    free = np.ones((len(THRESHOLDS), overlaps.shape[1]), np.bool_)
    for row in np.flatnonzero((overlaps >= THRESHOLDS[0]).any(axis=1)):
        candidates = np.where(free & (overlaps[row] >= THRESHOLDS[:, None]), overlaps[row], -1.0)  # (10, M)
        taken = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(axis=1)  # of equals the last, as in pycocotools
        hits[row] = candidates[np.arange(len(taken)), taken] >= 0
        free[np.flatnonzero(hits[row]), taken[hits[row]]] = False
    return hits


def _overlaps(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union, ``(N, M)``."""
    found, truth = predicted[:, None], true[None]
    sides = np.minimum(found[..., 2:], truth[..., 2:]) - np.maximum(found[..., :2], truth[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (found, truth)]
    together = areas[0] + areas[1] - shared
    overlaps: NDArray[np.float64] = np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)
    return overlaps
