"""Names and class indices, shared by all readers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import FaultsError
from umedpt_lightning.labels.wording import shorten

#: Names of classes in the order of the indices, or what stands for each name.
ClassNames = Sequence[str | int] | Mapping[str, str | Sequence[str]]


def natural_key(text: str) -> list[tuple[int, str]]:
    """A sort key that puts ``2`` before ``10``, so that neighbours stay neighbours without zero padding.

    Of different texts it is never equal: sets and folders have another order in each process, or on each machine.
    """
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
    return [*parts, (-2, text)]


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


def spellings(classes: ClassNames, file: object) -> dict[str, int]:
    """The index of the class that each text stands for: its name, and what the table calls it.

    Raises ValueError where names are not `check_names`, or a text stands for two classes.
    """
    names = check_names(classes, "classes", file)
    result = {name: i for i, name in enumerate(names)}
    for i, told in enumerate(classes.values() if isinstance(classes, Mapping) else ()):
        for text in [told] if isinstance(told, str | int) else told:
            if result.setdefault(str(text), i) != i:
                raise ValueError(
                    f"{file}: `classes` says that {str(text)!r} is {names[i]!r}, but it is "
                    f"{names[result[str(text)]]!r} too. Let each text be of one class."
                )
    return result


def class_indices(
    values: Sequence[str], classes: Sequence[str], where: Sequence[str], file: object, mapped: bool = False
) -> NDArray[Any]:
    """Class names to ``(N,)`` int64 indices; raises ValueError for those that are not among the classes.

    Args:
        values: One name a sample.
        classes: All names.
        where: What a message calls each sample, its file included.
        file: The file or folder that a message of all names.
        mapped: Whether `classes` may say what another table calls a class, as the mend then says.
    """
    index = {name: i for i, name in enumerate(classes)}
    result = np.fromiter((index.get(value, -1) for value in values), np.int64, len(values))
    unknown = np.flatnonzero(result < 0).tolist()
    if unknown:
        mend = "Correct them, or add the class to `classes`."
        if mapped:
            value = values[unknown[0]]
            name = next((name for name in classes if name.casefold() == value.casefold()), classes[0])
            mend += f" Where {value!r} is another name of {name!r}, write `classes: {{{name}: {value}, ...}}`."
        known, at = shorten(classes), ", ".join(f"{values[i]!r} ({where[i]})" for i in unknown[:5])
        raise FaultsError(
            f"{file}: {len(unknown)} samples have a class that is not among {known}, the first {at}. {mend}",
            [
                ValueError(f"{where[i]}: its class is {values[i]!r}, which is not among {known}. {mend}")
                for i in unknown
            ],
        )
    return result
