"""Slices of volumes, NIfTI or DICOM, with what is known of the whole volume."""

from __future__ import annotations

from pathlib import Path

from umedpt_lightning.data.formats.columns import ClassColumn, LabelColumns, NumberColumns
from umedpt_lightning.data.formats.table import Table
from umedpt_lightning.data.readers.rows import RowReader
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices, VolumeImages


class VolumeClasses(RowReader[VolumeImages]):
    """One class a volume, which is that of all its slices, from a column of class names.

    Args:
        table: The table's file, or a `Table` where its columns have other names than usual. One row a volume: a NIfTI
            file, a DICOM file, or a folder of one DICOM series.
        split: Which part: the rows with this text in the column of parts; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices; None for those of the whole file in natural order, so that
            all parts agree.
        slices: How volumes are cut; None all axial slices as stored.
        intensity: What becomes 0 and 1, as float32: ``{low: -160, high: 240}``, ``{level: 40, width: 400}``, or
            percentiles of the volume ``{lower: 0.5, upper: 99.5}``; None keeps the intensities.
        channels: 3 to repeat single slices; None as many as slices an image.
        value_range: The intensities that become 0 and 1 where `intensity` is None; None the full range of uint8 or
            uint16.

    Raises:
        FileNotFoundError: The table or volumes are missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: The table or a volume cannot be used; the message names the row or the file.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        label: str = "label",
        classes: list[str | int] | None = None,
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        columns = ClassColumn(label, classes)
        cut = slices, intensity, channels, value_range
        self._read(table, split, columns, lambda paths, file: VolumeImages(paths, *cut, file))


class VolumeLabels(RowReader[VolumeImages]):
    """Any number of labels a volume, which are those of all its slices, from one column a label.

    Args:
        table: As for `VolumeClasses`.
        split: As for `VolumeClasses`.
        labels: Columns, one a label; cells are 1, 0, or empty where unknown.
        slices: As for `VolumeClasses`.
        intensity: As for `VolumeClasses`.
        channels: As for `VolumeClasses`.
        value_range: As for `VolumeClasses`.

    Raises:
        FileNotFoundError: The table or volumes are missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: The table or a volume cannot be used; the message names the row or the file.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        labels: list[str],
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        columns = LabelColumns(labels)
        cut = slices, intensity, channels, value_range
        self._read(table, split, columns, lambda paths, file: VolumeImages(paths, *cut, file))


class VolumeNumbers(RowReader[VolumeImages]):
    """One or several numbers a volume, which are those of all its slices, from one column a quantity.

    Args:
        table: As for `VolumeClasses`.
        split: As for `VolumeClasses`.
        quantities: Columns and their units, such as ``{age: years, ratio: ""}``; cells are empty where unknown.
        slices: As for `VolumeClasses`.
        intensity: As for `VolumeClasses`.
        channels: As for `VolumeClasses`.
        value_range: As for `VolumeClasses`.

    Raises:
        FileNotFoundError: The table or volumes are missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: The table or a volume cannot be used, or a quantity is known of no volume.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        quantities: dict[str, str],
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        columns = NumberColumns(quantities)
        cut = slices, intensity, channels, value_range
        self._read(table, split, columns, lambda paths, file: VolumeImages(paths, *cut, file))
