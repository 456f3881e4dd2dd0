"""One decoded sample a file: a line of JSON, then the bare arrays, so that reading it can run no code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.types import Bag, BoxArrays, PackedArray, Sample

# Arrays begin at multiples of this, as vector instructions like it.
_ALIGNMENT = 64


def pack(sample: Sample) -> list[bytes | memoryview]:
    """The content of a file that holds the sample.

    Raises TypeError where its target holds something else than numbers, texts, arrays, and lists and mappings of such.
    """
    if isinstance(sample, Bag):
        raise TypeError(f"{sample.name}: a bag of images cannot be cached, but its images can: see `Reader.cached`.")
    arrays: list[NDArray[Any]] = [sample.image]
    try:
        target, stored_target = (_to_json(value, arrays) for value in (sample.target, sample.stored_target))
    except TypeError as error:
        raise TypeError(f"{sample.name}: {error} cannot be cached. Write `cache: none`.") from error
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise TypeError(f"{sample.name}: arrays of {[a.dtype.name for a in arrays]} cannot be cached.")
    header = {
        "name": sample.name,
        "stored_size": sample.stored_size,
        "target": target,
        "stored_target": stored_target,
        "arrays": [(array.dtype.str, array.shape) for array in arrays],
    }
    line = json.dumps(header).encode() + b"\n"
    pieces: list[bytes | memoryview] = [line, bytes(-len(line) % _ALIGNMENT)]
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        pieces += [data.data, bytes(-len(data) % _ALIGNMENT)]
    return pieces


def unpack(path: Path) -> Sample | None:
    """The sample in a file, with arrays of its own; None where there is no such file, or it is not whole."""
    try:
        with path.open("rb", buffering=0) as stream:  # a third of the time that np.fromfile takes
            content = np.empty(os.fstat(stream.fileno()).st_size, np.uint8)
            content = content[: stream.readinto(content.data)]
    except FileNotFoundError:
        return None
    return unpack_content(content)


def unpack_content(content: NDArray[np.uint8]) -> Sample | None:
    """The sample in what `pack` gave, joined: its arrays are views of it; None where it is not whole."""
    end = content[:65536].tobytes().find(b"\n") + 1
    try:
        header = json.loads(content[:end].tobytes())
        place = -(-end // _ALIGNMENT) * _ALIGNMENT
        arrays = []
        for name, shape in header["arrays"]:
            dtype = np.dtype(name)
            length = int(np.prod(shape)) * dtype.itemsize
            arrays.append(content[place : place + length].view(dtype).reshape(shape))
            place += -(-length // _ALIGNMENT) * _ALIGNMENT
        height, width = header["stored_size"]
        target, stored_target = (_from_json(header[key], arrays) for key in ("target", "stored_target"))
        return Sample(arrays[0], target, header["name"], (height, width), stored_target)
    except (ValueError, TypeError, KeyError, IndexError):  # cut short when the machine went down
        return None


def _to_json(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """A target in types of JSON, its arrays put into the list."""
    match value:
        case BoxArrays(boxes, labels):
            return {"boxes": [_to_json(boxes, arrays), _to_json(labels, arrays)]}
        case np.ndarray():
            arrays.append(value)
            return {"array": len(arrays) - 1}
        case PackedArray(content, shape, dtype):
            return {"packed": [_to_json(np.frombuffer(content, np.uint8), arrays), shape, dtype]}
        case np.generic():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_to_json(item, arrays) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {"mapping": {key: _to_json(item, arrays) for key, item in value.items()}}
    raise TypeError(f"a {type(value).__name__}")


def _from_json(value: Any, arrays: list[NDArray[Any]]) -> Any:
    match value:
        case {"boxes": [boxes, labels]}:
            return BoxArrays(_from_json(boxes, arrays), _from_json(labels, arrays))
        case {"packed": [content, shape, dtype]}:
            return PackedArray(_from_json(content, arrays).tobytes(), tuple(shape), dtype)
        case {"array": place}:
            return arrays[place]
        case {"mapping": items}:
            return {key: _from_json(item, arrays) for key, item in items.items()}
        case list():
            return [_from_json(item, arrays) for item in value]
    return value
