"""A brain volume as slices that have a place, and the split of places into train, val and test."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.demo.sources import SOURCES, read_nifti

#: The planes and the axis across each of them.
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
#: Side of the cube that holds a brain, in voxels of 1 mm.
CUBE = 192
#: Slices with less brain than this are left out, in mm².
MIN_BRAIN_AREA = 1500
#: Slices left out between two parts: the nearest slices of two parts are 4 mm apart.
GAP = 3
#: What happens to the slices along an axis, in mm, again and again. Both val and test lie between train blocks.
PATTERN = (("train", 8), ("", GAP), ("val", 5), ("", GAP), ("train", 8), ("", GAP), ("test", 5), ("", GAP))
#: The stored intensities of CT, in HU: the usual window for the brain. Outside the brain the atlas is 0 HU.
CT_WINDOW = (0.0, 80.0)


@dataclass(frozen=True)
class Volume:
    """A brain in the middle of a cube of 1 mm voxels.

    Attributes:
        modality: ``mri`` or ``ct``.
        voxels: ``(CUBE, CUBE, CUBE)`` uint8, axes to the right, to the front, to the top.
        inside: The same shape, bool: where the brain is.
        maps: More volumes of the same shape, by name.
        origin: Of voxel ``(0, 0, 0)``: mm of MNI space for MRI, an index for CT, which has no MNI coordinates.
    """

    modality: str
    voxels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    maps: dict[str, NDArray[Any]]
    origin: tuple[int, int, int]

    def place(self, axis: int, index: int) -> str:
        """The coordinate of a slice, as file names give it: ``z+012`` in mm for MRI, ``k087`` as an index for CT."""
        coordinate = self.origin[axis] + index
        return f"{'xyz'[axis]}{coordinate:+04d}" if self.modality == "mri" else f"{'ijk'[axis]}{coordinate:03d}"


def load_mri() -> Volume:
    """The MRI template, with the maps ``grey_matter`` and ``white_matter``, uint8 probabilities times 255."""
    voxels, affine = read_nifti(SOURCES["mri"])
    maps = {name: read_nifti(SOURCES[name])[0] for name in ("grey_matter", "white_matter")}
    corner = _corner(voxels > 0)
    mni = np.rint(affine @ [*corner, 1]).astype(int)  # (4,), mm: voxels are 1 mm and the axes are parallel
    return Volume(
        modality="mri",
        voxels=_cube(voxels, corner).astype(np.uint8),
        inside=_cube(voxels, corner) > 0,
        maps={name: _cube(values, corner) for name, values in maps.items()},
        origin=(int(mni[0]), int(mni[1]), int(mni[2])),
    )


def load_ct() -> Volume:
    """The CT atlas, with the map ``hounsfield``, int16 HU."""
    hounsfield, _ = read_nifti(SOURCES["ct"])
    corner = _corner(hounsfield != 0)
    cube = _cube(hounsfield, corner)
    low, high = CT_WINDOW
    scaled = (cube.astype(np.float32) - low) / (high - low)
    return Volume(
        modality="ct",
        voxels=to_uint8(scaled),
        inside=cube != 0,
        maps={"hounsfield": cube},
        origin=corner,
    )


def slice_of(values: NDArray[Any], plane: str, index: int) -> NDArray[Any]:
    """One slice ``(CUBE, CUBE)``: up is the top (axial: the front), right is the right side (sagittal: the front)."""
    return np.ascontiguousarray(np.rot90(np.moveaxis(values, PLANES[plane], 0)[index]))


def split_slices(volume: Volume, plane: str) -> dict[str, list[int]]:
    """Which slices of a plane belong to which part.

    Neighbouring slices are near-copies, so the parts are blocks with gaps between them. Sagittal slices come from
    the left half only: the MRI template is its own mirror image, and the CT atlas nearly so.
    """
    across = tuple(axis for axis in range(3) if axis != PLANES[plane])
    useful = np.flatnonzero(volume.inside.sum(axis=across) >= MIN_BRAIN_AREA)
    if plane == "sagittal":
        useful = useful[useful <= CUBE // 2]  # the brain is in the middle of the cube
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for index, part in zip(useful.tolist(), cycle(p for p, length in PATTERN for _ in range(length)), strict=False):
        if part:
            parts[part].append(index)
    return parts


def shrink(values: NDArray[Any], size: int) -> NDArray[Any]:
    """A square image at another size, each pixel the mean of what it covers, in the dtype of `values`."""
    return np.asarray(cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA))


def enlarge(values: NDArray[Any], size: int) -> NDArray[Any]:
    """A square image at a larger size, interpolated linearly, in the dtype of `values`."""
    return np.asarray(cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR))


def to_uint8(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """0 to 1 as 0 to 255; what is outside is clipped."""
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), dtype=np.uint8)


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A grey PNG of ``(H, W)`` uint8, the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _corner(inside: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The voxel where a cube begins that has the brain in its middle; may be negative."""
    middles = [(int(found.min()) + int(found.max())) // 2 for found in np.nonzero(inside)]
    first, second, third = (middle - CUBE // 2 for middle in middles)
    return first, second, third


def _cube(values: NDArray[Any], corner: tuple[int, int, int]) -> NDArray[Any]:
    """`values` from `corner` on, with zeros where the cube reaches beyond them."""
    padded = np.pad(values, CUBE // 2)
    x, y, z = (start + CUBE // 2 for start in corner)
    return padded[x : x + CUBE, y : y + CUBE, z : z + CUBE]
