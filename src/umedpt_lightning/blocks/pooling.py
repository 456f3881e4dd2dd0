"""From the pyramid to one vector an image."""

from __future__ import annotations

from torch import Tensor, nn

from umedpt_lightning.blocks.encoder import Pyramid


class Pooling(nn.Module):
    """Averages the last map over the image, padding left out, or takes the encoder's own embedding; normalises either.

    Args:
        channels: Length of the embedding: `BaseEncoder.embedding_channels`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """The embedding, ``(B, channels)``."""
        pooled = pyramid.embedding
        if pooled is None:
            stride = pyramid.strides[-1]
            height, width = ((side + stride - 1) // stride for side in pyramid.size)  # rows, columns with any image
            pooled = pyramid.maps[-1][:, :, :height, :width].mean(dim=(2, 3))
        normed: Tensor = self.norm(pooled)
        return normed
