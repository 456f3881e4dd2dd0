"""Intensities of volumes to 0..1: a window in their own unit, or percentiles of each volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """From `low` to `high`, in the unit of the volume, such as -160 and 240 Hounsfield units for soft tissue.

    Attributes:
        low: Becomes 0, as does what is below.
        high: Becomes 1, as does what is above.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"intensity: low must be below high, but they are {self.low} and {self.high}. Swap them.")

    def limits(self, voxels: Callable[[], NDArray[Any]]) -> tuple[float, float]:
        """What becomes 0 and 1; of any volume."""
        return self.low, self.high


@dataclass(frozen=True)
class Level:
    """The same as radiologists say it: the middle and the width of the window.

    Attributes:
        level: Becomes 0.5.
        width: From what becomes 0 to what becomes 1; above 0.
    """

    level: float
    width: float

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"intensity: width must be positive, but it is {self.width}.")

    def limits(self, voxels: Callable[[], NDArray[Any]]) -> tuple[float, float]:
        """What becomes 0 and 1; of any volume."""
        return self.level - self.width / 2, self.level + self.width / 2


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of each volume, for intensities without a unit, as in MRI.

    Attributes:
        lower: In percent; becomes 0.
        upper: In percent; becomes 1.
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not 0 <= self.lower < self.upper <= 100:
            raise ValueError(
                f"intensity: percentiles are 0 <= lower < upper <= 100, but they are {self.lower} and {self.upper}. "
                "Write `intensity: {lower: 0.5, upper: 99.5}`."
            )

    def limits(self, voxels: Callable[[], NDArray[Any]]) -> tuple[float, float]:
        """What becomes 0 and 1 in the volume with these voxels; NaN, as of padding, and infinity do not count."""
        values = voxels()
        finite = values[np.isfinite(values)]
        if not finite.size:
            return 0.0, 0.0
        low, high = np.percentile(finite, [self.lower, self.upper])
        return float(low), float(high)


Intensity = Window | Level | Percentiles


def to_unit(image: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
    """``limits`` to 0 and 1, float32, cut outside; all 0 where a volume has one value only."""
    low, high = limits
    if not low < high:
        return np.zeros(image.shape, np.float32)
    unit = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return unit.clip(0, 1)
