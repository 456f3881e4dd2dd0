"""Label volumes beside image volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import for_all
from umedpt_lightning.data.formats.masks import MaskValues
from umedpt_lightning.data.formats.missing import check_files
from umedpt_lightning.data.volume.slices import VolumeImages, upright
from umedpt_lightning.data.volume.volume_files import open_volume_file, volume_suffix
from umedpt_lightning.data.volume.volumes import AXES, Volume
from umedpt_lightning.labels.wording import shorten

#: How far a voxel of the labels may lie from that of the image, as a share of the smallest side of a voxel.
_TOLERANCE = 0.1
#: Half a step of a scale, and a little more: the header holds slope and intercept in 32 bits.
_HALF = 0.51
#: Steps of a scale from here on leave labels and values between them indistinguishable.
_COARSE = 0.5
#: Such a scale may still miss 1 by this share, as long as that adds up to no more than the second number.
_SLIGHTLY = 1e-3, 0.1
#: Of float32, relative.
_ROUNDING = 1e-6


class LabelVolumes:
    """The masks of the slices of many volumes, one file a volume, maybe stored in another orientation than the image.

    `classes` and `ignore` are as for `MaskValues`, and `source` names the files.

    Raises:
        FileNotFoundError: A label volume is missing.
        ValueError: One is not of its image's geometry, or the classes cannot be used.
    """

    def __init__(
        self,
        images: VolumeImages,
        paths: Sequence[Path],
        classes: Sequence[str | int] | Mapping[str, int],
        ignore: int | None,
        source: object,
    ) -> None:
        self._values = MaskValues(classes, ignore, source)
        self.classes = self._values.classes
        self._images = images
        check_files(paths, "label volumes", source)
        others = [str(path) for path in paths if not volume_suffix(path)]
        if others:
            raise ValueError(
                f"{source}: label volumes are .nii.gz files and their like, but {shorten(others, 5)} are not. Convert "
                "them (DICOM segmentations for instance with highdicom or 3D Slicer)."
            )
        self._volumes = for_all(open_volume_file, paths)
        for_all(lambda pair: _check_geometry(*pair), zip(images.volumes, self._volumes, strict=True))

    def read(self, index: int) -> tuple[NDArray[np.int16], NDArray[np.int16] | None]:
        """The mask ``(H, W)`` of class indices and `IGNORE_INDEX` of a slice; and as stored, where it was resampled.

        Raises ValueError where it cannot be read, or holds other values.
        """
        owner, place = int(self._images.owners[index]), int(self._images.places[index])
        stored = np.ascontiguousarray(upright(self._plane(owner, place)))
        mask = np.ascontiguousarray(self._images.slices.resize(stored, self._images.volumes[owner], mask=True))
        return mask, None if mask.shape == stored.shape else stored

    def keep_foreground(self) -> None:
        """Leaves out slices with no other class than the first; reads all label volumes.

        Raises ValueError where none is left, or a label volume cannot be used.
        """
        slices = zip(self._images.owners.tolist(), self._images.places.tolist(), strict=True)
        planes = (self._plane(owner, place) for owner, place in slices)
        self._images.keep(
            np.fromiter(((p > 0).any() for p in planes), np.bool_, len(self._images)),
            f"{self._volumes[0].path} and all other label volumes hold no class but {self.classes[0]}. Correct "
            "`classes`, or leave `foreground_only` out.",
        )

    def _plane(self, owner: int, place: int) -> NDArray[np.int16]:
        """Class indices, RAS order."""
        volume = self._volumes[owner]
        stored = volume.plane(AXES[self._images.slices.axis], place)
        name = f"{volume.path}[{self._images.slices.axis} {place}]"
        return self._values.to_indices(_whole(stored, volume.step, name), name)


def _whole(stored: NDArray[Any], step: float, name: str) -> NDArray[Any]:
    """Labels as unsigned integers: many tools store them as floats, or as steps of a scale that hardly meet integers.

    A label was rounded to the nearest step, so it may be half a step away (0: values as they are), if that still
    tells it from a value between two labels.
    """
    if stored.dtype.kind == "u":
        return stored
    nearest: NDArray[Any] = np.rint(stored)
    with np.errstate(invalid="ignore"):  # NaN and negative numbers fail the comparison below
        whole: NDArray[np.uint16] = nearest.astype(np.uint16)
    share, most = _SLIGHTLY if step >= _COARSE else (0.0, np.inf)
    tolerance = np.minimum((_ROUNDING + share) * np.maximum(np.abs(nearest), 1), most) + (
        _HALF * step if step < _COARSE else 0.0
    )
    wrong = ~((whole == nearest) & (np.abs(stored - nearest) <= tolerance))
    if wrong.any():
        scale = f" (in steps of {step:.3g})" if step else ""
        raise ValueError(
            f"{name}: labels are whole numbers from 0 to 65535, but this slice holds "
            f"{shorten(np.unique(stored[wrong]).tolist(), 5)}{scale}. Save classes as integers without a scale, and "
            "resample labels by nearest neighbour."
        )
    return whole


def _check_geometry(image: Volume, labels: Volume) -> None:
    if image.shape != labels.shape:
        raise ValueError(
            f"{labels.path}: the labels are {labels.shape} voxels (to the right, front, top), but their image "
            f"{image.path} is {image.shape}. Resample the labels to the image by nearest neighbour, or pair them right."
        )
    ends = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], np.float64)
    ends[:, :3] *= np.array(image.shape) - 1
    apart = float(np.linalg.norm(ends @ (image.affine - labels.affine)[:3].T, axis=1).max())  # mm
    if apart > _TOLERANCE * image.spacing.min():
        raise ValueError(
            f"{labels.path}: the labels lie up to {apart:.3g} mm away from their image {image.path} (voxels of "
            f"{image.spacing.round(3).tolist()} and {labels.spacing.round(3).tolist()} mm, origins "
            f"{image.affine[:3, 3].round(2).tolist()} and {labels.affine[:3, 3].round(2).tolist()}). Resample the "
            "labels to the image, or, if they are right voxel by voxel, give them its affine."
        )
