"""Which place learns which box: the assignment of FCOS in static shapes, where every box gets a place.

Nothing here reads a value back from the device, so that a GPU never waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from umedpt_lightning.types import Boxes

# A place learns a box if it lies inside it, no further from its centre than so many strides; torchvision's.
_RADIUS = 1.5
# A level learns boxes whose farthest side lies between so many strides from a place; torchvision's.
_NEAREST_SIDE, _FARTHEST_SIDE = 4, 8
# So many boxes can compete for one place, until each of them has another close by.
_ROUNDS = 8


@dataclass
class PaddedBoxes:
    """The boxes of a micro-batch, each image's filled up to the most that an image has, one at least.

    Attributes:
        boxes: ``(B, N, 4)``.
        labels: ``(B, N)`` int64.
        real: ``(B, N)`` bool, False for what was filled up.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor

    @classmethod
    def of(cls, targets: Sequence[Boxes], dtype: torch.dtype) -> PaddedBoxes:
        """Those of images, in a floating-point type."""
        one = Boxes(targets[0].boxes.new_zeros(1, 4), targets[0].labels.new_zeros(1))  # is taken away again
        boxes = pad_sequence([t.boxes.to(dtype) for t in (one, *targets)], batch_first=True)[1:]
        labels = pad_sequence([t.labels for t in (one, *targets)], batch_first=True)[1:]
        counts = _to_device([len(t.labels) for t in targets], boxes.device)
        return cls(boxes, labels, torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None])


@dataclass
class Assignment:
    """What each place learns.

    Attributes:
        box: ``(B, P)`` int64, index of its box; that of any where it learns none.
        positive: ``(B, P)`` bool, whether it learns a box.
        extra: ``(B, P)`` bool, whether it learns one that FCOS's rule would have left without a place.
    """

    box: Tensor
    positive: Tensor
    extra: Tensor


