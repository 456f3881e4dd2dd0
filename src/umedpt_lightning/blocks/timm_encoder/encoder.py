"""The encoder of a config: any timm model that gives feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umedpt_lightning.blocks.batch_norm import (
    BatchNormMode,
    PerTaskBatchNorm,
    TaskSwitch,
    replace_batch_norm,
    replace_per_task,
    to_group_norm,
)
from umedpt_lightning.blocks.encoder import EncoderCard, Pyramid, pad_to_multiple, stages_by_name
from umedpt_lightning.blocks.lora import has_lora
from umedpt_lightning.blocks.timm_encoder.base import TimmEncoder
from umedpt_lightning.blocks.timm_encoder.plain import loading_text, plain_state
from umedpt_lightning.blocks.timm_encoder.same_padding import constant_same_padding
from umedpt_lightning.blocks.timm_encoder.whole_image_layers import whole_image_layer
from umedpt_lightning.blocks.timm_encoder.windows import pad_before_shift, window_size
from umedpt_lightning.blocks.whole_image_layers import WholeImageLayer


class Encoder(TimmEncoder):
    """A timm model as the block that all tasks share.

    Plain vision transformers have maps of one stride only here, for classes, labels and numbers; `ViTEncoder` has all.

    Args:
        name: Any timm model with ``features_only`` (``timm.list_models()``).
        in_channels: Channels it takes. Images with one channel are repeated to that number.
        weights: ``None`` for random ones, ``"timm"`` to download those of timm, or where they are: a file
            (``.safetensors`` or ``.pth``) with the state of the whole timm model, or with the names of the original
            code of DINO, MAE or MoCo; a folder of a timm model (``config.json`` and ``model.safetensors``); or its id
            on the Hugging Face Hub.
        batch_norm: What becomes of BatchNorm; see `BatchNormMode`.
        drop_path_rate: Stochastic depth, where the model knows it.
        checkpointing: Keep the inputs of blocks alone in training, and compute the rest again in the backward pass.
        channels_last: Keep weights and images with the channels of a pixel beside each other.
        model_args: Further options of the timm model.
        mean: Of a pixel (0..1); None for that of the weights.
        std: Likewise.
        lora_rank: Of adapters of the attention layers, which alone learn then; 0 for none.

    Raises:
        ValueError: timm knows no such model, it gives no feature maps or has no blocks to compute again, or the file
            does not fit it.
        FileNotFoundError: `weights` names no file.
        ConnectionError: The weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str = "swin_tiny_patch4_window7_224",
        in_channels: int = 3,
        weights: Literal["timm"] | Path | None = None,
        batch_norm: BatchNormMode = "keep",
        drop_path_rate: float = 0.0,
        checkpointing: bool = False,
        channels_last: bool = False,
        model_args: dict[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        lora_rank: int = 0,
    ) -> None:
        options: dict[str, Any] = {"features_only": True}
        if drop_path_rate:  # not every model takes it
            options["drop_path_rate"] = drop_path_rate
        super().__init__(options, name, in_channels, weights, model_args, mean, std, checkpointing)
        net: Any = self.net
        any_windows = pad_before_shift(net)
        self.batch_norm = batch_norm
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.channels: list[int] = net.feature_info.channels()
        self.strides: list[int] = net.feature_info.reduction()
        # Swin and its kin give (B, H, W, C); the shapes do not tell, as H may equal C
        self._gives_channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        self._wants_windows = window_size(net) > 1 and not any_windows
        self._multiples: dict[tuple[int, int], int] = {}  # to which images of a size are padded
        self.switch = TaskSwitch()
        if batch_norm == "group":
            replace_batch_norm(self.net, to_group_norm)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self._finish(lora_rank)
        self.statistics_frozen = batch_norm == "freeze"
        self.train()  # what is frozen is so from the start: Lightning leaves the modes as it finds them

    def bind(self, tasks: Sequence[str]) -> None:
        """Makes room for every task's own BatchNorm statistics, where the encoder keeps such."""
        if self.batch_norm == "per_task":
            replace_batch_norm(self.net, lambda norm: PerTaskBatchNorm(norm, tasks, self.switch))

    @property
    def depends_on_task(self) -> bool:
        """Whether BatchNorm has statistics for every task."""
        return self.batch_norm == "per_task"

    def freeze_statistics(self, task: str | None = None) -> None:
        """Keeps BatchNorm's running statistics as they are, where it has some for every task those of `task`."""
        if self.batch_norm == "per_task":
            replace_per_task(self.net, task)
        if self.batch_norm != "group":
            self.batch_norm = self.hparams["batch_norm"] = "freeze"
        super().freeze_statistics()

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        """The feature pyramid.

        Args:
            images: ``(B, C, H, W)`` float, normalised, of any size.
            task: Whose images these are; needed where BatchNorm keeps statistics per task.

        Returns:
            Maps of the images padded below and to the right with zeros (the mean) to multiples of the last stride, and
            to whole windows where timm's model wants such. Maps of networks that do not pad at edges are resampled.
        """
        self.switch.task = task
        size = (images.shape[2], images.shape[3])
        images = pad_to_multiple(images, self._multiple(size))
        maps = self._checked(images)
        if self._gives_channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        padded, embedding = (images.shape[2], images.shape[3]), None
        wanted = [(padded[0] // stride, padded[1] // stride) for stride in self.strides]
        if not torch.compiler.is_exporting() and [m.shape[2:] for m in maps] != wanted:
            embedding = maps[-1].mean((2, 3))  # of what the network saw
            maps = [F.interpolate(m, shape, mode="bilinear") for m, shape in zip(maps, wanted, strict=True)]
        return Pyramid(maps, self.strides, size, padded, embedding)

    def _multiple(self, size: tuple[int, int]) -> int:
        """To multiples of how many pixels images of a size are padded."""
        stride = self.strides[-1]
        if not self._wants_windows:
            return stride
        if size not in self._multiples:
            smallest = pad_to_multiple(self.mean.new_zeros(1, self.in_channels, *size), stride)
            self._multiples[size] = stride if self._takes(smallest) else self.tile_step
        return self._multiples[size]

    def _features(self, images: Tensor) -> list[Tensor]:
        with constant_same_padding():
            return list(self.net(images.contiguous(memory_format=self.memory_format)))

    def parameter_stages(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Stem, blocks and last layers, by the names that timm gives them."""
        before = "net.model." if hasattr(self.net, "model") else "net."  # some extractors keep the whole model inside
        stages = stages_by_name((name.removeprefix(before), p) for name, p in self.named_parameters())
        return [[(before + name, p) for name, p in stage] for stage in stages]

    @property
    def tile_step(self) -> int:
        """Whole places of the coarsest map, and whole windows of it."""
        return self.strides[-1] * window_size(self.net)

    def whole_image_layer(self, module: nn.Module) -> WholeImageLayer | None:
        """Gates like squeeze-and-excitation, and Global Response Normalisation."""
        return whole_image_layer(module)

    @property
    def exports_any_size(self) -> bool:
        """Not with windows: every padding would be an expression of the size, which torch takes forever to simplify."""
        return window_size(self.net) == 1

    def plain_state(self) -> dict[str, Tensor] | None:
        """Its state by the names of ``timm.create_model(name)``; None where plain timm has no such layers."""
        if self.batch_norm in ("group", "per_task") or has_lora(self):
            return None
        return plain_state(self.name, self.in_channels, self.net, self.model_args)

    def card(self) -> EncoderCard:
        """The timm name, and how plain timm loads ``encoder.safetensors``."""
        return EncoderCard(
            self.name, ("timm",), loading_text(self.name, self.in_channels, self.batch_norm, self.model_args)
        )
