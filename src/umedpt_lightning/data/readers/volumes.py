"""Slices of volumes, NIfTI or DICOM, with what is known of the whole volume or of each voxel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from umedpt_lightning.data.formats.columns import ClassColumn, LabelColumns, NumberColumns
from umedpt_lightning.data.formats.files import check_pairs, one_by_name
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import check_folder, composed
from umedpt_lightning.data.formats.patterns import by_wildcards, is_pattern
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import ImageReader, RowReader
from umedpt_lightning.data.volume.dicom_file import SUFFIXES, is_dicom
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.label_volumes import LabelVolumes
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.data.volume.volume_files import volume_suffix
from umedpt_lightning.types import MaskSpec, Sample, SampleTarget


class VolumeClasses(RowReader[VolumeImages]):
    """One class a volume, which is that of all its slices, from a column of class names.

    Args:
        table: The table's file, or a `Table` where its columns have other names than usual. One row a volume: a NIfTI
            file, a DICOM file, or a folder of one DICOM series.
        split: Which part: the rows with this text in the column of parts; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices, or what the table calls each, as ``{AP: ap, PA: [pa, pa2]}``;
            None for those of the whole file in natural order, so that all parts agree.
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
        classes: list[str | int] | dict[str, str | list[str]] | None = None,
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._read(table, split, ClassColumn(label, classes), VolumeImages, slices, intensity, channels, value_range)


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

    Raises what `VolumeClasses` does.
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
        self._read(table, split, LabelColumns(labels), VolumeImages, slices, intensity, channels, value_range)


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

    Raises what `VolumeClasses` does, and ValueError for a quantity that is known of no volume.
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
        self._read(table, split, NumberColumns(quantities), VolumeImages, slices, intensity, channels, value_range)


class _VolumeMaskReader(ImageReader[VolumeImages]):
    _masks: LabelVolumes

    def _take(self, masks: LabelVolumes, foreground_only: bool) -> None:
        self._masks = masks
        if foreground_only:
            masks.keep_foreground()
        self.spec = MaskSpec(**self._images.facts, classes=masks.classes)

    def __getitem__(self, index: int) -> Sample:
        """The slice ``(H, W, C)`` with its mask ``(H, W)`` int16."""
        index = self._at(index)
        sample = self._images.sample(index)
        sample.target, sample.stored_target = self._masks.read(index)
        return sample

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return self._masks.read(index)[0]


class VolumeMasks(_VolumeMaskReader):
    """One class a voxel, from a column of NIfTI label volumes.

    Args:
        table: As for `VolumeClasses`.
        split: As for `VolumeClasses`.
        classes: Names of the classes stored as 0, 1, ..., the background first; or a stored value for each name, such
            as ``{background: 0, tumour: 4}``.
        mask: Column of label volumes, which may be stored in another orientation than their image.
        ignore: The stored value of unlabelled voxels; None if every voxel is labelled.
        foreground_only: Leave out slices with background only; reads all label volumes once.
        slices: As for `VolumeClasses`.
        intensity: As for `VolumeClasses`.
        channels: As for `VolumeClasses`.
        value_range: As for `VolumeClasses`.

    Raises:
        FileNotFoundError: The table, volumes or labels are missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: The table or a volume cannot be used, or image and labels differ in shape or place.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        classes: list[str | int] | dict[str, int],
        mask: str = "mask",
        ignore: int | None = None,
        foreground_only: bool = False,
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [mask])
        self._of_rows = rows.groups()
        self._images = VolumeImages(rows.paths(), slices, intensity, channels, value_range, rows.file)
        self._take(LabelVolumes(self._images, rows.paths(mask), classes, ignore, rows.file), foreground_only)


class VolumeMaskFolders(_VolumeMaskReader):
    """One class a voxel: the labels of ``images/a.nii.gz``, or of the series in ``images/a``, are ``masks/a.nii``.

    Args:
        images: Folder of NIfTI files, DICOM files, or folders of one DICOM series each. Or a pattern of files such as
            ``*/*_flair.nii.gz``.
        masks: Folder of NIfTI label volumes, one a volume. Or a pattern such as ``*/*_seg.nii.gz``: a pair has the same
            in place of the wildcards.
        classes: As for `VolumeMasks`.
        ignore: As for `VolumeMasks`.
        foreground_only: As for `VolumeMasks`.
        slices: As for `VolumeClasses`.
        intensity: As for `VolumeClasses`.
        channels: As for `VolumeClasses`.
        value_range: As for `VolumeClasses`.

    Raises:
        FileNotFoundError: A folder is missing.
        ImportError: nibabel or pydicom is missing.
        ValueError: There are no volumes, images and labels do not pair, or differ in shape or place.
    """

    def __init__(
        self,
        images: Path | str,
        masks: Path | str,
        classes: list[str | int] | dict[str, int],
        ignore: int | None = None,
        foreground_only: bool = False,
        slices: Slices | None = None,
        intensity: Intensity | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        folders = Path(images), Path(masks)
        self._folders = tuple(folder for folder in folders if not is_pattern(folder))
        image_of, mask_of = (by_wildcards(f) if is_pattern(f) else one_by_name(_volumes(f)) for f in folders)
        check_pairs(image_of, mask_of, images, masks)
        self._images = VolumeImages(list(image_of.values()), slices, intensity, channels, value_range, images)
        paths = [mask_of[name] for name in image_of]
        self._take(LabelVolumes(self._images, paths, classes, ignore, masks), foreground_only)


def _volumes(folder: Path) -> Iterator[tuple[str, Path]]:
    """The volumes of a folder by name without suffix, in natural order."""
    check_folder(folder)
    for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        suffix = volume_suffix(path)
        if path.name.startswith(".") or not (path.is_dir() or suffix or is_dicom(path)):
            continue
        name = path.name
        if not path.is_dir():
            name = name[: -len(suffix)] if suffix else path.stem if path.suffix.lower() in SUFFIXES else name
        yield composed(name), path
