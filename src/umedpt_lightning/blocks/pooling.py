"""From the pyramid to one vector an image."""

from __future__ import annotations

from torch import Tensor, nn

from umedpt_lightning.blocks.encoder import Pyramid


class Pooling(nn.Module):
    """Averages the coarsest map over the image, padding left out, and normalises the vector.

    Args:
        channels: Channels of the coarsest map, the length of the embedding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """The embedding, ``(B, channels)``."""
        stride = pyramid.strides[-1]
        height, width = ((side + stride - 1) // stride for side in pyramid.size)  # rows and columns that hold any image
        pooled: Tensor = pyramid.maps[-1][:, :, :height, :width].mean(dim=(2, 3))
        normed: Tensor = self.norm(pooled)
        return normed
