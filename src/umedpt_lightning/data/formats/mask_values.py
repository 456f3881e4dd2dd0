"""Stored mask values to class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.labels import check_names
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import IGNORE_INDEX

_MEANINGLESS = np.iinfo(np.int16).min


class MaskValues:
    """Which stored value means which class.

    Args:
        classes: Names of the classes stored as 0, 1, ..., or a stored value for each name.
        ignore: The stored value of unlabelled pixels, None if there are none.
        source: The file or folder that names the masks.

    Attributes:
        classes: Class names.

    Raises:
        ValueError: The classes cannot be used.
    """

    def __init__(self, classes: Sequence[str | int] | Mapping[str, int], ignore: int | None, source: object) -> None:
        self.classes = check_names(classes, "classes", source)
        values = list(classes.values()) if isinstance(classes, Mapping) else list(range(len(self.classes)))
        stored = values if ignore is None else [*values, ignore]
        if len(set(stored)) < len(stored) or min(stored) < 0 or max(stored) > 65535:
            raise ValueError(
                f"{source}: every class and `ignore` need a stored value of their own from 0 to 65535, but the values "
                f"of the classes are {values} and ignore is {ignore}. Correct `classes` or `ignore`."
            )
        self._stored = stored
        self._index = np.full(65536, _MEANINGLESS, np.int16)  # stored value -> class index
        self._index[stored] = [*range(len(values)), IGNORE_INDEX][: len(stored)]

    def to_indices(self, mask: NDArray[Any], name: str) -> NDArray[np.int16]:
        """Class indices and `IGNORE_INDEX`, int16.

        Args:
            mask: ``(H, W)`` uint8 or uint16.
            name: What a message calls it.

        Raises:
            ValueError: It holds another value.
        """
        result: NDArray[np.int16] = self._index[mask]
        if result.min() == _MEANINGLESS:
            raise ValueError(
                f"{name}: the mask holds the values {shorten(np.unique(mask).tolist())}, but only "
                f"{shorten(self._stored)} mean something. Say which value means which class (`classes: "
                f"{{{self.classes[0]}: 0, ...}}`), and which one unlabelled pixels have (`ignore: 255`)."
            )
        return result
