"""From the embeddings of a bag's images to one of the bag."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umedpt_lightning.blocks.shared_block import SharedBlock

#: What the model calls the block that pools bags, under ``model.blocks``.
BAG = "bag"


class BagBlock(SharedBlock):
    """The shared block of all tasks whose samples are bags; heads read its features as they read an embedding.

    Args:
        channels: One number: the length ``D`` of the embeddings, which is that of the features too.
        strides: Nothing; as other shared blocks have it.
        chunk: Images that go through the encoder together. In training they go through it again in the backward pass,
            so that memory is that of so many, however many a bag has.

    Raises:
        ValueError: `chunk` is not positive.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int] = (), chunk: int = 32) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"model.blocks.{BAG}: chunk is {chunk}, but at least one image goes through the encoder.")
        self.out_channels = channels[-1]
        self.chunk = chunk

    def forward(self, instances: Tensor, sizes: Sequence[int]) -> Tensor:  # type: ignore[override]  # after the pooling
        """Features ``(B, D)`` of bags of these sizes, of the embeddings ``(N, D)`` of all their images."""
        return torch.stack([self.pool(bag)[0] for bag in torch.split(instances, list(sizes))])

    def attention(self, instances: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """How much each image counts in its bag, 1 together; one vector a bag."""
        return [self.pool(bag)[1] for bag in torch.split(instances, list(sizes))]

    @abstractmethod
    def pool(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The features ``(D,)`` of the embeddings ``(n, D)`` of one bag, and how much each counts ``(n,)``."""


class MeanBag(BagBlock):
    """The mean; arguments as of `BagBlock`."""

    def pool(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """As `BagBlock.pool`."""
        return bag.mean(dim=0), bag.new_full((len(bag),), 1 / len(bag))


class GatedAttention(BagBlock):
    """A weighted mean, whose weights come of the embeddings (Ilse et al., 2018, arXiv:1802.04712, equation 9).

    Args:
        channels: As of `BagBlock`.
        strides: As of `BagBlock`.
        width: Of the hidden layer.
        chunk: As of `BagBlock`.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int] = (), width: int = 128, chunk: int = 32) -> None:
        super().__init__(channels, strides, chunk)
        self.hidden = nn.Linear(self.out_channels, width)
        self.gate = nn.Linear(self.out_channels, width)
        self.score = nn.Linear(width, 1)

    def pool(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """As `BagBlock.pool`."""
        scores = self.score(self.hidden(bag).tanh() * self.gate(bag).sigmoid())  # (n, 1)
        weights = torch.softmax(scores[:, 0], dim=0, dtype=torch.promote_types(scores.dtype, torch.float32))
        return weights.to(bag.dtype) @ bag, weights


class BagTransformer(GatedAttention):
    """Images of a bag see each other, and are then averaged with the weights of `GatedAttention`.

    Its memory grows with the number of images, and its time with the square of it.

    Args:
        channels: As of `BagBlock`; a multiple of `heads`.
        strides: As of `BagBlock`.
        layers: Transformer layers.
        heads: Of each.
        width: As of `GatedAttention`.
        chunk: As of `BagBlock`.

    Raises:
        ValueError: `channels` is no multiple of `heads`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int] = (),
        layers: int = 2,
        heads: int = 4,
        width: int = 128,
        chunk: int = 32,
    ) -> None:
        super().__init__(channels, strides, width, chunk)
        if self.out_channels % heads:
            raise ValueError(
                f"heads is {heads}, but embeddings of {self.out_channels} numbers are shared by all alike."
            )
        layer = nn.TransformerEncoderLayer(
            self.out_channels, heads, 2 * self.out_channels, dropout=0.0, batch_first=True, norm_first=True
        )
        self.mixing = nn.TransformerEncoder(layer, layers, nn.LayerNorm(self.out_channels), enable_nested_tensor=False)

    def pool(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """As `BagBlock.pool`."""
        return super().pool(self.mixing(bag[None])[0])


def in_chunks(embed: Callable[[Tensor], Tensor], images: Tensor, chunk: int) -> Tensor:
    """The embeddings ``(N, D)`` of images, exactly as in one go, in the memory of one chunk.

    With gradients, each chunk is embedded without keeping what is computed on the way, and again, with the same random
    numbers, when the gradients of its embeddings are there.
    """
    chunks = torch.split(images, chunk)
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([embed(one) for one in chunks])
    return torch.cat([checkpoint(embed, one, use_reentrant=False) for one in chunks])
