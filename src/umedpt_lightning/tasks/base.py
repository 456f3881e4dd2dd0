"""The contract of a task: a tiny head on shared features, with its loss and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from umedpt_lightning.hparams import HParamsMixin
from umedpt_lightning.types import BatchTargets, TaskSpec

#: What a head reads: ``embedding`` is ``(B, D)``, ``pixels`` is ``(B, D, H, W)``, ``detection`` is
#: `umedpt_lightning.blocks.DetectionFeatures`.
Features = Literal["embedding", "pixels", "detection"]


@dataclass(frozen=True)
class FeatureWidths:
    """Channels of the shared features.

    Attributes:
        embedding: Length of the pooled embedding.
        pixels: Channels of the pixel decoder's output.
        detection: Channels of the detection decoder's output.
    """

    embedding: int
    pixels: int
    detection: int


def as_float(output: Tensor) -> Tensor:
    """`output` in float32 where autocast made it half precision: losses and metrics need the digits."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


class Task(HParamsMixin, nn.Module, ABC):
    """A label type: head, loss, metrics and prediction.

    Subclasses are built with ``(spec, widths, **options)`` and set the class attributes.

    Attributes:
        needs: Which features `forward` takes.
        main_metric: The entry of `compute` that stands for the task in ``val/score``; higher is better.
        spec: What the data set says of itself.
        nms_threshold: Of two objects of a class that were found in neighbouring tiles of an image and overlap by more
            (IoU), the better stays.
    """

    needs: ClassVar[Features]
    main_metric: ClassVar[str]
    spec: TaskSpec
    nms_threshold: float = 0.5

    def new_metrics(self) -> Mapping[str, nn.Module]:
        """The metrics, to be found in `metrics`; here, not at the top of a file, is the place to import them."""
        return {}

    @abstractmethod
    def forward(self, features: Any) -> Any:
        """The head's raw output for a micro-batch of features."""

    @abstractmethod
    def loss(self, output: Any, targets: Any) -> Tensor:
        """The mean loss of a micro-batch, a scalar in float32 at least, about 1 for an uninformed prediction."""

    @abstractmethod
    def update(self, output: Any, targets: Any) -> None:
        """Adds a micro-batch to the metrics."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """The metrics of all that was added, NaN where undefined; gathers over ranks."""

    @abstractmethod
    def predict(self, output: Any) -> Any:
        """The prediction for a micro-batch in the user's terms: probabilities, units, classes, pixels."""

    def exported(self, output: Any) -> dict[str, Tensor]:
        """The outputs of a graph that is used without Python, by name; tensors with ``B`` first."""
        return {"predictions": self.predict(output)}

    @abstractmethod
    def trivial(self, targets: BatchTargets) -> Any:
        """An output like that of `forward` that has seen the training labels but no image.

        Majority class, mean, empty mask, no box: what a trained head must beat.
        """

    def resized(self, prediction: Any, shown: tuple[int, int], wanted: tuple[int, int]) -> Any:
        """One image's prediction for the same image in another size; for most label types there is no difference.

        Args:
            prediction: An item of what `predict` returns.
            shown: Height and width of the image that it is for, pixels.
            wanted: Those of the image that it is wanted for.
        """
        return prediction

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return next(self.parameters()).device

    @property
    def metrics(self) -> Any:
        """What `new_metrics` made, made on first use: predicting needs neither them nor the library they are from."""
        if "_metrics" not in self._modules:
            self.add_module("_metrics", nn.ModuleDict(dict(self.new_metrics())).to(self.device))
        return self._modules["_metrics"]

    def reset(self) -> None:
        """Forgets all that was added to the metrics."""
        from torchmetrics import Metric

        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()
