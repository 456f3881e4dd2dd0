"""Pixels that a DICOM file calls padding: what fills the picture outside of what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = ("", "Float", "DoubleFloat")  # of pixels: each has attributes of its own


def is_padded(header: Any) -> bool:
    """Whether the file says a value that padding has."""
    return any(_value(header, f"{kind}PixelPaddingValue") is not None for kind in _KINDS)


def padding_of(stored: NDArray[Any], meaningful: NDArray[Any], header: Any) -> NDArray[np.bool_] | None:
    """``(H, W)`` the pixels with the padding value or, where a limit is said, in its range; None without any.

    Args:
        stored: ``(H, W)`` all bits: a padding value may need more of them than pixels do.
        meaningful: ``(H, W)`` the bits that belong to the value.
        header: PixelPaddingValue and PixelPaddingRangeLimit are in stored values (PS3.3 C.7.5.1.1.2).
    """
    kind = next((kind for kind in _KINDS if _value(header, f"{kind}PixelPaddingValue") is not None), None)
    if kind is None:
        return None
    ends = (_value(header, f"{kind}PixelPadding{end}") for end in ("Value", "RangeLimit"))
    limits = [_wrapped(end, stored.dtype) for end in ends if end is not None]
    low, high = min(limits), max(limits)
    found: NDArray[np.bool_] = np.zeros(stored.shape, np.bool_)
    for values in (stored, meaningful):
        found |= (values >= low) & (values <= high)
    return found if found.any() else None


def _value(header: Any, tag: str) -> float | None:
    value = header.get(tag)
    return None if value is None or value == "" else float(value[0] if isinstance(value, list) else value)


def _wrapped(value: float, dtype: np.dtype[Any]) -> float:
    """The number that the same bits are in a dtype: many files write -2000 as 63536, or the other way round."""
    if dtype.kind not in "iu":
        return value
    limits = np.iinfo(dtype)
    return (int(value) - int(limits.min)) % (int(limits.max) - int(limits.min) + 1) + int(limits.min)
