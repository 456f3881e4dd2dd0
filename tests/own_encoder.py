"""Encoders of a user's own, as one would write them outside of the package."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks import BaseEncoder, Pyramid, SharedBlock, checkpoint_blocks, pad_to_multiple


class TwoMaps(nn.Module):
    """A plain module with maps of stride 4 and 8, that has what is needed and nothing else."""

    def __init__(self, width: int = 8, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels, self.strides = [width, 2 * width], [4, 8]
        self.mean, self.std = torch.full((1, in_channels, 1, 1), 0.5), torch.full((1, in_channels, 1, 1), 0.25)
        self.stem = nn.Conv2d(in_channels, width, 4, stride=4)
        self.norm = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        size = (images.shape[2], images.shape[3])
        images = pad_to_multiple(images, 8)
        fine = self.norm(self.stem(images)).relu()
        return Pyramid([fine, self.down(fine)], self.strides, size, (images.shape[2], images.shape[3]))


class Token(BaseEncoder):
    """One map of stride 16 and an embedding of its own, as of a class token; blocks may be computed again."""

    def __init__(self, width: int = 6, checkpointing: bool = False) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = 1, [width], [16]
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((1, 1, 1, 1), value), persistent=False)
        self.patches = nn.Conv2d(1, width, 16, stride=16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Linear(width, width)) for _ in range(3))
        self.token = nn.Linear(width, 2 * width)
        if checkpointing:
            checkpoint_blocks(self)

    @property
    def embedding_channels(self) -> int:
        return 2 * self.channels[-1]

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        size = (images.shape[2], images.shape[3])
        images = pad_to_multiple(images, 16)
        tokens = self.patches(images).movedim(1, 3)  # (B, h, w, C)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        embedding = self.token(tokens.amax((1, 2)))
        maps = [tokens.movedim(3, 1)]
        return Pyramid(maps, self.strides, size, (images.shape[2], images.shape[3]), embedding)


class Finest(SharedBlock):
    """The finest map, as wide as is wanted."""

    def __init__(self, encoder_channels: list[int], strides: list[int], channels: int = 5) -> None:
        super().__init__()
        self.out_channels = channels
        self.narrow = nn.Conv2d(encoder_channels[0], channels, 1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        return self.narrow(pyramid.maps[0])
