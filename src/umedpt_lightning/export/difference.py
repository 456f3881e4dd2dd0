"""How far the outputs of an exported file are from PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def difference(found: Mapping[str, NDArray[Any]], expected: Mapping[str, Tensor], file: Path) -> float:
    """The largest difference of any output, over the largest value of that output where this is above 1.

    Args:
        found: Outputs of the file.
        expected: Those of PyTorch.
        file: For the message.

    Raises:
        ValueError: The shapes differ.
    """
    largest = 0.0
    for name, value in found.items():
        wanted = expected[name].numpy()
        if wanted.shape != value.shape:
            raise ValueError(f"{file}: {name} has shape {value.shape} where PyTorch has {wanted.shape}.")
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        largest = max(largest, float(np.abs(wanted - value).max(initial=0)) / scale)
    return largest
