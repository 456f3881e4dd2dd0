"""Images without labels: what a frozen teacher makes of them is imitated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.labels import Line, View
from umedpt_lightning.tasks.base import FeatureWidths, Task, as_float
from umedpt_lightning.types import Bags, TaskBatch, TaskSpec


class TeacherModel(nn.Module, ABC):
    """A frozen network that looks at images as the student's data store them.

    Attributes:
        embedding_channels: Numbers of an embedding.
        map_channels: Channels of a map.
        fingerprint: A text of all its weights.
    """

    embedding_channels: int
    map_channels: int
    fingerprint: str

    @abstractmethod
    def embedding(self, images: Tensor) -> Tensor:
        """``(B, D)`` of images ``(B, C, H, W)`` in stored intensities."""

    @abstractmethod
    def maps(self, images: Tensor) -> Tensor:
        """The coarsest map ``(B, D, h, w)`` of such images."""


class Teacher(ABC):
    """Where a teacher is from."""

    @abstractmethod
    def open_teacher(self, spec: TaskSpec) -> TeacherModel:
        """The teacher for images as `spec` says them, on the CPU.

        Raises:
            ValueError: It cannot be loaded, or does not take such images.
            FileNotFoundError: A file is missing.
        """

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where it is from, in a few words."""


class _Held:
    """Keeps a teacher out of the modules of its student: out of its weights, its copies and its optimizer."""

    def __init__(self, model: TeacherModel | None) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


