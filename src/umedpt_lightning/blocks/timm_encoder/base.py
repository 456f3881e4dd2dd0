"""What encoders from timm share."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from umedpt_lightning.blocks.checkpointing import checkpoint_blocks
from umedpt_lightning.blocks.encoder import BaseEncoder, pad_to_multiple
from umedpt_lightning.blocks.lora import add_lora
from umedpt_lightning.blocks.timm_encoder.weights import create_encoder


class TimmEncoder(BaseEncoder):
    """A timm model that is the block that all tasks share.

    Args:
        net: How the model is made: `features` whether it is a feature extractor, and options of ``timm.create_model``.
        name: The timm model.
        in_channels: Channels it takes.
        weights: As for `Encoder`.
        model_args: Options of the timm model.
        mean: Of a pixel (0..1); None for that of the weights.
        std: Likewise.
        checkpointing: Whether blocks are computed again in the backward pass.
    """

    hparams_ignored = ("weights",)  # a saved model has its own

    def __init__(
        self,
        net: Mapping[str, Any],
        name: str,
        in_channels: int,
        weights: Literal["timm"] | Path | None,
        model_args: Mapping[str, Any] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.name, self.in_channels, self.checkpointing = name, in_channels, checkpointing
        made = create_encoder(name, weights, model_args or {}, in_chans=in_channels, **net)
        self.net: nn.Module = made.net
        if made.told:
            _tell(made.told)
        if isinstance(weights, Path | str) and weights != "timm":  # what the files said, for a saved model without them
            self.hparams["model_args"] = made.model_args or None
            mean, std = (given or made.net.default_cfg[key] for key, given in (("mean", mean), ("std", std)))
            self.hparams |= {"mean": tuple(mean), "std": tuple(std)}
        self.model_args = made.model_args
        for key, given in (("mean", mean), ("std", std)):
            values = made.net.default_cfg[key] if given is None else given
            if key == "std" and min(values) <= 0:
                raise ValueError(f"encoder.std must be positive, since images are divided by it, but it is {values}.")
            self.register_buffer(key, _per_channel(values, in_channels), persistent=False)

    def _finish(self, lora_rank: int) -> None:
        """Adds adapters and lets blocks be computed again, where that was asked for; once all layers are there."""
        if lora_rank:
            add_lora(self, lora_rank)
        if self.checkpointing and not checkpoint_blocks(self.net):
            raise ValueError(
                f"encoder.checkpointing: timm's {self.name} has no blocks that could be computed again, only single "
                "layers. Take it out, or take another encoder."
            )

    @abstractmethod
    def _features(self, images: Tensor) -> Any:
        """What the timm model gives for images ``(B, C, H, W)``, padded as it wants them."""

    def _checked(self, images: Tensor) -> Any:
        """`_features`, where an image of a size that the model does not take is told with the mend."""
        try:
            return self._features(images)
        except (AssertionError, RuntimeError, ValueError, IndexError, TypeError) as error:
            own = images.new_zeros(1, self.in_channels, *self.image_size)
            if self._takes(images[:1]) or not self._takes(own):
                raise  # for another reason than the size
            whole = pad_to_multiple(own, self._step).shape == own.shape  # else it does not even take its own size
            mend = f"Give the task `size: {list(self.image_size)}`, or where all tasks have one size the encoder "
            mend = f"{mend}`model_args: {{img_size: [height, width]}}`, or take" if whole else "Take"
            raise ValueError(
                f"timm's {self.name} does not take images of {images.shape[2]} x {images.shape[3]} pixels ({error}). "
                f"{mend} another encoder."
            ) from error

    @property
    def _step(self) -> int:
        """To multiples of how many pixels images are padded."""
        return self.strides[-1]

    def check_size(self, size: tuple[int, int], task: str | None = None) -> None:
        """Tries an image; shapes alone would not tell of tables that are too short."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                self(self.mean.new_zeros(1, self.in_channels, *size), task)
        finally:
            self.train(training)

    def _takes(self, images: Tensor) -> bool:
        """Whether the timm model has features of such images."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self._features(images)
        except (AssertionError, RuntimeError, ValueError, IndexError, TypeError):
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

    @property
    def image_size(self) -> tuple[int, int]:
        """The size that timm names, or that was asked for."""
        net: Any = self.net
        size = self.model_args.get("img_size") or net.default_cfg["input_size"][-2:]
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    if len(values) != channels:  # other channels than the RGB the weights saw: their average
        values = [sum(values) / len(values)] * channels
    return torch.tensor(values).view(1, channels, 1, 1)


@cache  # a sweep loads them for every cell
def _tell(text: str) -> None:
    """Says it once, and on the first rank only."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)
