"""Which planes of volumes are samples, and how they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import for_all, raise_all
from umedpt_lightning.data.formats.files import Pieces, full_range
from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.volume.intensity import Intensity, to_unit
from umedpt_lightning.data.volume.series import open_volume
from umedpt_lightning.data.volume.volumes import AXES, Axis, Volume
from umedpt_lightning.io.resize import resized
from umedpt_lightning.types import Sample

#: Percentiles are taken of so many planes, evenly spaced: those of all would need the whole volume.
_PERCENTILE_PLANES = 32


@dataclass(frozen=True)
class Slices:
    """How volumes are cut into images.

    Images are as radiologists see them: top is the front (axial) or the top of the patient, left is the patient's
    right (sagittal: the front).

    Attributes:
        axis: The planes.
        spacing: Size of the pixels in mm, or height and width of them; None as stored. Images shrink by area and grow
            linearly, masks by nearest pixel.
        every: mm from one slice to the next; None takes all that are stored.
        neighbours: So many slices on each side become channels, in the order of the patient's left to right, back to
            front, or bottom to top. At the ends the last slice is repeated.
        distance: mm between these channels, of which the nearest stored slices are taken; None the stored neighbours.

    Raises:
        ValueError: A number is not positive, or there is a distance without neighbours.
    """

    axis: Axis = "axial"
    spacing: float | tuple[float, float] | None = None
    every: float | None = None
    neighbours: int = 0
    distance: float | None = None

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"slices: axis is {self.axis!r}, but it must be one of {list(AXES)}.")
        pixel = self.spacing if isinstance(self.spacing, Sequence) else (self.spacing,)
        for name, values in {"spacing": pixel, "every": (self.every,), "distance": (self.distance,)}.items():
            if any(value is not None and not value > 0 for value in values):
                raise ValueError(f"slices: {name} is {getattr(self, name)}, but it must be mm above 0.")
        if self.neighbours < 0:
            raise ValueError(f"slices: neighbours is {self.neighbours}, but it must be 0 or more on each side.")
        if self.distance is not None and not self.neighbours:
            raise ValueError("slices: distance is that between neighbours. Write `neighbours: 1`, or leave it out.")

    @property
    def channels(self) -> int:
        """Slices an image."""
        return 2 * self.neighbours + 1

    def taken(self, volume: Volume) -> NDArray[np.int32]:
        """Indices of the slices of a volume, along the RAS axis; raises ValueError where each would be a line."""
        axis = AXES[self.axis]
        count, thickness = volume.shape[axis], volume.spacing[axis]
        flat = [name for name, across in AXES.items() if volume.shape[across] == 1]
        if len(flat) == 1 and self.axis not in flat:
            raise ValueError(
                f"{volume.path}: its only plane is {flat[0]}, but slices are to be {self.axis}, so that each would be "
                f"a line. Write `slices: {{axis: {flat[0]}}}`."
            )
        if self.every is None:
            return np.arange(count, dtype=np.int32)
        # in the middle of each piece of that length, the pieces in the middle of the volume
        pieces = max(1, int(count * thickness / self.every + 1e-6))
        places = count / 2 + (np.arange(pieces) - (pieces - 1) / 2) * self.every / thickness
        return np.unique(np.clip(np.floor(places + 1e-6), 0, count - 1)).astype(np.int32)

    def stack(self, volume: Volume, index: int) -> NDArray[Any]:
        """The slice at `index` with its neighbours, ``(H, W, channels)``, as stored."""
        axis = AXES[self.axis]
        last, thickness = volume.shape[axis] - 1, volume.spacing[axis]
        steps = np.arange(-self.neighbours, self.neighbours + 1)
        offsets = steps if self.distance is None else np.rint(steps * self.distance / thickness).astype(int)
        places = np.clip(index + offsets, 0, last).tolist()
        planes = {place: upright(volume.plane(axis, place)) for place in set(places)}
        return np.stack([planes[place] for place in places], axis=-1)

    def stored_size(self, volume: Volume) -> tuple[int, int]:
        """Height and width of a slice as it is stored, pixels."""
        columns, rows = (n for axis, n in enumerate(volume.shape) if axis != AXES[self.axis])
        return rows, columns

    def resize(self, image: NDArray[Any], volume: Volume, *, mask: bool) -> NDArray[Any]:
        """An image ``(H, W, C)`` or a mask ``(H, W)`` of a volume with pixels of the size that was asked for."""
        if self.spacing is None:
            return image
        wanted = self.spacing if isinstance(self.spacing, Sequence) else (self.spacing, self.spacing)
        columns, rows = np.delete(volume.spacing, AXES[self.axis])  # mm
        old = image.shape[:2]
        new = [max(1, round(n * mm / want)) for n, mm, want in zip(old, (rows, columns), wanted, strict=True)]
        if mask:
            return resized(image, new[0], new[1], cv2.INTER_NEAREST_EXACT)
        image = resized(image, min(old[0], new[0]), min(old[1], new[1]), cv2.INTER_AREA)
        return resized(image, new[0], new[1], cv2.INTER_LINEAR)


class VolumeImages(Pieces):
    """The slices of many volumes: NIfTI files, or DICOM files or folders, which `source` names.

    Args:
        slices: How they are cut; None all axial slices.
        intensity: What becomes 0 and 1; None keeps the stored intensities.
        channels: 3 to repeat a single slice; None as many as slices an image.
        value_range: The intensities that become 0 and 1 where `intensity` is None; None the full range of uint8 or
            uint16.

    Raises:
        FileNotFoundError: A volume is missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: There are no volumes, one cannot be used, or two do not go together.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        slices: Slices | None,
        intensity: Intensity | None,
        channels: int | None,
        value_range: tuple[float, float] | None,
        source: object,
    ) -> None:
        if not paths:
            raise ValueError(f"{source}: there are no volumes here. Correct the path, or leave this part out.")
        self.slices = slices or Slices()
        self.volumes = for_all(open_volume, paths)
        self._cut(self.volumes, [self.slices.taken(volume) for volume in self.volumes])
        self.channels = self.slices.channels if channels is None else channels
        if self.channels != self.slices.channels and (self.slices.channels, channels) != (1, 3):
            raise ValueError(
                f"{source}: `channels: {channels}` was asked for, but {self.slices.channels} slices make up an image. "
                "Leave `channels` out, or write 3 to repeat single slices."
            )
        self._intensity = intensity
        self.cut = {"slices": asdict(self.slices), **({} if intensity is None else {"intensity": asdict(intensity)})}
        self._limits: dict[int, tuple[float, float]] = {}
        if intensity is None:
            self.value_range = self._stored_range(value_range)
        elif value_range is None:
            self.value_range = (0.0, 1.0)
        else:
            raise ValueError(
                f"{source}: `intensity` already says what becomes 0 and 1. Leave `value_range` out, or `intensity`."
            )

    def name(self, index: int) -> str:
        """As `Images.name`: the volume, and the slice in it."""
        return f"{self.volumes[self.owners[index]].path}[{self.slices.axis} {self.places[index]}]"

    def read(self, index: int) -> tuple[NDArray[Any], tuple[int, int]]:
        """The image ``(H, W, C)``, and its height and width as stored; raises ValueError where it cannot be read."""
        owner = int(self.owners[index])
        volume = self.volumes[owner]
        image = self.slices.stack(volume, int(self.places[index]))
        size = (image.shape[0], image.shape[1])
        if self._intensity is not None:
            if owner not in self._limits:
                self._limits[owner] = self._intensity.limits(lambda: self._planes(volume))
            image = to_unit(image, self._limits[owner])
        if volume.padded:  # padding is background: what becomes 0
            dtype = volume.dtype if self._intensity is None else image.dtype
            low = self.value_range[0] if dtype.kind == "f" else max(self.value_range[0], 0)
            image = np.where(np.isnan(image), low, image).astype(dtype)
        image = self.slices.resize(image, volume, mask=False)
        return np.ascontiguousarray(to_channels(image, self.channels, self.name(index))), size

    def sample(self, index: int) -> Sample:
        """As `Images.sample`."""
        image, size = self.read(index)
        return Sample(image, None, self.name(index), size)

    def _planes(self, volume: Volume) -> NDArray[Any]:
        axis = AXES[self.slices.axis]
        count = volume.shape[axis]
        places = np.unique(np.linspace(0, count - 1, min(count, _PERCENTILE_PLANES)).round().astype(int))
        return np.stack([volume.plane(axis, int(place)) for place in places])

    def _stored_range(self, value_range: tuple[float, float] | None) -> tuple[float, float]:
        first = self.volumes[0]
        raise_all(
            [
                ValueError(
                    f"{volume.path}: {volume.dtype}, but the first volume ({first.path}) is {first.dtype}. Say what "
                    "becomes 0 and 1 with `intensity`, such as `{low: -160, high: 240}` or `{lower: 0.5, upper: 99.5}`."
                )
                for volume in self.volumes
                if volume.dtype != first.dtype
            ]
        )
        if value_range is None and first.dtype == np.float32:
            raise ValueError(
                f"{first.path}: the intensities of volumes have no natural range. Write `intensity: {{low: -160, "
                "high: 240}` (in Hounsfield units), `{level: 40, width: 400}`, or `{lower: 0.5, upper: 99.5}` (percent "
                "of the voxels, for MRI)."
            )
        return full_range(first.dtype, value_range, str(first.path))


def upright(plane: NDArray[Any]) -> NDArray[Any]:
    """A plane in RAS order as a picture, seen as radiologists do: see `Slices`."""
    return plane[::-1, ::-1].T


def laid_down(picture: NDArray[Any]) -> NDArray[Any]:
    """A picture as a plane in RAS order: what `upright` has done, undone."""
    return picture.T[::-1, ::-1]
