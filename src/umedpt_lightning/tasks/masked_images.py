"""Images without labels: hidden squares are painted in again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from umedpt_lightning.labels import Line, PixelLayer, View
from umedpt_lightning.tasks.base import FeatureWidths, Task, as_float
from umedpt_lightning.types import BatchTargets, TaskBatch, UnlabelledSpec

#: Squares a side where no size is given: 32 pixels of 224, as in the paper.
_SQUARES = 7
#: The least mean deviation of an image, as a share of the value range: one that is all alike is not blown up.
_LEAST_SPREAD = 0.01


class MaskedImages(Task):
    """Hides squares of an image and learns to paint them in: a 1×1 convolution on the pixel embedding.

    Xie et al., SimMIM, CVPR 2022, arXiv:2111.09886: squares at random, a light head, and the absolute error of hidden
    pixels alone. Unlike there, the mean of what is left to be seen fills the squares, since encoders of every kind see
    pixels, not tokens; and the decoder is the shared one. An image is counted in its own units, as the mean absolute
    deviation of its visible pixels from their mean, so that who says that mean everywhere has a loss of about 1.

    Metric: ``explained``, the share of the hidden pixels' absolute deviation from that mean that is gone: 0 for a head
    that says the mean.

    Args:
        spec: Channels of the images.
        widths: Channels of the shared features.
        hidden: Share of the squares that are hidden.
        square: Their side, pixels; None for a seventh of the shorter side of the image.

    Raises:
        ValueError: `hidden` is not between 0 and 1, or `square` not positive.
    """

    needs = "pixels"
    main_metric = "explained"
    predicts: ClassVar[bool] = False
    spec: UnlabelledSpec

    def __init__(
        self, spec: UnlabelledSpec, widths: FeatureWidths, hidden: float = 0.6, square: int | None = None
    ) -> None:
        super().__init__()
        if not 0 < hidden < 1:
            raise ValueError(f"hidden is {hidden}, but it must be a share above 0 and below 1.")
        if square is not None and square < 1:
            raise ValueError(f"square is {square}, but it must be 1 pixel or more; null for a seventh of the image.")
        self.spec, self.hidden, self.square = spec, hidden, square
        self.head = nn.Conv2d(widths.pixels, spec.channels, kernel_size=1)

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``error`` and ``deviation``, means over images."""
        from torchmetrics import MeanMetric

        return {"error": MeanMetric(), "deviation": MeanMetric()}

    def prepare(self, batch: TaskBatch) -> TaskBatch:
        """Images with hidden squares, and targets ``(B, C + 1, H, W)``: images in their own units, and what is hidden.

        What is hidden follows from the target that the reader gave, on every device alike.

        Raises:
            ValueError: The images are too small for two squares of that size.
        """
        if not isinstance(batch.images, Tensor) or not isinstance(batch.targets, Tensor):
            raise ValueError(f"Task {batch.task!r} hides parts of single images, but was given bags.")
        low, high = self.spec.value_range
        images = (batch.images.float() - low) / (high - low)  # (B, C, H, W)
        height, width = images.shape[2:]
        square = self.square or max(1, round(min(height, width) / _SQUARES))
        rows, columns = -(-height // square), -(-width // square)
        if rows * columns < 2:
            raise ValueError(
                f"Task {batch.task!r} hides squares of {square} pixels, but its images are {height} x {width}. Give it "
                f"a smaller `square` under model.tasks.{batch.task}, or larger images."
            )
        squares = hidden_squares(batch.targets, rows * columns, self.hidden).view(-1, 1, rows, columns)
        cover = squares.repeat_interleave(square, 2).repeat_interleave(square, 3)[:, :, :height, :width]
        mean, spread = _scale(images, ~cover)
        seen = torch.where(cover, mean, images) * (high - low) + low
        targets = torch.cat([(images - mean) / spread, cover.float()], dim=1)
        return replace(batch, images=seen, targets=targets)

    def forward(self, features: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in their own units for a pixel embedding ``(B, D, H, W)``."""
        pixels: Tensor = self.head(features)
        return pixels

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error of the hidden pixels of images ``(B, C, H, W)``; targets as `prepare` makes them."""
        return _over_hidden((as_float(output) - targets[:, :-1]).abs(), targets).mean()

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds images and targets, as for `loss`."""
        self.metrics.error.update(_over_hidden((as_float(output) - targets[:, :-1]).abs(), targets))
        self.metrics.deviation.update(_over_hidden(targets[:, :-1].abs(), targets))

    def compute(self) -> dict[str, Tensor]:
        """``explained``."""
        return {"explained": 1 - self.metrics.error.compute() / self.metrics.deviation.compute()}

    def baseline(self, targets: BatchTargets) -> Tensor:
        """The mean of what is to be seen, everywhere."""
        if not isinstance(targets, Tensor):
            raise TypeError(f"Targets come as a tensor, not as {type(targets).__name__}.")
        return torch.zeros_like(targets[:, :-1])

    def predict(self, output: Tensor) -> Tensor:
        """The images that are painted, ``(B, C, H, W)`` in their own units."""
        return as_float(output)

    def comparison_view(self, target: np.ndarray, prediction: np.ndarray) -> View:
        """The whole image as truth, and what was painted into the hidden squares as prediction."""
        image, cover = target[:-1], target[-1:] > 0
        low, high = np.quantile(image, (0.005, 0.995))
        truth, painted = ((one - low) / max(high - low, 1e-6) for one in (image, np.where(cover, prediction, image)))
        error, deviation = (float(np.abs(of)[:, cover[0]].mean()) for of in (prediction - image, image))
        line = Line(f"explained of what is hidden: {1 - error / max(deviation, 1e-6):.2f}")
        return View((line,), PixelLayer(truth), PixelLayer(painted))


def hidden_squares(seeds: Tensor, count: int, share: float) -> Tensor:
    """``(B, count)`` bool: which squares are hidden, as many of every image, chosen by the seeds ``(B,)`` alone.

    The numbers of the squares are ordered by a hash of seed and number in whole numbers, which is the same on every
    device and needs no copy of the seeds: that of Steele et al. (SplitMix64, OOPSLA 2014), with arithmetic shifts.
    """
    mixed = seeds.long()[:, None] * 0x1E3779B97F4A7C15 + torch.arange(1, count + 1, device=seeds.device)
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    hidden = min(count - 1, max(1, round(share * count)))
    ranks = mixed.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return ranks < hidden


def _scale(images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the visible pixels of each image ``(B, C, H, W)``, and how far they are from it in the mean."""
    counts = visible.sum((1, 2, 3), keepdim=True) * images.shape[1]
    mean = (images * visible).sum((1, 2, 3), keepdim=True) / counts
    spread = ((images - mean).abs() * visible).sum((1, 2, 3), keepdim=True) / counts
    return mean, spread.clamp_min(_LEAST_SPREAD)


def _over_hidden(values: Tensor, targets: Tensor) -> Tensor:
    """``(B,)`` the mean of values ``(B, C, H, W)`` over hidden pixels."""
    cover = targets[:, -1:]
    return (values * cover).sum((1, 2, 3)) / (cover.sum((1, 2, 3)) * values.shape[1])
