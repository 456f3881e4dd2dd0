"""The images that sources consist of: an image is one, a volume has slices, a slide has tiles."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.data.inputs.sources import Source
from umedpt_lightning.data.slide.tiles import TileImages, Tiles
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.types import TaskSpec

_FULL_RANGES = {(0.0, 255.0): np.dtype(np.uint8), (0.0, 65535.0): np.dtype(np.uint16)}
_LETTERS = {"sagittal": "x", "coronal": "y", "axial": "z"}


@dataclass(frozen=True)
class Cut:
    """How volumes and slides become images, as in the data that a task was trained on.

    Attributes:
        slices: Of volumes.
        intensity: What becomes 0 and 1 in volumes; None keeps the stored intensities.
        tiles: Of slides.
    """

    slices: Slices = field(default_factory=Slices)
    intensity: Intensity | None = None
    tiles: Tiles = field(default_factory=Tiles)


class Pieces(Dataset[NDArray[Any]]):
    """All images of some sources, in their order, with the channels, size and intensities of a task.

    What is known of the sources is kept in a few arrays: lists would be copied into every forked worker.

    Args:
        sources: At least one.
        spec: Of the task.
        size: Height and width that images are resized to, as in training; None keeps them.
        cut: How volumes and slides are cut.
        skip_bad: Leave out volumes and slides that cannot be opened.

    Attributes:
        skipped: What was wrong with those.

    Raises:
        ImportError: A library that reads them is missing.
        ValueError: A volume or a slide cannot be used, and `skip_bad` is off; or nothing is left.
    """

    def __init__(
        self, sources: Sequence[Source], spec: TaskSpec, size: tuple[int, int] | None, cut: Cut, skip_bad: bool = False
    ) -> None:
        self._spec, self._size, self._cut = spec, size, cut
        self._cuts: dict[int, VolumeImages | TileImages] = {}
        self.skipped: list[str] = []
        taken: list[Source] = []
        faults: list[str] = []
        for source in sources:
            if source.kind != "image":
                try:
                    self._cuts[len(taken)] = self._open(source)
                except (ValueError, OSError) as error:
                    (self.skipped if skip_bad else faults).append(str(error))
                    continue
            taken.append(source)
        if faults or not taken:
            raise ValueError("\n".join(faults or ["Nothing is left that can be read:", *self.skipped]))
        self._ids = np.array([source.id.encode() for source in taken])
        self._groups = np.array([source.group.encode() for source in taken])
        self._files = np.array([os.fsencode(source.file) for source in taken])
        counts = [len(self._cuts[i]) if i in self._cuts else 1 for i in range(len(taken))]
        self._first = np.concatenate([[0], np.cumsum(counts)])  # images of source i are first[i] to first[i + 1]

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> NDArray[Any]:
        """The image ``(H, W, C)``, intensities as the task's data are stored.

        Raises:
            ValueError: It cannot be read, or is not like the data of the task; the message names the file.
        """
        number, piece = self._place(index)
        path = Path(os.fsdecode(self._files[number].item()))
        match self._cuts.get(number):
            case VolumeImages() as slices:
                image, _ = slices.read(piece)
                if self._cut.intensity is not None:  # 0 to 1, which the task may have stored as something else
                    low, high = self._spec.value_range
                    image = image * np.float32(high - low) + np.float32(low)
            case TileImages() as tiles:
                image = tiles.read(piece)
            case _:
                image = read_image(path, self._spec.channels, windowed=self._spec.value_range in _FULL_RANGES)
        _check(image, self._spec.value_range, str(path))
        return image if self._size is None else _resized(image, self._size)

    def id(self, index: int) -> str:
        """What an image is called: its source, and for a piece its place in it."""
        number, piece = self._place(index)
        name = self._ids[number].item().decode()
        match self._cuts.get(number):
            case VolumeImages() as slices:
                return f"{name}#{_LETTERS[slices.slices.axis]}={slices.places[piece]}"
            case TileImages() as tiles:
                x, y = tiles.places[piece].tolist()
                return f"{name}#x={x},y={y}"
        return str(name)

    def group(self, index: int) -> str:
        """The group of its source."""
        return str(self._groups[self._place(index)[0]].item().decode())

    def digest(self, start: int, stop: int) -> str:
        """A text that changes when a source of these images does, or another one takes its place."""
        result = hashlib.sha256()
        for number in range(self._place(start)[0], self._place(stop - 1)[0] + 1 if stop > start else 0):
            path = Path(os.fsdecode(self._files[number].item()))
            result.update(repr((self._ids[number], self._groups[number], self._first[number].item())).encode())
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                result.update(os.fsencode(file.name) + _state(file))
        return result.hexdigest()[:32]

    def _place(self, index: int) -> tuple[int, int]:
        """The source of an image, and which of its images it is."""
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return number, index - int(self._first[number])

    def _open(self, source: Source) -> VolumeImages | TileImages:
        channels, value_range, cut = self._spec.channels, self._spec.value_range, self._cut
        if source.kind == "slide":
            return TileImages([source.path], cut.tiles, channels, value_range, source.file)
        if cut.intensity is not None:
            return VolumeImages([source.path], cut.slices, cut.intensity, channels, None, source.file)
        if value_range == (0.0, 1.0):
            raise ValueError(
                f"{source.file}: the task takes intensities from 0 to 1, but what became 0 and 1 in its volumes the "
                "model does not say. Give the `intensity` of its training, such as `{low: -160, high: 240}`."
            )
        return VolumeImages([source.path], cut.slices, None, channels, value_range, source.file)


def _state(file: Path) -> bytes:
    """Size and time of change; a file that is gone is told where it is read."""
    try:
        stat = file.stat()
    except OSError:
        return b"\0gone"
    return f"\0{stat.st_size}\0{stat.st_mtime_ns}".encode()


def _check(image: NDArray[Any], value_range: tuple[float, float], name: str) -> None:
    """Raises ValueError where an image ``(H, W, C)`` cannot have been stored like the data of the task."""
    wanted = _FULL_RANGES.get(value_range)
    if wanted is not None and image.dtype != wanted and image.dtype.kind == "u":
        raise ValueError(
            f"{name}: the image is {image.dtype}, but those of the task are {wanted}. Save it with that depth, so that "
            "its darkest and brightest values are those of the task."
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = int(np.count_nonzero(~np.isfinite(image)))
        raise ValueError(f"{name}: {bad} of {image.size} values are NaN or infinite. Fill them, or leave it out.")


def _resized(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """As training resizes: by area where a side shrinks, else linearly."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized[..., None] if resized.ndim == 2 else resized  # OpenCV drops a single channel
