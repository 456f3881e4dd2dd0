"""A label kind of one's own in one file: the places of landmarks in an image. Nothing in the package knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from umedpt_lightning.data.readers import Reader
from umedpt_lightning.tasks import FeatureWidths, Task
from umedpt_lightning.types import Sample, TaskSpec


@dataclass(frozen=True, kw_only=True)
class LandmarkSpec(TaskSpec):
    """Places of landmarks; target and prediction are ``(P, 2)``, x and y as shares of width and height."""

    landmarks: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of each number."""
        return tuple(f"{landmark}_{axis}" for landmark in self.landmarks for axis in "xy")


class LandmarkReader(Reader):
    """The middle of the bright square in each image of a folder."""

    def __init__(self, folder: str) -> None:
        self.files = sorted(Path(folder).glob("*.png"))
        self.spec = LandmarkSpec(channels=1, landmarks=("middle", "corner"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = np.array(Image.open(self.files[index]))
        y, x = np.nonzero(image > 200)
        places = np.array([[x.mean(), y.mean()], [x.min(), y.min()]], np.float32) / image.shape[::-1]
        return Sample(image[..., None], places.astype(np.float32), str(self.files[index]))


class LandmarkTask(Task):
    """One linear layer on the embedding; the score is one minus the mean distance."""

    needs = "embedding"
    main_metric = "nearness"
    linear_family = "numbers"  # a ridge regression can stand in for the head
    spec: LandmarkSpec

    def __init__(self, spec: LandmarkSpec, widths: FeatureWidths, scale: float = 1.0) -> None:
        super().__init__()
        self.spec, self.scale = spec, scale
        self.head = nn.Linear(widths.embedding, 2 * len(spec.landmarks))
        self.total, self.count = 0.0, 0

    def forward(self, features: Tensor) -> Tensor:
        places: Tensor = self.head(features)  # (B, 2 P)
        return places

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return (self.predict(output) - targets).square().mean() * 10

    def linear_targets(self, targets: NDArray[Any]) -> NDArray[Any]:
        numbers: NDArray[Any] = targets.reshape(len(targets), -1) / self.scale
        return numbers

    def update(self, output: Tensor, targets: Tensor) -> None:
        self.total += float((self.predict(output) - targets).norm(dim=-1).mean(1).sum())
        self.count += len(targets)

    def compute(self) -> dict[str, Tensor]:
        return {"nearness": torch.tensor(1 - self.total / self.count if self.count else torch.nan)}

    def reset(self) -> None:
        super().reset()
        self.total, self.count = 0.0, 0

    def predict(self, output: Tensor) -> Tensor:
        return output.float().view(len(output), -1, 2) * self.scale


@dataclass
class Rise:
    """What `RiseTask` predicts: a number and a map."""

    height: Tensor
    slope: Tensor


@dataclass(frozen=True, kw_only=True)
class RiseSpec(TaskSpec):
    """A map of numbers, one a pixel, and a number an image that not all images have; targets are mappings."""


class RiseReader(Reader):
    """How bright an image is, pixel by pixel and on average; of every third image the average is not known."""

    def __init__(self, folder: str) -> None:
        self.files = sorted(Path(folder).glob("*.png"))
        self.spec = RiseSpec(channels=1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = np.array(Image.open(self.files[index]))
        slope = image.astype(np.float32) / 255
        height = None if index % 3 == 0 else float(slope.mean())
        return Sample(image[..., None], {"slope": slope, "height": height}, str(self.files[index]))


class RiseTask(Task):
    """A kind whose targets, outputs and predictions are no tensors: lists of mappings and a dataclass."""

    needs = "pixels"
    main_metric = "fit"
    spec: RiseSpec

    def __init__(self, spec: RiseSpec, widths: FeatureWidths) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.Conv2d(widths.pixels, 1, 1)
        self.errors: list[Tensor] = []

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        slope = self.head(features)[:, 0]  # (B, H, W)
        return {"slope": slope, "height": slope.mean(dim=(1, 2))}

    def loss(self, output: dict[str, Tensor], targets: list[dict[str, Any]]) -> Tensor:
        return self._errors(output, targets).mean()

    def update(self, output: dict[str, Tensor], targets: list[dict[str, Any]]) -> None:
        self.errors.append(self._errors(output, targets).detach())

    def compute(self) -> dict[str, Tensor]:
        return {"fit": 1 / (1 + torch.cat(self.errors).mean()) if self.errors else torch.tensor(torch.nan)}

    def reset(self) -> None:
        super().reset()
        self.errors = []

    def predict(self, output: dict[str, Tensor]) -> list[Rise]:
        return [Rise(*pair) for pair in zip(output["height"].float(), output["slope"].float(), strict=True)]

    def _errors(self, output: dict[str, Tensor], targets: list[dict[str, Any]]) -> Tensor:
        errors = []
        for row, target in enumerate(targets):
            error = (output["slope"][row].float() - target["slope"]).square().mean()
            if target["height"] is not None:
                error = error + (output["height"][row].float() - target["height"]) ** 2
            errors.append(error)
        return torch.stack(errors)
