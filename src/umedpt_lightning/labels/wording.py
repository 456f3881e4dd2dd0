"""Numbers for JSON and for tables, short texts of long lists, and any small value as named numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of an array with more numbers, as of a map, the mean and the limits are told.
_MOST_NUMBERS = 64


def statistic(function: Callable[[Any], Any], values: NDArray[Any]) -> float | None:
    """A statistic for JSON, which has no NaN: None where there are no values."""
    if not len(values):
        return None
    found = float(function(values.astype(np.float64)))
    return int(found) if found.is_integer() else found


def spread(values: NDArray[Any]) -> dict[str, float | None]:
    """``min``, ``median`` and ``max``."""
    return {name: statistic(f, values) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}


def readable(number: float | None) -> str:
    """A number with about three digits."""
    return "none" if number is None else f"{number:.3g}" if abs(number) < 100 else f"{number:.0f}"


def readable_spread(values: Mapping[str, float | None]) -> str:
    """What `spread` gave: lowest, median and highest, or one number where they are equal."""
    low, median, high = (values[key] for key in ("min", "median", "max"))
    return readable(low) if low == high else f"{readable(low)} / {readable(median)} / {readable(high)}"


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(part: int, total: int) -> str:
    """A share in brackets; nothing where the total is 0."""
    return f" ({part / total:.1%})" if total else ""


def shorten(items: Iterable[Any], most: int = 10) -> str:
    """The first few of many, for a message."""
    items = list(items)
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{items[:most]}{rest}"


def short_float(number: float) -> float:
    """The number without the digits that float32 does not have."""
    return float(f"{number:.7g}")


def found_instead(target: Any) -> str:
    """What a target is, for a message that it should be something else."""
    return f"{target.dtype} of shape {target.shape}" if isinstance(target, np.ndarray) else type(target).__name__


def flat_values(value: Any, names: Sequence[str] = ()) -> dict[str, float | str]:
    """The numbers and texts in a number, text, array, or a dataclass, mapping, tuple or list of such, by a name each.

    They have the `names`, where there are as many; else those of where they are.
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
    elif array.size <= _MOST_NUMBERS:
        for index in np.ndindex(array.shape):
            yield _below(name, "_".join(map(str, index))) or "value", short_float(float(array[index]))
    else:
        yield _below(name, "shape"), "x".join(map(str, array.shape))
        if array.size:
            for title, function in (("mean", np.mean), ("min", np.min), ("max", np.max)):
                yield _below(name, title), short_float(float(function(array)))


def _below(name: str, part: str) -> str:
    return "_".join(filter(None, (name, part)))


def near(name: str, known: Iterable[str]) -> str:
    """The sentence that ends a message on a name that is not known."""
    names = list(known)
    alike = difflib.get_close_matches(name, names, n=3)
    return f"Did you mean {' or '.join(alike)}?" if alike else f"There are {', '.join(names)}."
