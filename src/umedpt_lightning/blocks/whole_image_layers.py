"""Layers that look at all of an image at once, in a form that lets tiles look at it together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Own(NamedTuple):
    """The part of a tile that no other tile answers for, as shares of its height and width."""

    top: float
    bottom: float
    left: float
    right: float


class WholeImageLayer(ABC):
    """A layer that gives ``scale * x + shift`` by channel, both of them known from sums over all of the image.

    Args:
        layer: The layer, in evaluation mode.
        axis: Where its input ``(1, C, H, W)`` or ``(1, H, W, C)`` has the channels.
        groups: Of channels that share their sums; None where each has its own.
    """

    def __init__(self, layer: nn.Module, axis: int = 1, groups: int | None = None) -> None:
        self.layer = layer
        self._axis, self._groups = axis, groups

    def sums(self, features: Tensor, own: Own) -> Tensor:
        """Numbers, their sum and the sum of their squares, ``(3, groups)`` float64, in the own part of a tile."""
        features = features.movedim(self._axis, 1)[0]  # (C, H, W)
        channels, height, width = features.shape
        rows = slice(round(own.top * height), round(own.bottom * height))
        columns = slice(round(own.left * width), round(own.right * width))
        part = features[:, rows, columns].reshape(self._groups or channels, -1).double()
        count = torch.full_like(part[:, 0], part.shape[1])
        return torch.stack([count, part.sum(1), part.square().sum(1)])

    @abstractmethod
    def scale_and_shift(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """``(C,)`` each, from `sums` of all tiles together."""

    def output(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """What the layer gives for a tile, by what is known of the whole image."""
        shape = [1, 1, 1, 1]
        shape[self._axis] = -1
        return torch.addcmul(shift.view(shape), features, scale.view(shape))


class _GroupNorm(WholeImageLayer):
    """GroupNorm; timm's may lack a scale or a shift, and carry dropout and an activation inside."""

    layer: nn.GroupNorm

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__(layer, groups=layer.num_groups)

    def scale_and_shift(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layer
        count, total, squares = sums.repeat_interleave(layer.num_channels // layer.num_groups, 1)  # (C,) each
        mean = total / count
        scale = ((squares / count - mean.square()).clamp_min(0) + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -mean * scale
        return scale, shift if layer.bias is None else shift + layer.bias

    def output(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        found = super().output(features, scale, shift)
        for name in ("drop", "act"):
            found = getattr(self.layer, name, nn.Identity())(found)
        return found


def whole_image_layers(
    module: nn.Module, others: Callable[[nn.Module], WholeImageLayer | None] = lambda layer: None
) -> list[WholeImageLayer]:
    """All such layers in a module; layers inside of them see what is one number a channel, and need nothing.

    Args:
        module: What is looked through.
        others: Gives the form of a layer that is no GroupNorm: `BaseEncoder.whole_image_layer`.
    """
    found: list[WholeImageLayer] = []
    inside: set[nn.Module] = set()
    for layer in module.modules():  # a layer comes before those inside of it
        if layer in inside:
            continue
        form = _GroupNorm(layer) if isinstance(layer, nn.GroupNorm) else others(layer)
        if form is not None:
            found.append(form)
            inside.update(layer.modules())
    return found
