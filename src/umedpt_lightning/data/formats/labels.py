"""Names and class indices, shared by all readers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import FaultsError
from umedpt_lightning.labels.wording import shorten


def natural_key(text: str) -> list[tuple[int, str]]:
    """A sort key that puts ``2`` before ``10``, so that neighbours stay neighbours without zero padding."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def check_names(names: Iterable[str | int], what: str, where: object) -> tuple[str, ...]:
    """Names of classes, labels or quantities as a tuple; raises ValueError where there are none, or one comes twice.

    A message calls them `what`, of the file or folder `where`.
    """
    result = tuple(str(name) for name in names)
    twice = sorted({name for name in result if result.count(name) > 1}) if len(set(result)) < len(result) else []
    if twice:
        raise ValueError(f"{where}: {what} must differ, but {twice} come more than once. Give each one name.")
    if not result:
        raise ValueError(f"{where}: {what} are empty. Name at least one.")
    return result


def class_indices(values: Sequence[str], classes: Sequence[str], where: Sequence[str], file: object) -> NDArray[Any]:
    """Class names to ``(N,)`` int64 indices; raises ValueError for those that are not among the classes.

    Args:
        values: One name a sample.
        classes: All names.
        where: What a message calls each sample, its file included.
        file: The file or folder that a message of all names.
    """
    index = {name: i for i, name in enumerate(classes)}
    result = np.fromiter((index.get(value, -1) for value in values), np.int64, len(values))
    unknown = np.flatnonzero(result < 0).tolist()
    if unknown:
        known, at = shorten(classes), ", ".join(f"{values[i]!r} ({where[i]})" for i in unknown[:5])
        raise FaultsError(
            f"{file}: {len(unknown)} samples have a class that is not among {known}, the first {at}. Correct them, or "
            "add the class to `classes`.",
            [
                ValueError(
                    f"{where[i]}: its class is {values[i]!r}, which is not among {known}. Correct it, or add the class "
                    "to `classes`."
                )
                for i in unknown
            ],
        )
    return result