class Imitation(Task):
    """A linear layer that gives what a teacher gives for the same image; the features are those of its kind.

    The teacher is in evaluation mode, without graph, on the student's device, and has its own normalisation. What it
    gives has mean 0 and variance 1 over the channels (Baevski et al., data2vec, ICML 2022), and the loss is the mean
    squared error, which is 1 for a head that says 0.

    Metric: ``explained``, the share of the variance over images that is explained (R², channels by their variance).

    Args:
        spec: Of the images.
        widths: Channels of the shared features.
        teacher: Where the teacher is from; only a saved model, which is not trained, goes without.
        size: Height and width, or both in one number, that the teacher sees images in; None as the student does.
        channels: What it gives; filled in where the teacher is given, for a saved model, which does without.
        origin: Where it was from; filled in.
        fingerprint: Of its weights; filled in. Where it is given, too, another teacher is refused.

    Raises:
        ValueError: The teacher cannot be used, or is not that of the fingerprint; or there is none, and no `channels`.
    """

    main_metric = "explained"
    predicts: ClassVar[bool] = False
    hparams_ignored = ("teacher",)
    options_that_mean = ("fingerprint",)

    def __init__(
        self,
        spec: TaskSpec,
        widths: FeatureWidths,
        teacher: Teacher | None = None,
        size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        origin: str = "",
        fingerprint: str = "",
    ) -> None:
        super().__init__()
        self.spec = spec
        self._teacher = _Held(teacher.open_teacher(spec) if teacher else None)
        if teacher is not None and (model := self._teacher.model) is not None:
            if fingerprint not in ("", model.fingerprint):
                raise ValueError(
                    f"The teacher {teacher.origin} has the fingerprint {model.fingerprint}, but {fingerprint} is "
                    "wanted. Give the teacher that the training began with, or leave the fingerprint out."
                )
            channels, origin, fingerprint = self._channels_of(model), teacher.origin, model.fingerprint
        if channels is None:
            raise ValueError(
                "There is no teacher. Give one under model.tasks.<name>.init_args.teacher, such as {class_path: "
                "PretrainedSource, init_args: {path: runs/teacher}}."
            )
        self.hparams |= {"channels": channels, "origin": origin, "fingerprint": fingerprint}
        self.size = (size, size) if isinstance(size, int) else size
        self.head = nn.Linear(self._width(widths), channels)

    @staticmethod
    @abstractmethod
    def _channels_of(model: TeacherModel) -> int:
        """How many numbers are imitated."""

    @staticmethod
    @abstractmethod
    def _width(widths: FeatureWidths) -> int:
        """Channels of the features that are read."""

    @abstractmethod
    def _given(self, teacher: TeacherModel, images: Tensor) -> Tensor:
        """What the teacher gives, channels last."""

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """``explained``."""
        from umedpt_lightning.tasks.explained import Explained

        return {"explained": Explained(self.head.out_features)}

    def prepare(self, batch: TaskBatch) -> TaskBatch:
        """With what the teacher gives as targets, channels last.

        Raises:
            ValueError: The teacher is not there, or the samples are bags.
        """
        teacher = self._teacher.model
        if teacher is None:
            raise ValueError(
                f"Task {batch.task!r} imitates {self.hparams['origin']}, which is not in its weights. Give it under "
                f"model.tasks.{batch.task}.init_args.teacher."
            )
        if isinstance(batch.images, Bags):
            raise ValueError(f"Task {batch.task!r} imitates what a teacher makes of single images, but was given bags.")
        with torch.no_grad():
            images = batch.images.float()
            if self.size is not None:
                images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
            if next(teacher.parameters()).device != images.device:
                teacher.to(images.device)
            given = as_float(self._given(teacher, images))
            return replace(batch, targets=F.layer_norm(given, given.shape[-1:]))

    def forward(self, features: Tensor) -> Tensor:
        """What is imitated ``(B, ..., D)`` for the features."""
        found: Tensor = self.head(features)
        return found

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of ``(B, ..., D)``."""
        return (self._like(output, targets) - targets).square().mean()

    def update(self, output: Tensor, targets: Tensor) -> None:
        """Adds ``(B, ..., D)``."""
        like = self._like(output, targets)
        self.metrics.explained.update(like.flatten(0, -2), targets.flatten(0, -2))

    def compute(self) -> dict[str, Tensor]:
        """``explained``, NaN of fewer than two images."""
        return {"explained": self.metrics.explained.compute()}

    def predict(self, output: Tensor) -> Tensor:
        """What `forward` gave."""
        return as_float(output)

    def comparison_view(self, target: NDArray[Any], prediction: NDArray[Any]) -> View:
        """How like the teacher the student is for an image: the mean cosine."""
        given, found = (torch.from_numpy(one).to(self.device)[None] for one in (target, prediction))
        with torch.no_grad():
            cosine = F.cosine_similarity(self._like(found, given), given, dim=-1).mean()
        return View((Line(f"cosine to the teacher: {cosine:.2f}"),))

    def _like(self, output: Tensor, targets: Tensor) -> Tensor:
        """What `forward` gave in the shape of what the teacher gives."""
        return as_float(output)


class ImitateEmbedding(Imitation):
    """Imitates the embedding of a teacher by that of the student, see `Imitation`."""

    needs = "embedding"

    @staticmethod
    def _channels_of(model: TeacherModel) -> int:
        return model.embedding_channels

    @staticmethod
    def _width(widths: FeatureWidths) -> int:
        return widths.embedding

    def _given(self, teacher: TeacherModel, images: Tensor) -> Tensor:
        return teacher.embedding(images)


class ImitateMaps(Imitation):
    """Imitates the coarsest map of a teacher by the student's pixel embedding, averaged over each of its places."""

    needs = "pixels"

    @staticmethod
    def _channels_of(model: TeacherModel) -> int:
        return model.map_channels

    @staticmethod
    def _width(widths: FeatureWidths) -> int:
        return widths.pixels

    def _given(self, teacher: TeacherModel, images: Tensor) -> Tensor:
        return teacher.maps(images).movedim(1, -1)  # (B, h, w, D)

    def forward(self, features: Tensor) -> Tensor:
        """The pixel embedding ``(B, D, H, W)`` as it is: how coarse the teacher sees it is known to the targets."""
        return features

    def _like(self, output: Tensor, targets: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(as_float(output), (targets.shape[1], targets.shape[2]))
        found: Tensor = self.head(pooled.movedim(1, -1))
        return found
