"""What is in the shards of a part: where each sample lies, and all that is known of it without reading it."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.texts import Coded
from umedpt_lightning.io.atomic import atomic_write, write_text
from umedpt_lightning.io.values import from_json, to_json
from umedpt_lightning.types import TaskSpec

#: The file that is written last: where it is, all is there.
INDEX = "index.json"
SAMPLES = "samples.npz"
_FORMAT = 1


class Place(NamedTuple):
    """Where a sample lies: in the bytes from start to stop of a shard, which is so many bytes long."""

    shard: str
    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one part of a task.

    Attributes:
        spec: As `Reader.spec`.
        shards: Names of the files.
        sizes: Their bytes.
        shard: ``(N,)`` the shard of each sample.
        start: ``(N,)`` its first byte there.
        length: ``(N,)`` its bytes.
        checksum: ``(N,)`` their CRC-32.
        names: ``(N,)`` as `Reader.name`, in bytes.
        groups: As `Reader.groups`.
        targets: As `Reader.targets`.
        places: As `Reader.places`.
        source: The `identity` of the reader whose samples they are.
    """

    spec: TaskSpec
    shards: Sequence[str]
    sizes: Sequence[int]
    shard: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    checksum: NDArray[np.uint32]
    names: NDArray[np.bytes_]
    groups: Coded | None
    targets: NDArray[Any] | None
    places: NDArray[np.float32] | None
    source: str

    def place(self, index: int) -> Place:
        """Where a sample lies."""
        shard, start = int(self.shard[index]), int(self.start[index])
        return Place(self.shards[shard], start, start + int(self.length[index]), self.sizes[shard])

    def write(self, folder: Path) -> None:
        """Writes ``samples.npz`` and, when all else is there, ``index.json``."""
        arrays: dict[str, Any] = {field: value for field in _ARRAYS if (value := getattr(self, field)) is not None}
        if self.groups is not None:
            arrays |= {"group_names": self.groups.names, "group_codes": self.groups.codes}
        with atomic_write(folder / SAMPLES) as unfinished:
            np.savez_compressed(unfinished, **arrays)
        options = {field.name: getattr(self.spec, field.name) for field in dataclasses.fields(self.spec)}
        content = {
            "format": _FORMAT,
            "samples": len(self.names),
            "source": self.source,
            "spec": {"class": type(self.spec).__name__, "options": to_json(options, f"{folder}: spec")},
            "shards": [{"file": name, "bytes": size} for name, size in zip(self.shards, self.sizes, strict=True)],
        }
        write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")


_ARRAYS = ("shard", "start", "length", "checksum", "names", "targets", "places")


def read_index(index: bytes, samples: bytes, where: str) -> ShardIndex:
    """The index of these two files, which lie at `where`.

    Raises:
        ValueError: They are no such files, or name a label kind that is not known.
    """
    try:
        content = json.loads(index)
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']}, but this release reads {_FORMAT}")
        with np.load(io.BytesIO(samples), allow_pickle=False) as arrays:
            columns: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS}
            names = arrays.get("group_names")
            columns["groups"] = None if names is None else Coded(names, arrays["group_codes"])
        if len(columns["names"]) != content["samples"]:
            raise ValueError(f"{SAMPLES} is of another number of samples")
        shards, sizes = zip(*((shard["file"], shard["bytes"]) for shard in content["shards"]), strict=True)
        kind, options, source = content["spec"]["class"], from_json(content["spec"]["options"]), content["source"]
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{where}/{INDEX}: not the index of packed samples that can be read ({type(error).__name__}: {error}). "
            f"Copy it and {SAMPLES} again, or pack the samples again."
        ) from error
    return ShardIndex(_kind(kind, where)(**options), shards, sizes, source=source, **columns)


def _kind(name: str, where: str) -> type[TaskSpec]:
    known = {kind.__name__: kind for kind in _kinds(TaskSpec)}
    if name not in known:
        raise ValueError(
            f"{where}: the samples are of the label kind {name}, which is not known here. Name its class in "
            "`classes`, as package.module.Class."
        )
    return known[name]


def _kinds(base: type[TaskSpec]) -> Iterator[type[TaskSpec]]:
    """All label kinds that are imported, those that a config names in `classes` included."""
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
