"""How a task opens files: as the reader of its training did, unless something else is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.slide.tiles import TileImages, Tiles
from umedpt_lightning.data.volume.dicom_file import is_dicom
from umedpt_lightning.data.volume.intensity import Intensity, Level, Percentiles, Window
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.data.volume.volumes import AXES
from umedpt_lightning.inference.input_files import InputFile, Preference
from umedpt_lightning.io.arrays import scale_warning
from umedpt_lightning.types import TaskSpec

_FULL_RANGES: dict[tuple[float, float], np.dtype[Any]] = {
    (0.0, 255.0): np.dtype(np.uint8),
    (0.0, 65535.0): np.dtype(np.uint16),
}
T = TypeVar("T")
_LETTERS = {"sagittal": "x", "coronal": "y", "axial": "z"}


@dataclass(frozen=True)
class Opening:
    """How a task opens files.

    Attributes:
        spec: What its data say of themselves.
        size: Height and width that images are resized to, as in training; None keeps them.
        slices: How volumes are cut.
        intensity: What becomes 0 and 1 in volumes; None keeps the stored intensities.
        tiles: How slides are cut; None where nothing says it.
        preference: What a file is taken for that could be several things.
        at_once: Images with more pixels are left to be seen by tiles; None for none.
    """

    spec: TaskSpec
    size: tuple[int, int] | None = None
    slices: Slices = field(default_factory=Slices)
    intensity: Intensity | None = None
    tiles: Tiles | None = None
    preference: Preference = field(default_factory=Preference)
    at_once: int | None = None

    @classmethod
    def as_trained(
        cls,
        spec: TaskSpec,
        size: tuple[int, int] | None,
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        tiles: Tiles | None = None,
    ) -> Opening:
        """As the task was trained, but for what is asked for.

        Raises:
            ValueError: What the model says of its training cannot be.
        """
        # intensities that are asked for are those of volumes; they make none of what is known to have been an image
        volumes = slices is not None or (intensity is not None and "images" not in spec.cut)
        preference = Preference("slices" in spec.cut or volumes, "tiles" in spec.cut or tiles is not None)
        if slices is None:  # every slice, but of a bag those that it had; axial ones if it was trained on no volumes
            slices = _made(Slices, spec.cut.get("slices", {}), "slices")
            slices = slices if spec.bag else replace(slices, every=None)
        if intensity is None and (options := spec.cut.get("intensity")):
            kinds: dict[str, Callable[..., Intensity]] = {"low": Window, "level": Level, "lower": Percentiles}
            intensity = _made(kinds.get(min(options), Window), options, "intensity")
        if tiles is None and "tiles" in spec.cut:
            tiles = _made(Tiles, spec.cut["tiles"], "tiles")
        return cls(spec, size, slices, intensity, tiles, preference)

    @property
    def windowed(self) -> bool:
        """Whether DICOM images are shown through the window of their file."""
        recorded = self.spec.cut.get("images", {}).get("windowed")
        return self.spec.value_range in _FULL_RANGES if recorded is None else bool(recorded)  # of models of before

    def warn_of_images(self, files: Iterable[InputFile], intensity: Intensity | None) -> None:
        """Warns where intensities were asked for, but DICOM files are read as images, which have none to choose."""
        images = (file for file in files if file.kind == "image" and is_dicom(file.path))
        if intensity is not None and not self.preference.volumes and (first := next(images, None)):
            warnings.warn(
                f"The task was trained on images: {first.file} and its like are read as such, with the intensities of "
                "the training; those that were asked for are for volumes. An axis makes a volume of a folder's slices.",
                stacklevel=2,
            )

    def open(self, file: InputFile) -> OpenFile:
        """The images of a file that is not a single one.

        Raises:
            ImportError: A library that reads it is missing.
            ValueError: It cannot be used, or nothing says how the task should see it.
        """
        return SlideTiles(self, file) if file.kind == "slide" else VolumeSlices(self, file)

    def is_single(self, file: InputFile) -> bool:
        """Whether a file is one image; a task of volumes refuses DICOM images without a place, as in training."""
        return file.kind == "image" and not ("slices" in self.spec.cut and is_dicom(file.path))

    def tiles_of(self, file: InputFile) -> Tiles:
        """How a slide is cut.

        Raises:
            ValueError: Nothing says it.
        """
        if self.tiles is None:
            raise ValueError(
                f"{file.file}: the task was not trained on slides, so that it is not known how large its pixels are. "
                "Say it in µm: --mpp of `umedpt predict`, --tiles.mpp of `umedpt embed`."
            )
        return self.tiles

    def seen(self, stored: NDArray[Any], name: str) -> NDArray[Any]:
        """An image ``(H, W, C)`` with the channels of the task.

        Raises:
            ValueError: As for `check`.
        """
        self.check(stored, name)
        return to_channels(stored, self.spec.channels, name)

    def check(self, image: NDArray[Any], name: str) -> None:
        """Holds that an image ``(H, W, C)`` was stored like the data of the task.

        Raises:
            ValueError: It was not; the message begins with the name.
        """
        to_channels(image[:1, :1], self.spec.channels, name)
        recorded = self.spec.cut.get("images", {}).get("dtype")
        wanted = np.dtype(str(recorded)) if recorded else _FULL_RANGES.get(self.spec.value_range)
        if image.dtype.kind == "f":
            _check_finite(image, name)
            if warning := scale_warning(image, self.spec.value_range, name):
                warnings.warn(warning, stacklevel=2)
        elif wanted is not None and wanted.kind == "u" and image.dtype != wanted:
            raise ValueError(
                f"{name}: the image is {image.dtype}, but those of the task are {wanted}. Save it with that depth, so "
                "that its darkest and brightest values are those of the task."
            )
        elif "intensity" in self.spec.cut:
            raise ValueError(
                f"{name}: the task was trained on volumes, in which {self.spec.cut['intensity']} became "
                f"{self.spec.value_range[0]:g} and {self.spec.value_range[1]:g}, but the image holds {image.dtype}, of "
                "which nothing says what they measure. Give the NIfTI file or the DICOM series."
            )


class VolumeSlices:
    """The slices of a volume; `images` is the volume, and where it is cut."""

    def __init__(self, opening: Opening, file: InputFile) -> None:
        spec = opening.spec
        self._range = spec.value_range
        self.images = VolumeImages(
            [file.path],
            opening.slices,
            opening.intensity,
            spec.channels,
            spec.value_range if opening.intensity is None else None,
            file.file,
        )
        dtype, full = self.images.volumes[0].dtype, _FULL_RANGES.get(spec.value_range)
        # of bytes in a NIfTI file it is known; what a display window would have made of a series is not
        unknown = full is not None and (dtype != full or file.kind == "dicom")
        if opening.intensity is None and "slices" not in spec.cut and (unknown or spec.value_range == (0.0, 1.0)):
            raise ValueError(
                f"{file.file}: the task was not trained on volumes, so that it is not known which intensities to show "
                "it. Say them, in the volume's unit or in percent: --window LOW HIGH or --percentiles LOWER UPPER of "
                "`umedpt predict`, --intensity '{low: -160, high: 240}' of `umedpt embed`."
            )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[Any]:
        """The image ``(H, W, C)``, intensities as the task's data are stored."""
        image, _ = self.images.read(index)
        _check_finite(image, self.images.name(index))
        if self.images.value_range == self._range:
            return image
        low, high = self._range  # 0 to 1, which the task may have stored as something else
        return image * np.float32(high - low) + np.float32(low)

    def place(self, index: int) -> str:
        """What is added to the file's id, so that it tells its images apart."""
        return f"#{_LETTERS[self.images.slices.axis]}={self.images.places[index]}"

    def columns(self, index: int) -> dict[str, Any]:
        """The place by columns of a table: the number of the slice as it is stored."""
        axis = AXES[self.images.slices.axis]
        return {"slice": self.images.volumes[0].stored_index(axis, int(self.images.places[index]))}


