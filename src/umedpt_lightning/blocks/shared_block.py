"""The contract of a shared block: from the encoder's pyramid to what heads read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from umedpt_lightning.blocks.encoder import Pyramid
from umedpt_lightning.hparams import HParamsMixin


class SharedBlock(HParamsMixin, nn.Module, ABC):
    """A block that all tasks with the same `needs` share, and that is built when the first of them needs it.

    A block of one's own takes ``(encoder_channels, strides, **options)``: channels and strides of each map of the
    pyramid, finest first. It stands in a config under ``model.blocks.<name>``, and tasks read it whose `needs` are that
    name.

    Attributes:
        out_channels: Width of its features, from which heads take their sizes.
    """

    out_channels: int

    @abstractmethod
    def forward(self, pyramid: Pyramid) -> Any:
        """The features of a micro-batch.

        A tensor with the images first, or an object with ``split(sizes)``, as tensors have it, so that micro-batches of
        several tasks can go through the block together.
        """
