"""Average precision of boxes as a metric, where ranks may have seen different numbers of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from umedpt_lightning.tasks.box_matching import THRESHOLDS, ImageMatches, average_precision, match_boxes

#: Hits at all thresholds as one whole number: the state holds three numbers a box.
_BITS = 2 ** np.arange(len(THRESHOLDS))


class AveragePrecision(Metric):
    """Average precision over IoU 0.50 to 0.95 and at 0.50, means over the classes that have a true box.

    Each rank matches the boxes of its own images; what the ranks exchange is which boxes were hits. The state is flat
    and in two float32 a number of float64, as in `Ranking`.

    Args:
        classes: How many there are.
        max_detections: At most so many boxes of a class count in an image.
    """

    found: list[Tensor]
    true: Tensor

    def __init__(self, classes: int, max_detections: int) -> None:
        super().__init__()
        self.classes, self.max_detections = classes, max_detections
        self.add_state("found", [], dist_reduce_fx="cat")
        self.add_state("true", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        """Adds a micro-batch.

        Args:
            predicted: ``(N, 6)`` an image: x1, y1, x2, y2, class, score.
            true: ``(M, 5)`` an image: x1, y1, x2, y2, class.
        """
        for found, truth in zip(predicted, true, strict=True):
            matches = match_boxes(_array(found), _array(truth), self.classes, self.max_detections)
            rows = np.column_stack([matches.labels, matches.scores, matches.hits @ _BITS])
            self.found.append(torch.from_numpy(rows).flatten().view(torch.float32).to(self.device))
            self.true += torch.from_numpy(matches.true).to(self.device)

    def compute(self) -> Tensor:
        """Average precision over all thresholds and at 0.50, ``(2,)``, NaN where there is no true box at all."""
        found = dim_zero_cat(self.found) if len(self.found) else torch.zeros(0)
        rows = found.cpu().contiguous().view(torch.float64).view(-1, 3).numpy()
        labels, hits = rows[:, 0].astype(np.int64), rows[:, 2].astype(np.int64)[:, None] & _BITS > 0
        matches = ImageMatches(labels, rows[:, 1], hits, self.true.cpu().numpy())
        return torch.tensor(average_precision([matches]), device=self.device)


def _array(boxes: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = boxes.detach().double().cpu().numpy()
    return array
