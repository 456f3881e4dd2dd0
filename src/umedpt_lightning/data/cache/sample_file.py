"""One decoded sample a file: a line of JSON, then the bare arrays, so that reading it can run no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.types import BoxArrays, Sample, SampleTarget

# Arrays begin at multiples of this, as vector instructions like it.
_ALIGNMENT = 64


def pack(sample: Sample) -> list[bytes | memoryview]:
    """The content of a file that holds the sample.

    Raises:
        TypeError: Its target is of no kind that a reader may give.
    """
    target = sample.target
    arrays: list[NDArray[Any]] = [sample.image]
    number: int | None = None
    match target:
        case BoxArrays():
            kind, arrays = "boxes", [*arrays, target.boxes, target.labels]
        case np.ndarray():
            kind, arrays = "array", [*arrays, target]
        case int() | np.integer():
            kind, number = "number", int(target)
        case _:
            raise TypeError(f"{sample.name}: a {type(target).__name__} cannot be cached. Write `cache: none`.")
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise TypeError(f"{sample.name}: arrays of {[a.dtype.name for a in arrays]} cannot be cached.")
    header = {
        "name": sample.name,
        "stored_size": sample.stored_size,
        "kind": kind,
        "number": number,
        "arrays": [(array.dtype.str, array.shape) for array in arrays],
    }
    pieces: list[bytes | memoryview] = [_padded(json.dumps(header).encode() + b"\n")]
    for array in arrays:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        pieces += [data.data, bytes(-len(data) % _ALIGNMENT)]
    return pieces


def unpack(path: Path) -> Sample | None:
    """The sample in a file, with arrays of its own; None where there is no such file, or it is not whole."""
    try:
        with path.open("rb", buffering=0) as stream:
            content = _read(stream)
    except FileNotFoundError:
        return None
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
        target: SampleTarget
        match header["kind"]:
            case "boxes":
                target = BoxArrays(arrays[1], arrays[2])
            case "array":
                target = arrays[1]
            case _:
                target = int(header["number"])
        return Sample(arrays[0], target, header["name"], (height, width))
    except (ValueError, TypeError, KeyError, IndexError):  # cut short when the machine went down
        return None


def _padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % _ALIGNMENT)


def _read(stream: IO[bytes]) -> NDArray[np.uint8]:
    content = np.empty(stream.seek(0, 2), np.uint8)
    stream.seek(0)
    length = stream.readinto(content.data)  # type: ignore[attr-defined]  # a raw file has it
    return content[:length]
