"""The loss of FCOS in static shapes, equal to torchvision's where both assign the same boxes to the same places."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.ops import sigmoid_focal_loss

from umedpt_lightning.tasks.fcos_targets import Assignment, PaddedBoxes

_EPSILON = 1e-7  # torchvision's


def fcos_loss(raw: Mapping[str, Tensor], anchors: Tensor, targets: PaddedBoxes, assigned: Assignment) -> Tensor:
    """The sum of focal, GIoU and centre-ness loss, each a mean over the places that learn a box.

    Args:
        raw: ``cls_logits`` ``(B, P, K)``, ``bbox_regression`` ``(B, P, 4)`` and ``bbox_ctrness`` ``(B, P, 1)``.
        anchors: ``(P, 4)``.
        targets: The boxes.
        assigned: Which place learns which of them.
    """
    positive = assigned.positive  # (B, P)
    labels = targets.labels.gather(1, assigned.box)
    boxes = targets.boxes.gather(1, assigned.box[..., None].expand(-1, -1, 4))  # (B, P, 4)
    boxes = boxes.where(positive[..., None], anchors)  # of others the loss is finite, and left out

    classes = torch.arange(raw["cls_logits"].shape[-1], device=labels.device)
    wanted = ((labels[..., None] == classes) & positive[..., None]).to(anchors.dtype)  # (B, P, K)
    focal = sigmoid_focal_loss(raw["cls_logits"], wanted, reduction="sum")

    coder = BoxLinearCoder(normalize_by_size=True)
    overlap = _giou_loss(coder.decode(raw["bbox_regression"], anchors), boxes)

    left, top, right, bottom = coder.encode(anchors, boxes).unbind(-1)
    centred = torch.ones_like(left)
    for one, other in ((left, right), (top, bottom)):
        centred = centred * torch.minimum(one, other).clamp_min(0) / torch.maximum(one, other)
    # the only place of a box is its best one, wherever it lies: with the formula's 0 such boxes were ranked worse
    centred = centred.sqrt().where(~assigned.extra, 1)
    centre = F.binary_cross_entropy_with_logits(raw["bbox_ctrness"].squeeze(-1), centred, reduction="none")

    total: Tensor = focal + (overlap + centre).where(positive, 0).sum()
    return total / positive.sum().clamp_min(1)


def _giou_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """One less the generalised intersection over union of pairs of boxes ``(..., 4)``.

    Rezatofighi et al., Generalized Intersection over Union, CVPR 2019; torchvision's picks overlapping pairs by a
    mask, for which a GPU waits.
    """
    lower, upper = torch.maximum(predicted[..., :2], true[..., :2]), torch.minimum(predicted[..., 2:], true[..., 2:])
    shared = _area(lower, torch.maximum(lower, upper))
    hull = _area(torch.minimum(predicted[..., :2], true[..., :2]), torch.maximum(predicted[..., 2:], true[..., 2:]))
    union = _area(predicted[..., :2], predicted[..., 2:]) + _area(true[..., :2], true[..., 2:]) - shared
    return 1 - shared / (union + _EPSILON) + (hull - union) / (hull + _EPSILON)


def _area(lower: Tensor, upper: Tensor) -> Tensor:
    sides = upper - lower
    return sides[..., 0] * sides[..., 1]
