"""Layers that look at all of an image at once, in a form that lets tiles look at it together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from timm.layers.eca import CecaModule, EcaModule
from timm.layers.grn import GlobalResponseNorm
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.hgnet import EseModule
from timm.models.senet import SEModule as LegacySEModule
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


class _Gate(WholeImageLayer):
    """A weight for each channel, from the means of all channels."""

    def scale_and_shift(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        count, total, _ = sums
        mean = (total / count).float()[None, :, None, None]  # (1, C, 1, 1)
        # The layer itself weighs an image of two pixels with these means. The pixels differ, since a mean may be 0.
        apart = mean.abs() + 1
        high, low = self.layer.forward(torch.cat([mean + apart, mean - apart], 3))[0, :, 0].unbind(1)  # (C,) each
        scale = (high - low) / (2 * apart.flatten())
        return scale, torch.zeros_like(scale)


class _ResponseNorm(WholeImageLayer):
    """Global Response Normalisation of ConvNeXt V2: a channel's norm over the image, beside those of all channels."""

    layer: GlobalResponseNorm

    def __init__(self, layer: GlobalResponseNorm) -> None:
        super().__init__(layer, axis=layer.channel_dim % 4)

    def scale_and_shift(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        norm = sums[2].sqrt()
        scale = 1 + self.layer.weight * norm / (norm.mean() + self.layer.eps)
        return scale, self.layer.bias


#: What timm has of the form ``x * gate(x.mean((2, 3)))``. A subclass may be of another form.
GATES = {SqueezeExcite, SEModule, LegacySEModule, EffectiveSEModule, EseModule, EcaModule, CecaModule}


def whole_image_layers(model: nn.Module) -> list[WholeImageLayer]:
    """All such layers of a model; layers inside of them see what is one number a channel, and need nothing.

    Not found are those of another form, such as attention over all of an image, or gates that go by its maximum.
    """
    found: list[WholeImageLayer] = []
    inside: set[nn.Module] = set()
    for module in model.modules():  # a layer comes before those inside of it
        if module not in inside and (layer := _known(module)):
            found.append(layer)
            inside.update(module.modules())
    return found


def _known(module: nn.Module) -> WholeImageLayer | None:
    if isinstance(module, nn.GroupNorm):
        return _GroupNorm(module)
    if type(module) is GlobalResponseNorm:
        return _ResponseNorm(module)
    if type(module) in GATES and not getattr(module, "add_maxpool", False):
        return _Gate(module)
    return None
