"""Which files are volumes, by their names, and what opens them; those of ITK (NRRD, MetaImage) by SimpleITK."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.unpacked import fingerprint, unpacked
from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.missing import unreadable
from umedpt_lightning.data.volume.volumes import NibabelVolume, NiftiVolume, Volume, mapped_plane, three_axes

#: SimpleITK's words for the types of voxels that are real numbers.
_TYPES = {
    "8-bit unsigned integer": "u1", "8-bit signed integer": "i1", "16-bit unsigned integer": "u2",
    "16-bit signed integer": "i2", "32-bit unsigned integer": "u4", "32-bit signed integer": "i4",
    "64-bit unsigned integer": "u8", "64-bit signed integer": "i8", "32-bit float": "f4", "64-bit float": "f8",
}  # fmt: skip


class ItkVolume(Volume):
    """A NRRD or MetaImage file of two or three dimensions, decoded once into the folder `cache_folder`.

    Raises ImportError without SimpleITK, and ValueError where it is not 2-D or 3-D, of real numbers, and whole.
    """

    def __init__(self, path: Path) -> None:
        reader = require("SimpleITK", "itk", path).ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise _unreadable(path, error) from error
        kind = reader.GetPixelIDValue()
        name = require("SimpleITK", "itk", path).GetPixelIDValueAsString(kind)
        if name not in _TYPES:
            raise ValueError(f"{path}: voxels are real numbers, but these are {name}. Convert the file.")
        self._stored_dtype = np.dtype(_TYPES[name])
        shape = three_axes(reader.GetSize(), path)
        axes = len(reader.GetSpacing())
        affine = np.eye(4)
        turn = np.array(reader.GetDirection(), np.float64).reshape(axes, axes)
        axes = min(axes, 3)
        affine[:axes, :axes] = turn[:axes, :axes] * np.array(reader.GetSpacing())[:axes]
        affine[:axes, 3] = reader.GetOrigin()[:axes]
        affine[:2] *= -1  # LPS, as ITK counts, to RAS
        plain = self._stored_dtype in (np.uint8, np.uint16)
        super().__init__(path, shape, affine, self._stored_dtype if plain else np.dtype(np.float32))
        self._stored_shape = shape

    def _read(self, axis: int, index: int) -> NDArray[Any]:
        beside = self.path.parent.glob(f"{glob.escape(self.path.stem)}.*")  # a header's voxels
        files = {self.path, *filter(Path.is_file, beside)}
        stack = unpacked(f"{fingerprint(sorted(files))}-{self._stored_dtype.name}.itk", self._write, self.path)
        return mapped_plane(stack, self._stored_dtype, 0, self._stored_shape, axis, index)

    def _write(self, stream: IO[bytes]) -> None:
        itk = require("SimpleITK", "itk", self.path)
        try:
            voxels = itk.GetArrayFromImage(itk.ReadImage(str(self.path)))  # (K, J, I), so Fortran order of (I, J, K)
        except RuntimeError as error:
            raise _unreadable(self.path, error) from error
        stream.write(np.ascontiguousarray(voxels).data)


def _unreadable(path: Path, error: Exception) -> ValueError:
    last = str(error).strip().splitlines()[-1:]  # the others are of SimpleITK's own code
    return unreadable("a volume", "Export it again, or as NIfTI.", path, "".join(last))


#: What opens a file by the end of its name. A pair of ``.img`` and ``.hdr`` goes by the file with the voxels.
_OPENERS: dict[str, type[Volume]] = {
    ".nii": NiftiVolume,
    ".nii.gz": NiftiVolume,
    ".img": NiftiVolume,
    ".img.gz": NiftiVolume,
    ".mgz": NibabelVolume,
    ".mgh": NibabelVolume,
    ".nrrd": ItkVolume,
    ".nhdr": ItkVolume,
    ".mha": ItkVolume,
    ".mhd": ItkVolume,
}
#: Files that belong to one with another of these suffixes, and are read with it.
COMPANIONS = (".hdr", ".hdr.gz", ".img", ".img.gz", ".raw", ".raw.gz", ".zraw")
_WITH_COMPANIONS = (".img", ".img.gz", ".mhd", ".nhdr")


def volume_suffix(path: Path | str) -> str:
    """The end of the name that says it is a volume; empty where it does not."""
    name = str(path).lower()
    return max((suffix for suffix in _OPENERS if name.endswith(suffix)), key=len, default="")


def companions(path: str) -> list[str]:
    """The files beside a volume that are read with it: its header, or its voxels. Most have none."""
    suffix = next((suffix for suffix in _WITH_COMPANIONS if path.lower().endswith(suffix)), "")
    others = [path.removesuffix(path[-len(suffix) :]) + other for other in COMPANIONS] if suffix else []
    return [other for other in others if other != path and os.path.isfile(other)]


def open_volume_file(path: Path) -> Volume:
    """The volume in a file with a `volume_suffix`; raises ImportError without its library, or ValueError."""
    return _OPENERS[volume_suffix(path)](path)  # type: ignore[call-arg]  # each takes the path alone
