"""BEiT's attention for images of any size, which timm's takes at one size alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import gen_relative_position_index
from torch import Tensor


def take_any_size(net: Any) -> None:
    """Lets BEiT, alone of timm's, take other sizes than it was made for."""
    for module in net.modules():
        if type(module) is BeitAttention and module.window_size is not None:
            module.__class__ = AnySizeBeitAttention
            net.patch_embed.strict_img_size = False


class AnySizeBeitAttention(BeitAttention):
    """BEiT's attention whose table of biases is interpolated to the patches of an image.

    Attributes:
        grid: Rows and columns of patches.
    """

    grid: tuple[int, int]

    def _get_rel_pos_bias(self) -> Tensor:
        if self.grid == tuple(self.window_size):
            bias: Tensor = super()._get_rel_pos_bias()
            return bias
        rows, columns = (2 * side - 1 for side in self.window_size)
        table: Tensor = self.relative_position_bias_table
        of_patches = table[:-3].T.reshape(1, -1, rows, columns)  # (1, heads, rows, columns)
        wanted = tuple(2 * side - 1 for side in self.grid)
        of_patches = F.interpolate(of_patches, wanted, mode="bicubic", align_corners=True)
        table = torch.cat([of_patches[0].flatten(1).T, table[-3:]])  # the last are the class token's
        index = gen_relative_position_index(self.grid, device=table.device)
        return table[index].permute(2, 0, 1)[None].contiguous()
