"""Slices of volumes, NIfTI or DICOM, with what is known of the whole volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key, with_statistics
from umedpt_lightning.data.formats.table import read_table
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.types import ClassSpec, RegressionSpec, Sample


class SliceReader(ImageReader[VolumeImages]):
    """What the readers of slices share: all slices of a volume belong together."""

    _of_volumes: NDArray[np.str_] | None = None

    @property
    def groups(self) -> NDArray[np.str_]:
        """As `Reader.groups`: of each slice that of its volume, else the volume itself."""
        of_volumes = self._of_volumes
        if of_volumes is None:
            of_volumes = np.array([str(volume.path) for volume in self._images.volumes])
        result: NDArray[np.str_] = of_volumes[self._images.owners]  # made anew: as many long texts would fill memory
        return result


class VolumeClasses(SliceReader):
    """One class a volume, which is that of all its slices, from a column of class names.

    Args:
        file: The table, CSV with a header or Parquet (``.parquet``, with the extra ``parquet``); one row a volume.
        split: Which part: the rows with this text in the column `split_column`; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices; None for those of the whole file in natural order, so that
            all parts agree.
        slices: How volumes are cut; None all axial slices as stored.
        intensity: What becomes 0 and 1, as float32: ``{low: -160, high: 240}``, ``{level: 40, width: 400}``, or
            percentiles of the volume ``{lower: 0.5, upper: 99.5}``; None keeps the intensities.
        path: Column of NIfTI files, DICOM files, or folders of one DICOM series each.
        split_column: Column that says the part.
        root: Folder that relative paths start from; None the file's own.
        channels: 3 to repeat single slices; None as many as slices an image.
        value_range: The intensities that become 0 and 1 where `intensity` is None; None the full range of uint8 or
            uint16.
        group: Column of patients, centres or whatever else must not be parted by a split; None where every volume is of
            its own.

    Raises:
        FileNotFoundError: The table or volumes are missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: The table or a volume cannot be used; the message names the row or the file.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        label: str = "label",
        classes: list[str] | None = None,
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        table = read_table(file, split, [label], path, split_column, root, group)
        self._of_volumes = table.groups(group)
        names = check_names(
            sorted(table.everywhere[label] - {""}, key=natural_key) if classes is None else classes, "classes", file
        )
        of_volumes = class_indices(table.columns[label], names, table.rows, file)
        self._images = VolumeImages(table.paths(path), slices, intensity, channels, value_range, file)
        self.targets = of_volumes[self._images.owners]
        spec = ClassSpec(channels=self._images.channels, value_range=self._images.value_range, classes=names)
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The slice ``(H, W, C)`` with the class index of its volume."""
        index = self._at(index)
        image, size = self._images.read(index)
        return Sample(image, int(self.targets[index]), self._images.name(index), size)


class VolumeNumbers(SliceReader):
    """One or several numbers a volume, which are those of all its slices, from one column a quantity.

    Args:
        file: As for `VolumeClasses`.
        split: As for `VolumeClasses`.
        quantities: Columns and their units, such as ``{age: years, ratio: ""}``; cells are empty where unknown.
        slices: As for `VolumeClasses`.
        intensity: As for `VolumeClasses`.
        path: As for `VolumeClasses`.
        split_column: As for `VolumeClasses`.
        root: As for `VolumeClasses`.
        channels: As for `VolumeClasses`.
        value_range: As for `VolumeClasses`.
        group: As for `VolumeClasses`.

    Raises:
        FileNotFoundError: The table or volumes are missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: The table or a volume cannot be used, or a quantity is known of no volume.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        quantities: dict[str, str],
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        names = check_names(quantities, "quantities", file, most=None)
        table = read_table(file, split, list(names), path, split_column, root, group)
        self._of_volumes = table.groups(group)
        of_volumes = table.numbers(names, "a number, or nothing where it is unknown")
        self._images = VolumeImages(table.paths(path), slices, intensity, channels, value_range, file)
        self.targets = of_volumes[self._images.owners]
        spec = RegressionSpec(
            channels=self._images.channels,
            value_range=self._images.value_range,
            quantities=names,
            units=tuple(quantities.values()),
        )
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The slice ``(H, W, C)`` with ``(Q,)`` float32 of its volume, NaN where unknown."""
        index = self._at(index)
        image, size = self._images.read(index)
        return Sample(image, self.targets[index].copy(), self._images.name(index), size)
