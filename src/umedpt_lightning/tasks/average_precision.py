"""COCO's average precision of boxes, where ranks may have seen different numbers of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.utilities.data import dim_zero_cat


class AveragePrecision(Metric):
    """Average precision over IoU 0.50 to 0.95 and at 0.50, means over the classes that have a true box.

    torchmetrics' own metric gathers over ranks image by image, and so hangs or crashes where one rank has seen more
    images than another. Here the boxes of all images are flat float32 vectors, which may differ in length.

    Args:
        max_detections: At most so many boxes an image.
    """

    predicted: list[Tensor]
    predicted_counts: list[Tensor]
    true: list[Tensor]
    true_counts: list[Tensor]

    def __init__(self, max_detections: int) -> None:
        super().__init__()
        self.max_detections = max_detections
        for state in ("predicted", "predicted_counts", "true", "true_counts"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, predicted: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        """Adds a micro-batch.

        Args:
            predicted: ``(N, 6)`` an image: x1, y1, x2, y2, class, score.
            true: ``(N, 5)`` an image: x1, y1, x2, y2, class.
        """
        self.predicted += [boxes.detach().float().flatten() for boxes in predicted]
        self.predicted_counts.append(torch.tensor([float(len(boxes)) for boxes in predicted], device=self.device))
        self.true += [boxes.float().flatten() for boxes in true]
        self.true_counts.append(torch.tensor([float(len(boxes)) for boxes in true], device=self.device))

    def compute(self) -> Tensor:
        """Average precision over all thresholds and at 0.50, ``(2,)``, NaN where there is no true box at all."""
        if not len(self.true):
            return torch.full((2,), torch.nan, device=self.device)
        # the extended summary, since the plain one is undefined for another limit than 100 boxes
        metric = MeanAveragePrecision(
            max_detection_thresholds=[1, 10, self.max_detections], extended_summary=True, sync_on_compute=False
        )
        metric.warn_on_many_detections = False
        metric.update(
            [
                {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "scores": rows[:, 5]}
                for rows in _by_image(self.predicted, self.predicted_counts, 6)
            ],
            [{"boxes": rows[:, :4], "labels": rows[:, 4].long()} for rows in _by_image(self.true, self.true_counts, 5)],
        )
        # (IoU thresholds 0.50 to 0.95, recalls, classes, area ranges, limits); the first range is all areas
        precision: Tensor = metric.compute()["precision"][:, :, :, 0, -1].float()
        precision = torch.where(precision < 0, torch.nan, precision)  # -1: the class has no true box
        return torch.stack([precision.nanmean(), precision[0].nanmean()])


def _by_image(values: list[Tensor], counts: list[Tensor], columns: int) -> Sequence[Tensor]:
    rows = dim_zero_cat(values).view(-1, columns)
    return torch.split(rows, [int(count) for count in dim_zero_cat(counts).tolist()])
