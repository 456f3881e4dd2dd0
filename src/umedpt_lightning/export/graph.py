"""What is exported: a task or the encoder from stored intensities to named tensors."""

from __future__ import annotations

from torch import Tensor, nn

from umedpt_lightning.blocks import BaseEncoder
from umedpt_lightning.model import MultiTaskModel


class TaskGraph(nn.Module):
    """One task from images to what its `Task.exported` names.

    Args:
        model: The whole model, which is set to evaluation mode.
        task: The task's name.
    """

    def __init__(self, model: MultiTaskModel, task: str) -> None:
        super().__init__()
        self.model = model.eval()
        self.name = task
        spec = model.task(task).spec
        self.channels, self.value_range = spec.channels, spec.value_range
        self.size = model.sizes.get(task) or model.encoder.image_size

    @property
    def encoder(self) -> BaseEncoder:
        """The model's encoder."""
        return self.model.encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Named outputs for images ``(B, C, H, W)`` float32 of stored intensities."""
        return self.model.task(self.name).exported(self.model(images, self.name))


class EncoderGraph(nn.Module):
    """The encoder from images to its embedding and its feature maps.

    Args:
        model: The whole model, which is set to evaluation mode.
        task: The task whose BatchNorm statistics are used, where the encoder keeps them per task.
    """

    def __init__(self, model: MultiTaskModel, task: str | None = None) -> None:
        super().__init__()
        model.eval()
        self.encoder, self.pooling = model.encoder, model.pooling
        self.name = task
        self.channels, self.value_range = model.encoder.in_channels, (0.0, 1.0)
        self.size = next(iter(model.sizes.values()), model.encoder.image_size)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``embedding`` ``(B, D)`` and ``map_<stride>`` for images ``(B, in_channels, H, W)`` scaled to 0 to 1.

        Where several maps have one stride they are ``map_<stride>_<index>``. All are of the images padded below and to
        the right to multiples of the last stride.
        """
        pyramid = self.encoder((images - self.encoder.mean) / self.encoder.std, self.name)
        several = len(set(pyramid.strides)) < len(pyramid.strides)  # maps of one stride are told apart by their order
        names = [f"map_{s}_{i}" if several else f"map_{s}" for i, s in enumerate(pyramid.strides)]
        maps = dict(zip(names, pyramid.maps, strict=True))
        return {"embedding": self.pooling(pyramid), **maps}
