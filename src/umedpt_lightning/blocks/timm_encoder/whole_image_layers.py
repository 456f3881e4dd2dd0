"""timm's layers that look at all of an image at once, in a form that lets tiles look at it together."""

from __future__ import annotations

import torch
from timm.layers.eca import CecaModule, EcaModule
from timm.layers.grn import GlobalResponseNorm
from timm.layers.squeeze_excite import EffectiveSEModule, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.hgnet import EseModule
from timm.models.senet import SEModule as LegacySEModule
from torch import Tensor, nn

from umedpt_lightning.blocks.whole_image_layers import WholeImageLayer


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


def whole_image_layer(module: nn.Module) -> WholeImageLayer | None:
    """The form of a layer of timm's that tiles can share.

    Not found are layers of another form, such as attention over all of an image, or gates that go by its maximum.
    """
    if type(module) is GlobalResponseNorm:
        return _ResponseNorm(module)
    if type(module) in GATES and not getattr(module, "add_maxpool", False):
        return _Gate(module)
    return None
