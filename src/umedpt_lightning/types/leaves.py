"""Tensors and arrays wherever they are in lists, mappings and dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def map_leaves(value: Any, function: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """The same value with everything of a kind in it, tensors or arrays, replaced by what a function makes of it.

    Args:
        value: One of the kind, or lists, tuples, mappings and dataclasses of such; whatever else is in them is kept.
        function: What is made of each.
        kind: Of what.
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, list):
        return [map_leaves(item, function, kind) for item in value]
    if isinstance(value, tuple):
        items = (map_leaves(item, function, kind) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, dict):
        return {key: map_leaves(item, function, kind) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_leaves(getattr(value, f.name), function, kind) for f in fields(value)})
    return value


def finite_rows(value: Any, count: int) -> Tensor:
    """``(count,)`` bool: for which samples all numbers of a head's output are finite; waits for no device.

    Args:
        value: Tensors of which the first axis is that of samples, in whatever `map_leaves` knows; others do not count.
        count: Number of samples.
    """
    rows: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        if leaf.shape[:1] == (count,) and leaf.is_floating_point():
            rows.append(leaf.isfinite().reshape(count, -1).all(dim=1))
        return leaf

    map_leaves(value, note)
    return torch.stack(rows).all(dim=0) if rows else torch.ones(count, dtype=torch.bool)


def to_numpy(value: Any) -> Any:
    """The same value with arrays for tensors, half precision as float32, which numpy can compute with."""

    def convert(tensor: Tensor) -> NDArray[Any]:
        small = tensor.dtype in (torch.float16, torch.bfloat16)
        return (tensor.float() if small else tensor).detach().cpu().numpy()

    return map_leaves(value, convert)
