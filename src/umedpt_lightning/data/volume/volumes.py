"""Volumes whose planes can be read one by one, in one orientation however the file is stored."""

from __future__ import annotations

import gzip
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.unpacked import fingerprint, unpacked
from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.missing import unreadable

Axis: TypeAlias = Literal["axial", "coronal", "sagittal"]
#: The RAS axis across the planes: the first runs to the patient's right, the second to the front, the third to the top.
AXES: dict[Axis, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
_COMPRESSED = (".gz", ".mgz")
#: nibabel's classes of pairs without orientation.
_WITHOUT_SIDES = ("AnalyzeImage", "Spm99AnalyzeImage", "Spm2AnalyzeImage")
#: mm of the units of NIfTI that are not mm; some files say none.
_MM = {"meter": 1e3, "micron": 1e-3}
#: Bytes of a file that are mapped at once.
_PIECE = 1 << 24
_unreadable = partial(unreadable, "a volume", "Download or export it again.")


class Volume(ABC):
    """A volume in RAS order: of the axes that run to the patient's right, front and top.

    Oblique volumes are not resampled: their axes are those that come closest.

    Args:
        path: File or folder.
        shape: ``(I, J, K)`` as stored; the attribute is ``(X, Y, Z)`` in RAS order.
        affine: ``(4, 4)`` from stored voxel index to mm, RAS+; the attribute is from RAS index.
        dtype: Of the values: uint8, uint16 or float32.
        padded: Whether voxels may be padding, which was not measured.

    Attributes:
        stored_affine: ``(4, 4)`` from stored voxel index to mm, RAS+.
        spacing: ``(3,)`` mm between voxels along the RAS axes.

    Raises:
        ImportError: nibabel is missing.
        ValueError: The affine is not that of a volume.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        affine: NDArray[np.float64],
        dtype: np.dtype[Any],
        padded: bool = False,
    ) -> None:
        orientations = require("nibabel.orientations", "nifti", path)
        self.path, self.dtype, self.padded, self.stored_affine = path, dtype, padded, affine
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError(
                f"{path}: the matrix from voxels to mm is {affine[:3].round(4).tolist()}, which is no orientation in "
                "space. Write the volume again with its geometry."
            )
        self._orientation = orientations.io_orientation(affine)  # (3, 2): RAS axis and direction of each stored axis
        order = np.argsort(self._orientation[:, 0])
        x, y, z = (shape[axis] for axis in order)
        self.shape = (x, y, z)
        self.affine: NDArray[np.float64] = affine @ orientations.inv_ornt_aff(self._orientation, shape)
        self.spacing: NDArray[np.float64] = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))

    @property
    def plane_dtype(self) -> np.dtype[Any]:
        """Of planes: `dtype`, but float32 where NaN may stand for padding."""
        return np.dtype(np.float32) if self.padded else self.dtype

    @property
    def step(self) -> float:
        """From one value that the file can hold to the next; 0 where values are as stored, or floats."""
        return 0.0

    def plane(self, axis: int, index: int) -> NDArray[Any]:
        """The plane at `index` across a RAS axis: a new array of the other two axes, in RAS order; NaN is padding.

        Raises ValueError where it cannot be read.
        """
        order = np.argsort(self._orientation[:, 0])
        stored = self._read(int(order[axis]), self.stored_index(axis, index))
        flipped = np.flip(stored, tuple(np.flatnonzero(self._orientation[:, 1] < 0).tolist()))
        return np.array(flipped.transpose(order)[(slice(None),) * axis + (0,)], self.plane_dtype)

    def stored_index(self, axis: int, index: int) -> int:
        """Where the plane at `index` across a RAS axis is along its stored axis."""
        across = int(np.argsort(self._orientation[:, 0])[axis])
        return index if self._orientation[across, 1] > 0 else self.shape[axis] - 1 - index

    def as_stored(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """An array ``(X, Y, Z)`` in RAS order as this volume is stored, ``(I, J, K)``."""
        turned = voxels.transpose(self._orientation[:, 0].astype(int))
        return np.flip(turned, tuple(np.flatnonzero(self._orientation[:, 1] < 0).tolist()))

    @abstractmethod
    def _read(self, axis: int, index: int) -> NDArray[Any]:
        """The same of a stored axis, as stored ``(I, J, K)``, of which that axis is 1."""


class NibabelVolume(Volume):
    """A 2-D or 3-D file that nibabel opens; of an uncompressed one only the pages of a plane are read.

    A compressed one cannot be read in the middle: it is decompressed once into the folder `cache_folder`, and all
    processes share that file's pages.

    Raises:
        ImportError: nibabel is missing.
        ValueError: It cannot be read, is not 2-D or 3-D, or does not hold real numbers.
    """

    def __init__(self, path: Path) -> None:
        nibabel = require("nibabel", "nifti", path)
        try:
            image = nibabel.load(path)
            if type(image).__name__ in _WITHOUT_SIDES:
                raise ValueError(f"{type(image).__name__}: Analyze 7.5 does not say which side is left")
            proxy, affine = image.dataobj, np.array(image.affine, np.float64)
            if isinstance(image, nibabel.Nifti1Pair):  # and all that are made of it
                affine[:3] *= _MM.get(image.header.get_xyzt_units()[0], 1.0)
            self._stored_dtype = np.dtype(proxy.dtype)
            # voxels may lie in a file of their own
            self._data = Path(image.file_map["image"].filename)
            self._offset, self._slope, self._inter = int(proxy.offset), float(proxy.slope), float(proxy.inter)
        except Exception as error:  # broken files raise nearly anything
            raise _unreadable(path, error) from error
        shape = three_axes(proxy.shape, path)
        if self._stored_dtype.kind not in "iuf":
            raise ValueError(f"{path}: voxels are real numbers, but these are {self._stored_dtype}. Convert the file.")
        self._stored_shape = shape
        self._bytes = self._offset + math.prod(shape) * self._stored_dtype.itemsize
        plain = (self._slope, self._inter) == (1, 0) and self._stored_dtype.newbyteorder("=") in (np.uint8, np.uint16)
        dtype = self._stored_dtype.newbyteorder("=") if plain else np.dtype(np.float32)
        super().__init__(path, shape, affine, dtype)

    @property
    def step(self) -> float:
        """As `Volume.step`."""
        scaled = self._stored_dtype.kind in "iu" and (self._slope, self._inter) != (1, 0)
        return abs(self._slope) if scaled else 0.0

    def _read(self, axis: int, index: int) -> NDArray[Any]:
        path = self._data
        if path.suffix.lower() in _COMPRESSED:
            try:
                path = unpacked(f"{fingerprint([path])}.nii", partial(_decompress, path, self._bytes), path)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise _unreadable(self.path, error) from error
        try:
            plane = mapped_plane(path, self._stored_dtype, self._offset, self._stored_shape, axis, index)
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        return plane if (self._slope, self._inter) == (1, 0) else plane * self._slope + self._inter


class NiftiVolume(NibabelVolume):
    """NIfTI 1 or 2: ``.nii``, ``.nii.gz``, or a pair of ``.img`` and ``.hdr``."""


def three_axes(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    """A shape as that of a volume: a single plane is one slice, and more axes of one entry are left by some tools.

    Raises ValueError where it has fewer than two, or more than three, axes that count.
    """
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise ValueError(
            f"{path}: a volume is 3-D, but this file is {'x'.join(map(str, sizes))}. Save each volume of a series in "
            "its own file, for instance with nibabel.funcs.four_to_three."
        )
    x, y, z = (*sizes, 1)[:3]
    return x, y, z


def mapped_plane(
    path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], axis: int, index: int
) -> NDArray[Any]:
    """One plane of an array ``(I, J, K)`` that a file holds in Fortran order, ``(I, J, K)`` with 1 at `axis`.

    The file is mapped anew each time, so that no open file is left behind or has to travel to another process, and
    in pieces, since a plane along the last axis touches every page of it. Raises ValueError where it is too short.
    """
    wanted = range(index, index + 1) if axis == 2 else range(shape[2])
    slab = shape[0] * shape[1] * dtype.itemsize  # bytes
    if path.stat().st_size < offset + shape[2] * slab:
        raise ValueError(f"its voxels are {shape[2] * slab} bytes, and begin at {offset}")
    step = max(1, _PIECE // slab)
    pieces = []
    for start in wanted[::step]:
        count = min(step, wanted.stop - start)
        piece = np.memmap(path, dtype, "r", offset + start * slab, (*shape[:2], count), order="F")
        chosen = slice(None) if axis == 2 else slice(index, index + 1)
        pieces.append(np.array(piece[(slice(None),) * axis + (chosen,)]))
    return np.concatenate(pieces, axis=2)


def _decompress(path: Path, most: int, stream: IO[bytes]) -> None:
    """Unpacks so many bytes at most: what the header tells of, and not what a bomb holds behind it."""
    with gzip.open(path) as packed:
        while most > 0 and (piece := packed.read(min(most, 1 << 20))):
            stream.write(piece)
            most -= len(piece)
        packed.read(1)  # at the end of the file its checksum is looked at
