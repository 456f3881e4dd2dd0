"""Small data sets in memory, small blocks and models, for any test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from umedpt_lightning.blocks import DetectionDecoder, DetectionFeatures, Encoder, PixelDecoder, Pyramid
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.tasks import FeatureWidths
from umedpt_lightning.types import (
    BoxArrays,
    BoxSpec,
    ClassSpec,
    MaskSpec,
    MultilabelSpec,
    RegressionSpec,
    Sample,
    SurvivalSpec,
    TaskSpec,
)

# the tensors here are tiny: more threads only wait for each other, ten times as long where several tests run at once
torch.set_num_threads(1)

KINDS = ("class", "multilabel", "regression", "mask", "box")
WIDTHS = FeatureWidths(embedding=12, pixels=6, detection=32)
#: Blocks of few parameters.
SMALL_PIXELS = partial(PixelDecoder, channels=4)
SMALL_DETECTION = partial(DetectionDecoder, channels=32, convolutions=1)


def small_encoder(name: str = "test_efficientnet_gn", **options: Any) -> Encoder:
    """Strides 2 to 32, GroupNorm, 0.08 million parameters in 44 tensors."""
    return Encoder(name, **options)


def small_convnext(drop_path_rate: float = 0.0) -> Encoder:
    """Normalises each pixel alone, so that tiles are exact, and can leave out blocks; `small_encoder` does neither."""
    return Encoder("test_convnext", drop_path_rate=drop_path_rate)


def spec_of(kind: str, channels: int = 3, count: int = 3) -> TaskSpec:
    """A spec with `count` classes, labels or quantities."""
    names = tuple(f"n{i}" for i in range(count))
    match kind:
        case "class":
            return ClassSpec(channels=channels, classes=names, counts=tuple(range(2, 2 + count)))
        case "multilabel":
            return MultilabelSpec(
                channels=channels, labels=names, counts=tuple(range(2, 2 + count)), known=(2 + 2 * count,) * count
            )
        case "regression":
            means = tuple(10.0 * (i + 1) for i in range(count))
            return RegressionSpec(
                channels=channels,
                quantities=names,
                units=("mm",) * count,
                means=means,
                stds=tuple(2.0 + i for i in range(count)),
            )
        case "mask":
            return MaskSpec(channels=channels, classes=names)
        case "box":
            return BoxSpec(channels=channels, classes=names)
    raise ValueError(kind)


def survival_spec(channels: int = 3) -> SurvivalSpec:
    """Times of 100 samples, with statistics."""
    rng = np.random.default_rng(0)
    targets = np.stack([random_survival(rng) for _ in range(100)])
    return SurvivalSpec(channels=channels, time_unit="months", intervals=4).with_statistics(targets)


def random_survival(rng: np.random.Generator) -> NDArray[np.float32]:
    """A time of whole months, with an event in two of three."""
    return np.array([np.ceil(rng.exponential(9)), rng.random() < 0.67], np.float32)


class MemoryReader(Reader):
    """Random images with random targets; pixel (0, 0) of channel 0 holds the sample's index."""

    def __init__(self, kind: str, size: int = 6, side: int = 32, channels: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.spec = spec_of(kind, channels)
        self.images = rng.integers(0, 256, (size, side, side, channels), dtype=np.uint8)
        self.images[:, 0, 0, 0] = np.arange(size)
        self.values = [random_target(kind, side, rng) for _ in range(size)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], self.values[index], f"sample {index}")


def random_target(kind: str, side: int, rng: np.random.Generator) -> Any:
    match kind:
        case "class":
            return int(rng.integers(3))
        case "multilabel":
            return rng.choice(np.array([0, 1, np.nan], np.float32), 3)
        case "regression":
            return rng.normal([10, 20, 30], [2, 3, 4]).astype(np.float32)
        case "mask":
            return rng.integers(0, 3, (side, side), dtype=np.int16)
        case "box":
            corners = rng.integers(0, side - 12, (2, 2))
            return BoxArrays(np.concatenate([corners, corners + 12], 1).astype(np.float32), rng.integers(0, 3, 2))
    raise ValueError(kind)


def readers_of(kinds: Mapping[str, str] | None = None, **options: Any) -> dict[str, MemoryReader]:
    """A reader a task, all five label types unless told otherwise (task name to kind)."""
    kinds = kinds or {f"a_{kind}": kind for kind in KINDS}
    return {name: MemoryReader(kind, seed=i, **options) for i, (name, kind) in enumerate(kinds.items())}


def trainer_of(**options: Any) -> pl.Trainer:
    """Trains in silence, and logs every round."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(quiet | options))


def detection_features(images: int = 2, side: int = 64, channels: int = 32) -> DetectionFeatures:
    """What a detection head reads, from a random pyramid."""
    strides = [8, 16, 32]
    maps = [torch.randn(images, 8, side // s, side // s) for s in strides]
    decoder = DetectionDecoder([8, 8, 8], strides, channels, convolutions=1)
    return decoder(Pyramid(maps, strides, (side, side), (side, side)))
