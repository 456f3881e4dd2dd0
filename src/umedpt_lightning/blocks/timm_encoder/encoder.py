"""The encoder of a config: any timm model that gives feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks.batch_norm import (
    BatchNormMode,
    PerTaskBatchNorm,
    TaskSwitch,
    replace_batch_norm,
    replace_per_task,
    to_group_norm,
)
from umedpt_lightning.blocks.checkpointing import checkpoint_blocks
from umedpt_lightning.blocks.encoder import BaseEncoder, EncoderCard, Pyramid, pad_to_multiple, stages_by_name
from umedpt_lightning.blocks.timm_encoder.plain import loading_text, plain_state
from umedpt_lightning.blocks.timm_encoder.weights import create_encoder
from umedpt_lightning.blocks.timm_encoder.whole_image_layers import whole_image_layer
from umedpt_lightning.blocks.timm_encoder.windows import pad_before_shift, window_size
from umedpt_lightning.blocks.whole_image_layers import WholeImageLayer


class Encoder(BaseEncoder):
    """A timm model as the block that all tasks share.

    Plain vision transformers have maps of one stride only: they serve classes, labels and numbers, but no masks or
    boxes.

    Args:
        name: Any timm model with ``features_only`` (``timm.list_models()``).
        in_channels: Channels it takes. Images with one channel are repeated to that number.
        weights: ``None`` for random ones, ``"timm"`` to download those of timm, or a file (``.safetensors`` or
            ``.pth``) with the state of the whole timm model.
        batch_norm: What becomes of BatchNorm; see `BatchNormMode`.
        drop_path_rate: Stochastic depth, where the model knows it.
        checkpointing: Keep the inputs of blocks alone in training, and compute the rest again in the backward pass.
        channels_last: Keep weights and images with the channels of a pixel beside each other.

    Raises:
        ValueError: timm knows no such model, it gives no feature maps or has no blocks to compute again, or the file
            does not fit it.
        FileNotFoundError: `weights` names no file.
        ConnectionError: The weights cannot be downloaded.
    """

    hparams_ignored = ("weights",)  # a saved model has its own

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
        self.name, self.in_channels = name, in_channels
        self.batch_norm, self.checkpointing = batch_norm, checkpointing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        options: dict[str, object] = {"in_chans": in_channels}
        if drop_path_rate:  # not every model takes it
            options["drop_path_rate"] = drop_path_rate
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
            Maps of the images padded below and to the right with zeros (the mean) to multiples of the last stride.
        """
        self.switch.task = task
        size = (images.shape[2], images.shape[3])
        images = pad_to_multiple(images, self.strides[-1])
        try:
            maps = list(self.net(images.contiguous(memory_format=self.memory_format)))
        except (AssertionError, RuntimeError) as error:
            if self._takes(images[:1]) or not self._takes(images.new_zeros(1, self.in_channels, *self.image_size)):
                raise  # for another reason than the size
            raise ValueError(
                f"timm's {self.name} does not take images of {images.shape[2]} x {images.shape[3]} pixels ({error}). "
                f"Give the task `size: {list(self.image_size)}`, or take another encoder."
            ) from error
        if self._gives_channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return Pyramid(maps, self.strides, size, (images.shape[2], images.shape[3]))

    def _takes(self, images: Tensor) -> bool:
        """Whether the timm model has maps of such images."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self.net(images)
        except (AssertionError, RuntimeError):
            return False
        finally:
            self.train(training)
        return True

    def parts_to_compile(self) -> list[nn.Module]:
        """The timm model; padding and the task's turn stay outside of the graph."""
        if self.checkpointing:
            raise ValueError(
                "model.compile and encoder.checkpointing do not go together: torch.compile decides itself what is "
                "computed again. Take one of them."
            )
        return [self.net]

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

    @property
    def image_size(self) -> tuple[int, int]:
        """The size that timm names."""
        net: Any = self.net
        height, width = net.default_cfg["input_size"][-2:]
        return int(height), int(width)

    def plain_state(self) -> dict[str, Tensor] | None:
        """Its state by the names of ``timm.create_model(name)``; None where plain timm has no such BatchNorm."""
        if self.batch_norm in ("group", "per_task"):
            return None
        return plain_state(self.name, self.in_channels, self.net)

    def card(self) -> EncoderCard:
        """The timm name, and how plain timm loads ``encoder.safetensors``."""
        return EncoderCard(self.name, ("timm",), loading_text(self.name, self.in_channels, self.batch_norm))


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    if len(values) != channels:  # other channels than the RGB the weights saw: their average
        values = [sum(values) / len(values)] * channels
    return torch.tensor(values).view(1, channels, 1, 1)
