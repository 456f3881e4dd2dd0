"""Any small value as named numbers: what tables and pictures show of a kind that says nothing of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from umedpt_lightning.labels.wording import short_float

#: Of an array with more numbers, as of a map, the mean and the limits are told.
_MOST_NUMBERS = 64


def flat_values(value: Any, names: Sequence[str] = ()) -> dict[str, float | str]:
    """Numbers and texts by a name each.

    Args:
        value: A number, a text, an array, or a dataclass, mapping, tuple or list of such.
        names: Of the numbers in it, where there are as many.
    """
    found = dict(_flat(value, ""))
    return dict(zip(names, found.values(), strict=True)) if len(names) == len(found) else found


def _flat(value: Any, name: str) -> Iterator[tuple[str, float | str]]:
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, str):
        yield name or "value", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, _below(name, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _flat(item, _below(name, str(number)))
    elif value is None:
        yield name or "value", "none"
    else:
        yield from _numbers(np.asarray(value), name)


def _numbers(array: Any, name: str) -> Iterator[tuple[str, float | str]]:
    if array.dtype.kind not in "biuf":
        yield name or "value", str(array)[:80]
    elif array.ndim == 0:
        yield name or "value", short_float(float(array))
    elif array.size <= _MOST_NUMBERS:
        for place in np.ndindex(array.shape):
            yield _below(name, "_".join(map(str, place))), short_float(float(array[place]))
    else:
        yield _below(name, "shape"), "x".join(map(str, array.shape))
        if array.size:
            for title, function in (("mean", np.mean), ("min", np.min), ("max", np.max)):
                yield _below(name, title), short_float(float(function(array)))


def _below(name: str, part: str) -> str:
    return f"{name}_{part}" if name else part
