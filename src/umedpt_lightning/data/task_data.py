"""What a config says of one task's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.transforms import Augmentations, Transform


@dataclass
class TaskData:
    """The data of one task.

    Attributes:
        train: Read for training.
        val: Read for validation.
        test: Read for testing.
        batch_size: Images in a micro-batch.
        micro_batches: Micro-batches in a round.
        size: Height and width that images are resized to, one number for both; None keeps them.
        augment: albumentations transforms by name, for training, applied in this order; null switches one off. Or the
            name of a preset: ct, dermatology, fluorescence, fundus, histology, mri, xray. Or the path of a YAML file.
        cache: Keeps decoded samples, once for all workers and ranks of a machine: ``ram`` until the run ends, ``disk``
            for later runs too. See `CachedReader`.
        evaluate_at: The pixels that metrics of masks and boxes are of: ``stored``, the image's own, to which
            predictions are resized, or ``resized``, those of `size` and of slices that a reader resamples, where small
            objects have vanished from the truth.
    """

    train: Reader | None = None
    val: Reader | None = None
    test: Reader | None = None
    batch_size: int = 16
    micro_batches: int = 1
    size: int | tuple[int, int] | None = None
    augment: Augmentations | str | None = None
    cache: Literal["none", "ram", "disk"] = "none"
    evaluate_at: Literal["stored", "resized"] = "stored"

    @property
    def evaluation_transform(self) -> Transform:
        """What samples go through in validation and test."""
        return Transform(self.size, keep_truth=self.evaluate_at == "stored")

    @property
    def augments(self) -> bool:
        """Whether samples differ from pass to pass in training."""
        steps = self.augment.values() if isinstance(self.augment, dict) else [self.augment]
        return any(step is not None for step in steps)

    @property
    def readers(self) -> dict[str, Reader]:
        """The readers of the parts there are, train first."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {part: reader for part, reader in parts.items() if reader is not None}
