"""Values of options as JSON has them, and whether they are of the type that a constructor asks for."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np


def to_json(value: Any, where: str) -> Any:
    """Numbers, strings, None, and sequences and mappings of them in types of JSON.

    Raises:
        ValueError: It is something else, which could not be read back; a message calls it by `where` it is.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return value.item()
        case list() | tuple():
            return [to_json(item, where) for item in value]
        case dict():
            return {str(key): to_json(item, where) for key, item in value.items()}
    raise ValueError(
        f"{where} is a {type(value).__name__}, which config.json cannot hold: a model whose options are numbers, "
        "strings, lists and mappings can be saved."
    )


def from_json(value: Any) -> Any:
    """The value with tuples for lists, as frozen specs need them."""
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if isinstance(value, dict):
        return {key: from_json(item) for key, item in value.items()}
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of `from_json` is of the annotated type; a type that JSON has no values of is not checked."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Union or origin is types.UnionType:
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    return True
