"""Windows of attention: their size, and Swin's at the edges of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from torch import Tensor, nn


def window_size(net: nn.Module) -> int:
    """The longest side of a window in which a layer attends, places of its map; 1 where there is none."""
    sizes = [getattr(module, name, None) for module in net.modules() for name in ("window_size", "partition_size")]
    sides = [side for size in sizes for side in (size if isinstance(size, tuple | list) else [size])]
    return max([1, *(side for side in sides if isinstance(side, int))])


def pad_before_shift(net: nn.Module) -> bool:
    """Pads feature maps to whole windows before they are shifted, so that opposite edges do not attend to each other.

    Swin shifts its windows by rolling the image, masks what was not neighbours before, and needs whole windows. timm
    (1.0) fills up the last ones after it has rolled, so that the mask no longer lies where the edges met: unless the
    image is a multiple of the windows, what is at its left edge depends on its right edge. Here they are filled up
    first, as the authors of Swin did it; images that are a multiple (224 pixels with windows of 7) are as with timm.

    Args:
        net: Its blocks become such that do so.

    Returns:
        Whether there are any.
    """
    shifted = [module for module in net.modules() if type(module) in _PADDED]
    for module in shifted:
        module.__class__ = _PADDED[type(module)]
    return bool(shifted)


def _padded(attention: Callable[[Tensor], Tensor], x: Tensor, windows: tuple[int, int]) -> Tensor:
    """Attention of a map ``(B, H, W, C)`` that is whole windows meanwhile."""
    height, width = x.shape[1], x.shape[2]
    below, right = ((-side) % window for side, window in zip((height, width), windows, strict=True))
    return attention(F.pad(x, (0, 0, 0, right, 0, below)))[:, :height, :width]


class _Block(SwinTransformerBlock):
    def _attn(self, x: Tensor) -> Tensor:
        return _padded(super()._attn, x, self.window_size)


class _V2Block(SwinTransformerV2Block):
    def _attn(self, x: Tensor) -> Tensor:
        return _padded(super()._attn, x, self.window_size)


class _V2CrBlock(SwinTransformerV2CrBlock):
    def _shifted_window_attn(self, x: Tensor) -> Tensor:
        return _padded(super()._shifted_window_attn, x, self.window_size)


_PADDED: dict[type[nn.Module], Any] = {
    SwinTransformerBlock: _Block,
    SwinTransformerV2Block: _V2Block,
    SwinTransformerV2CrBlock: _V2CrBlock,
}
