"""The shared pixel decoder: from the pyramid to an embedding of every pixel of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor

from umedpt_lightning.blocks.batch_norm import group_norm, replace_batch_norm
from umedpt_lightning.blocks.encoder import Pyramid
from umedpt_lightning.blocks.shared_block import SharedBlock


class PixelDecoder(SharedBlock):
    """A U-Net decoder up to the full resolution of the input.

    Args:
        encoder_channels: Channels of each map of the pyramid, finest first.
        strides: Their strides: powers of two, the next twice the one before.
        channels: Channels of the pixel embedding. The coarser blocks double them, up to 256.

    Raises:
        ValueError: The strides do not double from map to map, or are no powers of two.
    """

    def __init__(self, encoder_channels: Sequence[int], strides: Sequence[int], channels: int = 32) -> None:
        super().__init__()
        depth = strides[-1].bit_length() - 1  # halvings from the image to the coarsest map
        if not depth or [2**i for i in range(depth - len(strides) + 1, depth + 1)] != list(strides):
            raise ValueError(
                "the pixel decoder needs strides that double from map to map and are powers of two, the last above 1, "
                f"but they are {list(strides)}"
            )
        self.strides = list(strides)
        self.out_channels = channels
        # Swin and ConvNeXt start at stride 4: the levels above have no map, hence no channels
        self.missing = depth - len(strides)
        widths = [min(256, channels * 2**i) for i in reversed(range(depth))]
        self.unet = UnetDecoder(
            encoder_channels=[0] * (1 + self.missing) + list(encoder_channels),
            decoder_channels=widths,
            n_blocks=depth,
            interpolation_mode="bilinear",
        )
        replace_batch_norm(self.unet, lambda norm: group_norm(norm.num_features))

    def forward(self, pyramid: Pyramid) -> Tensor:
        """The pixel embedding, ``(B, channels, H, W)``, at the size of the image before padding."""
        finest = pyramid.maps[0]
        height, width = pyramid.padded_size
        empty = [
            finest.new_zeros(finest.shape[0], 0, height // 2**i, width // 2**i)  # (B, 0, H/2^i, W/2^i)
            for i in range(1 + self.missing)
        ]
        pixels: Tensor = self.unet([*empty, *pyramid.maps])
        if torch.compiler.is_exporting():  # a slice would be traced as if there always were something to cut off
            return F.pad(pixels, (0, pyramid.size[1] - width, 0, pyramid.size[0] - height))
        return pixels[:, :, : pyramid.size[0], : pyramid.size[1]]
