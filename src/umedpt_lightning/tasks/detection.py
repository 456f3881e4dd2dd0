"""Any number of boxes an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSHead

from umedpt_lightning.blocks import DetectionFeatures
from umedpt_lightning.tasks.answers import Answers, Rows
from umedpt_lightning.tasks.base import FeatureWidths, Task, as_float
from umedpt_lightning.tasks.box_matching import ImageMatches, average_precision, match_boxes
from umedpt_lightning.tasks.fcos_loss import fcos_loss
from umedpt_lightning.tasks.fcos_targets import PaddedBoxes, assign
from umedpt_lightning.types import BatchTargets, Boxes, BoxSpec, finite_rows, to_numpy

_SHORT = 0.25  # strides


@dataclass
class DetectionOutput:
    """The head's raw output, places of all levels one after the other.

    Attributes:
        raw: ``cls_logits`` ``(B, P, K)``, ``bbox_regression`` ``(B, P, 4)`` and ``bbox_ctrness`` ``(B, P, 1)``.
        anchors: ``(P, 4)``, pixels.
        places: Places of each level, finest first; they add up to ``P``.
        size: ``(H, W)`` of the images.
    """

    raw: dict[str, Tensor]
    anchors: Tensor
    places: list[int]
    size: tuple[int, int]


@dataclass
class Detections:
    """The predicted boxes of one image, best first.

    Attributes:
        boxes: ``(N, 4)`` float32, pixels.
        scores: ``(N,)`` float32, 0 to 1.
        labels: ``(N,)`` int64, class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class _Stem(nn.Module):
    """FCOS wants a backbone to ask for its channels; the features come from the shared decoder instead."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


class Detection(Task):
    """One class, one box and one centre-ness convolution on the shared towers, in the manner of FCOS.

    Tian et al., FCOS: A Simple and Strong Anchor-Free Object Detector, TPAMI 2022. Box coding and NMS are
    torchvision's, and so are the losses (focal, GIoU, centre-ness) wherever each box has a place by FCOS's rule. Other
    boxes, such as those smaller than a stride, are learnt by the nearest place, see `assign`; so a box may lie beside
    its place.

    Metrics: ``map`` (COCO, IoU 0.50 to 0.95) and ``map50``.

    Args:
        spec: Class names, without a background.
        widths: Channels of the shared features.
        score_threshold: Predictions below are dropped.
        nms_threshold: Of two boxes of a class that overlap by more (IoU), the better stays.
        max_detections: At most so many boxes an image.

    Raises:
        ValueError: A threshold is no share, or no box is left.
    """

    needs = "detection"
    main_metric = "map50"
    counts_not_finite = True
    spec: BoxSpec
    signed_distances: Tensor
    """1 where each box has a place, inside it or beside it; 0 in models from before this was so."""

    def __init__(
        self,
        spec: BoxSpec,
        widths: FeatureWidths,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 300,
    ) -> None:
        super().__init__()
        for name, value in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be 0 to 1, but it is {value}.")
        if max_detections < 1:
            raise ValueError(f"max_detections must be 1 or more, but it is {max_detections}.")
        self.spec = spec
        self.fcos = FCOS(
            _Stem(widths.detection),
            len(spec.classes),
            # no convolutions in the head: the towers are shared
            head=FCOSHead(widths.detection, num_anchors=1, num_classes=len(spec.classes), num_convs=0),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )
        # sides of two strides to start with: those of around 0 would learn slowly
        nn.init.ones_(self.fcos.head.regression_head.bbox_reg.bias)
        self.max_detections, self.nms_threshold = max_detections, nms_threshold
        self.register_buffer("signed_distances", torch.tensor(1.0))

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``average_precision``."""
        from umedpt_lightning.tasks.average_precision import AveragePrecision

        return {"average_precision": AveragePrecision(len(self.spec.classes), self.max_detections)}

    def forward(self, features: DetectionFeatures) -> DetectionOutput:
        """Class logits, boxes and centre-ness at every place."""
        head = self.fcos.head.regression_head
        layers = (head.bbox_reg, head.bbox_ctrness)
        distances, centres = (as_float(_by_place([layer(m) for m in features.boxes])) for layer in layers)
        logits = as_float(self.fcos.head.classification_head(features.classes))
        distances = torch.where(self.signed_distances > 0, _with_sides(distances), distances.relu())
        raw = {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": centres}
        places = [m.shape[2] * m.shape[3] for m in features.classes]
        return DetectionOutput(raw, features.anchors.to(logits.dtype), places, features.size)

    def loss(self, output: DetectionOutput, targets: list[Boxes]) -> Tensor:
        """A third of the sum of focal, GIoU and centre-ness loss; each is about 1 at the start."""
        boxes = PaddedBoxes.of(targets, output.anchors.dtype)
        assigned = assign(output.anchors, output.places, boxes, self.signed_distances > 0)
        return fcos_loss(output.raw, output.anchors, boxes, assigned) / 3

    def update(self, output: DetectionOutput, targets: list[Boxes]) -> None:
        """Adds raw outputs and true boxes.

        Where numbers of an image are not finite, none of its boxes is found, and there is a wrong one of each class.
        """
        predicted = [torch.column_stack([d.boxes, d.labels, d.scores]) for d in self.counted(output)]  # (N, 6) each
        self.metrics.average_precision.update(predicted, [torch.column_stack(t) for t in targets])

    def compute(self) -> dict[str, Tensor]:
        """``map`` and ``map50``, NaN where there is no true box at all."""
        over_all, at_half = self.metrics.average_precision.compute()
        return {"map": over_all, "map50": at_half}

    def predict(self, output: DetectionOutput) -> list[Detections]:
        """The boxes of every image after NMS, clipped to the image."""
        raw = {key: list(torch.split(value, output.places, dim=1)) for key, value in output.raw.items()}
        images = len(output.raw["cls_logits"])
        anchors = [list(torch.split(output.anchors, output.places))] * images
        found = self.fcos.postprocess_detections(raw, anchors, [output.size] * images)
        return [Detections(**detections) for detections in found]

    def counted(self, output: DetectionOutput) -> list[Detections]:
        """The boxes that metrics are of, in float64: in float32 scores are 1 from a logit of 17 on, and would tie."""
        raw, anchors = {key: value.double() for key, value in output.raw.items()}, output.anchors.double()
        classes = torch.arange(len(self.spec.classes), device=anchors.device)
        wrong = Detections(anchors.new_zeros(len(classes), 4), torch.ones_like(classes).double(), classes)
        found = self.predict(replace(output, raw=raw, anchors=anchors))
        finite = finite_rows(raw, len(found)).tolist()
        return [one if good else wrong for one, good in zip(found, finite, strict=True)]

    def exported(self, output: DetectionOutput) -> dict[str, Tensor]:
        """``boxes`` ``(B, P, 4)`` and ``scores`` ``(B, P, K)`` of every place, before any threshold and NMS."""
        raw = output.raw
        boxes = self.fcos.box_coder.decode(raw["bbox_regression"], output.anchors)
        height, width = output.size
        x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
        return {
            "boxes": torch.stack([x, y], dim=-1).flatten(-2),
            "scores": (raw["cls_logits"].sigmoid() * raw["bbox_ctrness"].sigmoid()).sqrt(),
        }

    def resized(self, prediction: Detections, shown: tuple[int, int], wanted: tuple[int, int]) -> Detections:
        """The boxes with other coordinates."""
        rows_y, rows_x = wanted[0] / shown[0], wanted[1] / shown[1]
        return replace(prediction, boxes=prediction.boxes * prediction.boxes.new_tensor([rows_x, rows_y] * 2))

    def upgrade_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Heads that were trained by FCOS's rule alone, without negative distances, go on so."""
        if prefix + "fcos.head.regression_head.bbox_reg.weight" in state:
            state.setdefault(prefix + "signed_distances", torch.tensor(0.0))

    def baseline(self, targets: BatchTargets) -> DetectionOutput:
        """No box at all."""
        nothing = {
            key: torch.zeros(len(targets), 0, last, device=self.device)
            for key, last in (("cls_logits", len(self.spec.classes)), ("bbox_regression", 4), ("bbox_ctrness", 1))
        }
        return DetectionOutput(nothing, torch.zeros(0, 4, device=self.device), [0], (0, 0))

    def answers(self) -> Answers:
        """With boxes that are matched once, which is what takes time."""
        return BoxAnswers(self)


class BoxAnswers(Answers):
    """Of a detection.

    Args:
        task: Whose answers.
    """

    def __init__(self, task: Detection) -> None:
        super().__init__(task)
        self._detection = task
        self._predicted: list[NDArray[np.float32]] = []
        self._matches: list[ImageMatches] = []

    def add(self, output: DetectionOutput, targets: list[Boxes]) -> None:
        """Adds raw outputs and true boxes."""
        task = self._detection
        for found, truth in zip(task.counted(output), targets, strict=True):
            boxes, true = (
                to_numpy(torch.column_stack(parts))
                for parts in ([found.boxes, found.labels, found.scores], list(truth))
            )
            self._predicted.append(boxes.astype(np.float32))
            self._matches.append(match_boxes(boxes, true, len(task.spec.classes), task.max_detections))

    def score(self, rows: Rows | None = None) -> dict[str, float]:
        """Average precision."""
        chosen = self._matches if rows is None else [self._matches[row] for row in rows.tolist()]
        over_all, at_half = average_precision(chosen)
        return {"map": over_all, "map50": at_half}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``score``, the mAP50 of each sample, and ``answer_<row>``, its boxes ``(N, 6)``.

        Columns are x1, y1, x2, y2 in pixels, class and score.
        """
        scores = [self.score(np.array([row]))["map50"] for row in range(len(self._matches))]
        return {"score": np.array(scores)} | {f"answer_{row}": boxes for row, boxes in enumerate(self._predicted)}

    def prediction(self, arrays: Mapping[str, NDArray[Any]], row: int) -> Any:
        """Its boxes."""
        boxes: Any = arrays[f"answer_{row}"]
        return Detections(boxes[:, :4], boxes[:, 5], boxes[:, 4].astype(np.int64))


def _by_place(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``(B, C, H_i, W_i)`` as values of places ``(B, P, C)``."""
    return torch.cat([values.flatten(2).transpose(1, 2) for values in maps], dim=1)


def _with_sides(distances: Tensor) -> Tensor:
    """Distances ``(..., 4)`` to left, top, right and bottom in strides, so that sides have a length above 0.

    Sides of a quarter stride and more stay as they are. Shorter ones shrink more and more slowly: a side that is cut
    off at 0 would get no gradient any more.
    """
    sides = distances + distances.roll(2, -1)
    short = _SHORT * ((sides - _SHORT).clamp_max(0) / _SHORT).exp()
    return distances + (torch.where(sides > _SHORT, sides, short) - sides) / 2
