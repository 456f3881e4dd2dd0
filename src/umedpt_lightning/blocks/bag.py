"""From the embeddings of a bag's images to one of the bag."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umedpt_lightning.blocks.shared_block import SharedBlock

#: What the model calls the block that pools bags, under ``model.blocks``.
BAG = "bag"
#: Half waves that a position is described by, from the first to the last image of a bag.
_WAVES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class BagBlock(SharedBlock):
    """The shared block of all tasks whose samples are bags; heads read its features as they read an embedding.

    Args:
        channels: One number: the length ``D`` of the embeddings, which is that of the features too.
        strides: Nothing; as other shared blocks have it.
        chunk: Images that go through the encoder together. In training all but the last so many go through it again in
            the backward pass, so that memory is that of one chunk, however many images a bag has.
        position: Whether where an image lies in its bag (the number of its slice, the place of its tile) is added to
            its embedding: sines and cosines of it (Vaswani et al., 2017, arXiv:1706.03762) by a linear layer that
            starts at 0.

    Raises:
        ValueError: `chunk` is not positive.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int] = (), chunk: int = 32, position: bool = False
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"model.blocks.{BAG}: chunk is {chunk}, but at least one image goes through the encoder.")
        self.out_channels = channels[-1]
        self.chunk = chunk
        self.place: nn.Linear | None = None
        if position:
            self.place = nn.Linear(4 * len(_WAVES), self.out_channels, bias=False)
            nn.init.zeros_(self.place.weight)

    def forward(  # type: ignore[override]  # it comes after the pooling
        self, instances: Tensor, sizes: Sequence[int], positions: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Features of bags, and how much each of their images counts.

        Args:
            instances: ``(N, D)`` the embeddings of the images of all bags.
            sizes: How many images each bag has.
            positions: ``(N, 2)`` where each lies in its bag, from 0 to 1; only a block with `position` looks at them.

        Returns:
            ``(B, D)``, and ``(n,)`` for each bag, 1 together.

        Raises:
            ValueError: The block needs positions, and there are none.
        """
        pooled = [self.pool(bag) for bag in torch.split(self.placed(instances, positions), list(sizes))]
        return torch.stack([features for features, _ in pooled]), [weights for _, weights in pooled]

    def placed(self, instances: Tensor, positions: Tensor | None) -> Tensor:
        """The embeddings with what positions say added, if the block looks at them; arguments are those of `forward`.

        Raises:
            ValueError: It does, and there are none.
        """
        if self.place is None:
            return instances
        if positions is None:
            raise ValueError(
                f"model.blocks.{BAG} has `position`, but the images of these bags have none. Give the reader `Bags` "
                "an expression as `position`, or leave the option of the block out."
            )
        waves = math.pi * positions[:, :, None] * positions.new_tensor(_WAVES)  # (N, 2, F)
        added: Tensor = self.place(torch.cat([waves.sin(), waves.cos()], dim=2).flatten(1).to(instances.dtype))
        return instances + added

    @abstractmethod
    def pool(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The features ``(D,)`` of the embeddings ``(n, D)`` of one bag, and how much each counts ``(n,)``."""


class MeanBag(BagBlock):
    """The mean; arguments as of `BagBlock`, without positions, which a mean does not see."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int] = (), chunk: int = 32) -> None:
        super().__init__(channels, strides, chunk)

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
        position: As of `BagBlock`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int] = (),
        width: int = 128,
        chunk: int = 32,
        position: bool = False,
    ) -> None:
        super().__init__(channels, strides, chunk, position)
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
        position: As of `BagBlock`.

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
        position: bool = False,
    ) -> None:
        super().__init__(channels, strides, width, chunk, position)
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

    With gradients, each chunk but the last is embedded without keeping what is computed on the way, and again, with the
    same random numbers, when the gradients of its embeddings are there. The last one is embedded once: the backward
    pass begins with it, and has let go of it before the others come.
    """
    *earlier, last = torch.split(images, chunk)
    if not torch.is_grad_enabled():
        return torch.cat([embed(one) for one in (*earlier, last)])
    return torch.cat([*(checkpoint(embed, one, use_reentrant=False) for one in earlier), embed(last)])
