"""Samples that are decoded once for all processes of a machine."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.cache_folders import Place, SharedFolder, is_first
from umedpt_lightning.data.cache.identity import identity
from umedpt_lightning.data.cache.sample_file import pack, unpack
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.types import PackedArray, Sample

#: Share of the file system that is left free: workers hand over their batches in the same memory.
_MARGIN = {"ram": 0.25, "disk": 0.05}
#: Share of the machine's memory that is left free; a file system in memory may be promised more than there is.
_MEMORY_MARGIN = 0.1
#: Files in a folder: many more make some file systems slow.
_FOLDER = 1000


class CachedReader(Reader):
    """Another reader's samples, kept as it gives them, decoded, one file each.

    The first process that needs a sample decodes and keeps it; all others, other workers and ranks of the machine
    included, read it from there. What is kept belongs to the reader as it is now, see `identity`: if a file, a label or
    an option has changed since, everything is decoded anew. That is looked at when the cache is made, so files must not
    change while a run uses them. When the place gets full, no more is kept, with a warning, and what is not there is
    decoded each time.

    Args:
        reader: Whose samples.
        place: In memory (until the run ends), or on disk (for later runs too), see `SharedFolder`.

    Raises:
        ValueError: The place cannot be used, or the reader not be pickled.
    """

    def __init__(self, reader: Reader, place: Place) -> None:
        self._reader, self._place = reader, place
        self._folder = SharedFolder(place, identity(reader))
        self._full = False
        (self._folder.path / "full").unlink(missing_ok=True)  # of an earlier run
        self.spec, self.targets = reader.spec, reader.targets

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`."""
        index = self._at(index)
        path = self._path(index)
        sample = unpack(path)
        if sample is None:
            sample = self._reader[index]
            if not self._full:
                self._keep(sample, path)
        return sample

    def ahead(self, indices: Sequence[int]) -> None:
        """Those that are not kept yet."""
        self._reader.ahead([index for index in map(self._at, indices) if not self._path(index).exists()])

    def name(self, index: int) -> str:
        """As the reader's."""
        return self._reader.name(index)

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As the reader's."""
        return self._reader.groups

    @property
    def places(self) -> NDArray[np.float32] | None:
        """As the reader's."""
        return self._reader.places

    def _path(self, index: int) -> Path:
        return self._folder.path / str(index // _FOLDER) / str(index)

    def _keep(self, sample: Sample, path: Path) -> None:
        truth = sample.stored_target
        if isinstance(truth, np.ndarray):
            truth = PackedArray.of(self.spec.prepared(truth, truth.shape[:2]))
        pieces = pack(replace(sample, stored_target=truth))
        try:
            if not _has_room(self._folder.path, self._place, sum(map(len, pieces))):
                raise OSError(f"it is full to the margin of {_MARGIN[self._place]:.0%}")
            with atomic_write(path) as unfinished, unfinished.open("wb") as stream:
                stream.writelines(pieces)
        except OSError as error:
            self._full = True
            if is_first(self._folder.path / "full"):
                warnings.warn(
                    f"cache: {self._place} keeps no more samples in {self._folder.path} ({error}). The others are "
                    "decoded each time. Make room, or write `cache: none` for large tasks.",
                    stacklevel=2,
                )


def _has_room(folder: Path, place: Place, size: int) -> bool:
    usage = shutil.disk_usage(folder)
    if usage.free - size < _MARGIN[place] * usage.total:
        return False
    if place == "disk":
        return True
    total, available = _memory()
    return available - size >= _MEMORY_MARGIN * total


def _memory() -> tuple[int, int]:
    """Bytes of memory that the machine has, and that are free or can be freed."""
    lines: dict[str, Any] = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemTotal"].split()[0]) << 10, int(lines["MemAvailable"].split()[0]) << 10
