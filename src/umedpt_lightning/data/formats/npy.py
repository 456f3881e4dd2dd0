"""Stacks of images in .npy files, mapped into memory in each process that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from umedpt_lightning.data.formats.missing import no_such_file


class NpyStack:
    """An array ``(N, ...)`` of which one item is read at a time.

    Args:
        file: The file.

    Attributes:
        file: As given.
        shape: Of the whole.
        dtype: Of its values.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no .npy file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._array: NDArray[Any] | None = None
        array = self._mapped()
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[Any]:
        """A copy of an item, no longer mapped."""
        return np.array(self._mapped()[index])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}

    def _mapped(self) -> NDArray[Any]:
        if self._array is None:
            if not self.file.is_file():
                raise no_such_file(self.file, "Correct the path in the configuration.")
            try:
                self._array = open_memmap(self.file, mode="r")
            except (ValueError, EOFError, OSError) as error:
                raise ValueError(
                    f"{self.file}: not a .npy file that can be read ({error}). Get it again, or save it with "
                    "numpy.save."
                ) from error
        return self._array
