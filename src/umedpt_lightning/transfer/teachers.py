"""A model that others imitate."""

from __future__ import annotations

from torch import Tensor

from umedpt_lightning.blocks import Pyramid
from umedpt_lightning.inference.digests import fingerprint
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.imitation import TeacherModel
from umedpt_lightning.types import TaskSpec


class FrozenModel(TeacherModel):
    """The encoder and the pooling of a model in evaluation mode, without graph.

    Args:
        model: With a task called `task`, which its encoder may know.
        spec: Of the images that it is to see: their channels and the intensities that become 0 and 1.
        task: As above.
    """

    def __init__(self, model: MultiTaskModel, spec: TaskSpec, task: str) -> None:
        super().__init__()
        self.encoder, self.pooling = model.encoder, model.pooling
        self._range, self._task = spec.value_range, task
        self.embedding_channels, self.map_channels = model.encoder.embedding_channels, model.encoder.channels[-1]
        self.eval().requires_grad_(False)
        self.fingerprint = fingerprint(self)

    def embedding(self, images: Tensor) -> Tensor:
        """As `TeacherModel.embedding`."""
        embedding: Tensor = self.pooling(self._pyramid(images))
        return embedding

    def maps(self, images: Tensor) -> Tensor:
        """As `TeacherModel.maps`."""
        return self._pyramid(images).maps[-1]

    def _pyramid(self, images: Tensor) -> Pyramid:
        low, high = self._range
        pyramid: Pyramid = self.encoder(
            ((images - low) / (high - low) - self.encoder.mean) / self.encoder.std, self._task
        )
        return pyramid