class SlideTiles:
    """The tiles of a slide; `images` is the slide, and where it is cut."""

    def __init__(self, opening: Opening, file: InputFile) -> None:
        tiles, spec = opening.tiles_of(file), opening.spec
        self.images = TileImages([file.path], tiles, spec.channels, spec.value_range, file.file)
        self._opening, self._file = opening, file.file

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[Any]:
        """As `VolumeSlices.read`."""
        return self._opening.seen(self.images.read(index), self._file)

    def place(self, index: int) -> str:
        """As `VolumeSlices.place`."""
        x, y = self.images.places[index].tolist()
        return f"#x={x},y={y}"

    def columns(self, index: int) -> dict[str, Any]:
        """As `VolumeSlices.columns`: the tile in pixels of the slide's finest level."""
        x1, y1, x2, y2 = (round(edge, 3) for edge in self.images.box(index))
        return {"x": x1, "y": y1, "width": round(x2 - x1, 3), "height": round(y2 - y1, 3)}


OpenFile: TypeAlias = VolumeSlices | SlideTiles


def _check_finite(image: NDArray[Any], name: str) -> None:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        bad = int(np.count_nonzero(~np.isfinite(image)))
        raise ValueError(f"{name}: {bad} of {image.size} values are NaN or infinite. Fill them, or leave it out.")


def _made(cls: Callable[..., T], options: Mapping[str, Any], what: str) -> T:
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"The model says of its {what}: {dict(options)}, which cannot be ({error}).") from error
