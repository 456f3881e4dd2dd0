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
        normed: Tensor = self.norm(self.pooled(pyramid))
        return normed

    @staticmethod
    def pooled(pyramid: Pyramid) -> Tensor:
        """The same before it is normalised, which nothing that learns has touched behind the encoder."""
        if pyramid.embedding is not None:
            return pyramid.embedding
        stride = pyramid.strides[-1]
        height, width = ((side + stride - 1) // stride for side in pyramid.size)  # rows, columns with any image
        return pyramid.maps[-1][:, :, :height, :width].mean(dim=(2, 3))
