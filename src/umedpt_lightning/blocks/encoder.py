"""What the whole program asks of an encoder: an image in, a pyramid of feature maps out, and defaults for the rest."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from umedpt_lightning.blocks.whole_image_layers import WholeImageLayer
from umedpt_lightning.hparams import HParamsMixin


@dataclass
class Pyramid:
    """The encoder's output.

    Attributes:
        maps: Feature maps ``(B, C_i, H'/s_i, W'/s_i)``, finest first, of the image padded to ``H', W'``.
        strides: The ``s_i``, pixels of the image a pixel of the map.
        size: ``(H, W)`` of the image before padding.
        padded_size: ``(H', W')``.
        embedding: ``(B, D)``, the encoder's own vector of an image (a class token, say); None where the embedding is
            the mean of the last map.
    """

    maps: list[Tensor]
    strides: list[int]
    size: tuple[int, int]
    padded_size: tuple[int, int]
    embedding: Tensor | None = None


@dataclass(frozen=True)
class EncoderCard:
    """What a model card says of an encoder.

    Attributes:
        name: What it is called.
        tags: Tags on the Hugging Face Hub.
        loading: Markdown on how the encoder alone is loaded without this package; empty for nothing.
    """

    name: str
    tags: tuple[str, ...] = ()
    loading: str = ""


class BaseEncoder(HParamsMixin, nn.Module, ABC):
    """The block that all tasks share, from normalised images to a pyramid of feature maps.

    An encoder sets the attributes below in its constructor and has `forward`. All other methods have defaults that
    work, and say when another answer is needed. A `torch.nn.Module` that has the attributes and such a `forward` is an
    encoder too, without being derived from this class: `as_encoder` adds the defaults.

    Attributes:
        in_channels: Channels it takes. Images with one channel are repeated to that number.
        channels: Channels of each map of the pyramid, finest first.
        strides: Their strides in pixels, which do not fall. The pixel decoder wants powers of two that double from map
            to map.
        mean: Mean of a pixel (0..1) that the encoder expects, ``(1, in_channels, 1, 1)``, a buffer.
        std: Standard deviation likewise.
        statistics_frozen: Whether running statistics of BatchNorm stay as they are in training too.
    """

    in_channels: int
    channels: list[int]
    strides: list[int]
    mean: Tensor
    std: Tensor
    statistics_frozen: bool = False

    @abstractmethod
    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        """The feature pyramid.

        Args:
            images: ``(B, in_channels, H, W)`` float, normalised, of any size; see `pad_to_multiple`.
            task: Whose images these are; None for those of several tasks together.
        """

    @property
    def embedding_channels(self) -> int:
        """Length of `Pyramid.embedding`, or channels of the last map, whose mean is the embedding."""
        return self.channels[-1]

    def bind(self, tasks: Sequence[str]) -> None:  # most encoders need not know
        """Is told the names of all tasks, before the first image."""

    @property
    def depends_on_task(self) -> bool:
        """Whether the pyramid of an image depends on whose task's it is. Then an exported encoder is one a task."""
        return False

    def freeze_statistics(self, task: str | None = None) -> None:
        """Keeps running statistics of normalisation as they are, in training too, for training on few images.

        Args:
            task: Whose statistics are kept, where the encoder has some for every task.
        """
        self.statistics_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; BatchNorm whose statistics are frozen stays in evaluation."""
        super().train(mode)
        if self.statistics_frozen:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @property
    def neck(self) -> nn.Module | None:
        """What makes the maps of features that were learned without it, and so learns where these stay frozen."""
        return None

    def parts_to_compile(self) -> list[nn.Module]:
        """The modules that `torch.compile` compiles in place.

        Raises:
            ValueError: It cannot be compiled as it was built.
        """
        return [self]

    def parameter_stages(self) -> list[list[tuple[str, nn.Parameter]]]:
        """All parameters with their names, in stages from the stem to the last, for layer-wise rates and freezing.

        By default a stage is what shares the first two parts of its names, as all of ``blocks.3``, in the order in
        which the parameters were made.
        """
        return stages_by_name(self.named_parameters())

    @property
    def tile_step(self) -> int:
        """How far apart tiles may begin, pixels, so that its places are those of the whole image.

        By default the coarsest stride; encoders with attention in windows want whole windows.
        """
        return max(self.strides)

    def whole_image_layer(self, module: nn.Module) -> WholeImageLayer | None:
        """How tiles of an image share what a layer of the encoder computes over all of the image.

        Args:
            module: Any module of the encoder; GroupNorm is known without it.

        Returns:
            None where the layer needs nothing, or cannot be shared: then tiles overlap by what is measured, and there
            is a warning where that is not enough.
        """
        return None

    @property
    def exports_any_size(self) -> bool:
        """Whether to try an exported graph for images of any size before one of the task's size."""
        return True

    def check_size(self, size: tuple[int, int], task: str | None = None) -> None:  # most take all
        """Holds that it takes images of a size.

        Args:
            size: Height and width, pixels.
            task: Whose images these are.

        Raises:
            ValueError: It does not; with the mend.
        """

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images where nothing else says them, pixels; exported graphs are made for them."""
        return (224, 224)

    def plain_state(self) -> dict[str, Tensor] | None:
        """Its weights as another library names them, for ``encoder.safetensors`` in a model's folder.

        Returns:
            None where there is no such library.

        Raises:
            ValueError: The names cannot be told.
        """
        return None

    def card(self) -> EncoderCard:
        """What the model card says of it."""
        return EncoderCard(type(self).__name__)

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # A config may name any torch module. What it lacks is told by `as_encoder`, with the mend.
        return issubclass(other, nn.Module) if cls is BaseEncoder else NotImplemented


def check_sizes(encoder: BaseEncoder, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Holds that an encoder takes images of the sizes that tasks have.

    Args:
        encoder: The encoder.
        sizes: Height and width by task, pixels.

    Raises:
        ValueError: It does not take one; the message names the key and the mend.
    """
    for size in dict.fromkeys(sizes.values()):
        task = next(name for name in sizes if sizes[name] == size)
        try:
            encoder.check_size(size, task)
        except ValueError as error:
            raise ValueError(f"data.tasks.{task}.size: {error}") from error


def stages_by_name(parameters: Iterable[tuple[str, nn.Parameter]]) -> list[list[tuple[str, nn.Parameter]]]:
    """Parameters in stages by the first two parts of their names.

    Args:
        parameters: Pairs of name and parameter, as ``named_parameters()`` gives them.
    """
    stages: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in parameters:
        stages.setdefault(".".join(name.split(".")[:-1][:2]), []).append((name, parameter))
    return list(stages.values())


def pad_to_multiple(images: Tensor, stride: int) -> Tensor:
    """Images ``(B, C, H, W)``, padded below and to the right with zeros (the mean) to multiples of `stride`."""
    # torch.export can solve this, but not (-side) % stride
    below, right = ((side + stride - 1) // stride * stride - side for side in images.shape[2:])
    if torch.compiler.is_exporting() or below or right:  # an exported graph takes other sizes too
        images = F.pad(images, (0, right, 0, below))
    return images


def __getattr__(name: str) -> Any:
    if name == "Encoder":  # a config may name the module in which it was
        from umedpt_lightning.blocks.timm_encoder import Encoder

        warnings.warn(
            "umedpt_lightning.blocks.encoder.Encoder is umedpt_lightning.blocks.Encoder now: write that, or Encoder.",
            FutureWarning,
            stacklevel=2,
        )
        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