class _Grid:
    """The places of all levels L of a pyramid, from their anchors ``(P, 4)`` in rows of each level."""

    def __init__(self, anchors: Tensor, places: Sequence[int]) -> None:
        self.centres = (anchors[:, :2] + anchors[:, 2:]) / 2  # (P, 2)
        levels = torch.split(anchors, list(places))
        firsts = [end - count for end, count in zip(accumulate(places), places, strict=True)]
        # places of one row have one height
        columns = torch.stack([(level[:, 1] == level[0, 1]).sum() for level in levels])
        counts = _to_device(places, anchors.device)
        self.first = _to_device(firsts, anchors.device)  # (L,)
        self.shape = torch.stack([columns, counts // columns], dim=-1)  # (L, 2) columns and rows
        self.origin = torch.stack([self.centres[first] for first in firsts])  # (L, 2)
        self.stride = torch.stack([level[0, 2] - level[0, 0] for level in levels])  # (L,)

    def around(self, points: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        """The places around the nearest one to each point ``(B, N, 2)``, on every level.

        Returns:
            Their indices ``(B, N, L, (2 radius + 1)²)``, and whether there is such a place.
        """
        steps = torch.arange(-radius, radius + 1, device=points.device)
        steps = torch.cartesian_prod(steps, steps)  # (S, 2)
        nearest = ((points[:, :, None] - self.origin) / self.stride[:, None]).round().long()  # (B, N, L, 2)
        nearest = torch.minimum(nearest.clamp_min(0), self.shape - 1)
        cells = nearest[..., None, :] + steps  # (B, N, L, S, 2)
        there = ((cells >= 0) & (cells < self.shape[:, None])).all(-1)
        index = self.first[:, None] + cells[..., 1] * self.shape[:, :1] + cells[..., 0]
        return index.where(there, 0), there


def assign(
    anchors: Tensor, places: Sequence[int], targets: PaddedBoxes, every: Tensor | Literal[True] = True
) -> Assignment:
    """Assigns boxes to places as FCOS with centre sampling does, and then each box that is left to the nearest place.

    By the rule of Tian et al., FCOS: A Simple and Strong Anchor-Free Object Detector, TPAMI 2022, as torchvision has
    it, a place learns the smallest of the boxes that it lies in, near their centres, on the level for their size. A box
    that no place lies in is taken as if its nearest one did; one that smaller boxes have left nothing gets the nearest
    place that is free. Instead of comparing all places with all boxes, this looks at the places around each box alone.

    Args:
        anchors: ``(P, 4)`` squares around the places as wide as the stride of their level, in rows.
        places: Places of each level, finest first; they add up to ``P``.
        targets: The boxes.
        every: Whether each box gets a place, a bool ``()``; else FCOS's rule alone holds.
    """
    grid = _Grid(anchors, places)
    boxes, real = targets.boxes, targets.real
    middles, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (B, N, 2)
    lower, upper = grid.stride * _NEAREST_SIDE, grid.stride * _FARTHEST_SIDE  # (L,)
    lower[0], upper[-1] = 0, torch.inf

    index, there = grid.around(middles, 1)  # (B, N, L, 9)
    points = grid.centres[index]  # (B, N, L, 9, 2)
    near = (points - middles[:, :, None, None]).abs().amax(-1) < _RADIUS * grid.stride[:, None]
    distances = torch.cat([points - boxes[:, :, None, None, :2], boxes[:, :, None, None, 2:] - points], dim=-1)
    farthest = distances.amax(-1)
    fits = near & (distances.amin(-1) > 0) & (farthest > lower[:, None]) & (farthest < upper[:, None])
    fits = (fits & there & real[..., None, None]).flatten(2)  # (B, N, 9 L)

    level = (sides.amax(-1, keepdim=True) / 2 >= upper[:-1]).sum(-1)  # (B, N) the first for boxes of this size
    wide, there = (_of_level(found, level) for found in grid.around(middles, 2))  # (B, N, 25)
    away = (grid.centres[wide] - middles[:, :, None]).square().sum(-1).where(there, torch.inf)
    nearest = wide.gather(-1, away.argmin(-1, keepdim=True))
    without = real & ~fits.any(-1) & every
    index = torch.cat([index.flatten(2), nearest], dim=-1)
    fits = torch.cat([fits, without[..., None]], dim=-1)
    owner = _smallest(index, fits, 1e8 - sides.prod(-1), len(grid.centres))  # (B, P)

    numbers = torch.arange(boxes.shape[1], device=boxes.device).expand_as(real)  # (B, N)
    nobody = boxes.shape[1]
    extra = without.gather(1, owner.clamp_max(nobody - 1)) & (owner < nobody)
    for _ in range(_ROUNDS):
        waits = real & ~_served(owner, nobody) & every
        free = (owner.gather(1, wide.flatten(1)) == nobody).view_as(wide)
        cost = away.where(free & waits[..., None], torch.inf)  # (B, N, 25)
        least, choice = cost.min(-1, keepdim=True)
        place = wide.gather(-1, choice)[..., 0]  # (B, N)
        claims = torch.full_like(owner, nobody).scatter_reduce(
            1, place, numbers.where(least[..., 0] < torch.inf, nobody), "amin"
        )
        extra |= claims < nobody
        owner = torch.minimum(owner, claims)
    return Assignment(owner.clamp_max(nobody - 1), owner < nobody, extra)


def _of_level(values: Tensor, level: Tensor) -> Tensor:
    """Of values ``(B, N, L, S)`` those of one level each, ``(B, N, S)``."""
    return values.gather(2, level[..., None, None].expand(-1, -1, 1, values.shape[-1]))[:, :, 0]


def _smallest(index: Tensor, fits: Tensor, smallness: Tensor, places: int) -> Tensor:
    """Which box each place learns: of those that it fits, the smallest; of equal ones the first.

    Args:
        index: ``(B, N, C)`` places.
        fits: ``(B, N, C)`` whether the place may learn the box.
        smallness: ``(B, N)`` above 0, larger for smaller boxes. In float32 it is torchvision's, to the rounding.
        places: How many there are.

    Returns:
        ``(B, P)``, ``N`` where there is none.
    """
    images, boxes = smallness.shape
    keys = smallness[..., None].where(fits, 0)  # (B, N, C)
    best = keys.new_zeros(images, places).scatter_reduce(1, index.flatten(1), keys.flatten(1), "amax")
    wins = fits & (keys == best.gather(1, index.flatten(1)).view_as(keys))
    numbers = torch.arange(boxes, device=index.device)[:, None].where(wins, boxes)
    nobody = index.new_full((images, places), boxes)
    return nobody.scatter_reduce(1, index.flatten(1), numbers.flatten(1), "amin")


def _served(owner: Tensor, boxes: int) -> Tensor:
    """``(B, N)`` which boxes have a place."""
    hit = torch.zeros(len(owner), boxes + 1, dtype=torch.bool, device=owner.device)
    return hit.scatter(1, owner, True)[:, :boxes]


def _to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Numbers as int64 on a device, which nobody waits for."""
    return torch.tensor(list(numbers), device="cpu").to(device, non_blocking=True)
