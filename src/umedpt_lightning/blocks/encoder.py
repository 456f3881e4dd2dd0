"""The shared encoder: any timm model that gives a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from umedpt_lightning.blocks.batch_norm import (
    BatchNormMode,
    PerTaskBatchNorm,
    TaskSwitch,
    replace_batch_norm,
    to_group_norm,
)
from umedpt_lightning.blocks.checkpointing import checkpoint_blocks
from umedpt_lightning.blocks.weights import create_encoder
from umedpt_lightning.blocks.windows import pad_before_shift
from umedpt_lightning.hparams import HParamsMixin


@dataclass
class Pyramid:
    """The encoder's output.

    Attributes:
        maps: Feature maps ``(B, C_i, H'/s_i, W'/s_i)``, finest first, of the image padded to ``H', W'``.
        strides: The ``s_i``, pixels of the image a pixel of the map.
        size: ``(H, W)`` of the image before padding.
        padded_size: ``(H', W')``.
    """

    maps: list[Tensor]
    strides: list[int]
    size: tuple[int, int]
    padded_size: tuple[int, int]


class Encoder(HParamsMixin, nn.Module):
    """A timm model as the block that all tasks share.

    Args:
        name: Any timm model with ``features_only`` (``timm.list_models()``).
        in_channels: Channels it takes. Images with one channel are repeated to that number.
        weights: ``None`` for random ones, ``"timm"`` to download those of timm, or a file (``.safetensors`` or
            ``.pth``) with the state of the whole timm model.
        batch_norm: What becomes of BatchNorm; see `BatchNormMode`.
        drop_path_rate: Stochastic depth, where the model knows it.
        checkpointing: Keep the inputs of blocks alone in training, and compute the rest again in the backward pass.
        channels_last: Keep weights and images with the channels of a pixel beside each other.

    Attributes:
        channels: Channels of each map of the pyramid, finest first.
        strides: Their strides in pixels, powers of two.
        mean: Mean of a pixel (0..1) that the weights expect, a number a channel.
        std: Standard deviation likewise.

    Raises:
        ValueError: timm knows no such model, it has no feature pyramid or no blocks to compute again, or the file does
            not fit it.
        FileNotFoundError: `weights` names no file.
        ConnectionError: The weights cannot be downloaded.
    """

    hparams_ignored = ("weights",)  # a saved model has its own
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "swin_tiny_patch4_window7_224",
        in_channels: int = 3,
        weights: Literal["timm"] | Path | None = None,
        batch_norm: BatchNormMode = "keep",
        drop_path_rate: float = 0.0,
        checkpointing: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.batch_norm, self.checkpointing = batch_norm, checkpointing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        options: dict[str, object] = {"in_chans": in_channels}
        if drop_path_rate:  # not every model takes it
            options["drop_path_rate"] = drop_path_rate
        if "swin" in name:
            options["strict_img_size"] = False  # any size; windows are padded
        net: Any = create_encoder(name, weights, **options)  # timm's classes are not typed
        pad_before_shift(net)
        self.net: nn.Module = net
        self.channels: list[int] = net.feature_info.channels()
        self.strides: list[int] = net.feature_info.reduction()
        # Swin and its kin give (B, H, W, C); the shapes do not tell, as H may equal C
        self._gives_channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        for key in ("mean", "std"):
            self.register_buffer(key, _per_channel(net.default_cfg[key], in_channels), persistent=False)
        self.switch = TaskSwitch()
        if batch_norm == "group":
            replace_batch_norm(self.net, to_group_norm)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        if checkpointing and not checkpoint_blocks(self.net):
            raise ValueError(
                f"encoder.checkpointing: timm's {name} has no blocks that could be computed again, only single layers. "
                "Take it out, or take another encoder."
            )
        self.train()  # what is frozen is so from the start: Lightning leaves the modes as it finds them

    def bind(self, tasks: Sequence[str]) -> None:
        """Makes room for every task's own BatchNorm statistics, where the encoder keeps such."""
        if self.batch_norm == "per_task":
            replace_batch_norm(self.net, lambda norm: PerTaskBatchNorm(norm, tasks, self.switch))

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        """The feature pyramid.

        Args:
            images: ``(B, C, H, W)`` float, normalised, of any size.
            task: Whose images these are; needed where BatchNorm keeps statistics per task.

        Returns:
            Maps of the images padded below and to the right with zeros (the mean) to multiples of the last stride.
        """
        self.switch.task = task
        size = (images.shape[2], images.shape[3])
        stride = self.strides[-1]
        padded = ((size[0] + stride - 1) // stride * stride, (size[1] + stride - 1) // stride * stride)
        if torch.compiler.is_exporting() or padded != size:  # an exported graph takes other sizes too
            images = F.pad(images, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        maps = list(self.net(images.contiguous(memory_format=self.memory_format)))
        if self._gives_channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return Pyramid(maps, self.strides, size, padded)

    def train(self, mode: bool = True) -> Encoder:
        """Sets the mode; frozen BatchNorm stays in evaluation."""
        super().train(mode)
        if self.batch_norm == "freeze":
            for module in self.net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    if len(values) != channels:  # other channels than the RGB the weights saw: their average
        values = [sum(values) / len(values)] * channels
    return torch.tensor(values).view(1, channels, 1, 1)
