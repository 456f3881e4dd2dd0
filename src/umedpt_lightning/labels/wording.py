"""Numbers for JSON and for tables, and short texts of long lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Most names of classes, labels or quantities in a table.
MOST_NAMES = 20


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
