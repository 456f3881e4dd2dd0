"""Slices of volumes, NIfTI or DICOM, with the slices of label volumes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from umedpt_lightning.data.formats.files import check_pairs, walk
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import check_folder, composed
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.data.volume.dicom_file import SUFFIXES, is_dicom
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.label_volumes import LabelVolumes
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.data.volume.volume_files import volume_suffix
from umedpt_lightning.types import MaskSpec, Sample


class VolumeMasks(ImageReader[VolumeImages]):
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
        self._masks = LabelVolumes(self._images, rows.paths(mask), classes, ignore, rows.file)
        self.spec = _mask_spec(self._images, self._masks, foreground_only)

    def __getitem__(self, index: int) -> Sample:
        """The slice ``(H, W, C)`` with its mask ``(H, W)`` int16."""
        return self._masks.sample(self._at(index))


class VolumeMaskFolders(ImageReader[VolumeImages]):
    """One class a voxel: the labels of ``images/a.nii.gz``, or of the series in ``images/a``, are ``masks/a.nii``.

    Args:
        images: Folder of NIfTI files, DICOM files, or folders of one DICOM series each.
        masks: Folder of NIfTI label volumes, one a volume.
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
        self._folders = Path(images), Path(masks)
        image_of, mask_of = map(_by_name, self._folders)
        check_pairs(image_of, mask_of, images, masks)
        self._images = VolumeImages(list(image_of.values()), slices, intensity, channels, value_range, images)
        self._masks = LabelVolumes(self._images, [mask_of[name] for name in image_of], classes, ignore, masks)
        self.spec = _mask_spec(self._images, self._masks, foreground_only)

    def __getitem__(self, index: int) -> Sample:
        """The slice ``(H, W, C)`` with its mask ``(H, W)`` int16."""
        return self._masks.sample(self._at(index))

    def found(self) -> Iterable[Path]:
        """As `Reader.found`."""
        return chain.from_iterable(map(walk, self._folders))


def _mask_spec(images: VolumeImages, masks: LabelVolumes, foreground_only: bool) -> MaskSpec:
    if foreground_only:
        images.keep(masks.with_foreground())
    return MaskSpec(channels=images.channels, value_range=images.value_range, cut=images.cut, classes=masks.classes)


def _by_name(folder: Path) -> dict[str, Path]:
    """The volumes of a folder by name without suffix, in natural order."""
    check_folder(folder)
    result: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        suffix = volume_suffix(path)
        if path.name.startswith(".") or not (path.is_dir() or suffix or is_dicom(path)):
            continue
        name = path.name
        if not path.is_dir():
            name = name[: -len(suffix)] if suffix else path.stem if path.suffix.lower() in SUFFIXES else name
        other = result.setdefault(composed(name), path)
        if other != path:
            raise ValueError(f"{path} and {other} have one name. Rename or remove one of them.")
    return result
