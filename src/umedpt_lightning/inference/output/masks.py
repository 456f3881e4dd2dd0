"""Masks as files: PNG, NIfTI, and tiled TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.volume.volumes import NiftiVolume, Volume
from umedpt_lightning.drawing.pictures import colour
from umedpt_lightning.io.atomic import atomic_write

_TIFF_TILE, _SMALLEST_LEVEL = 512, 1024


def write_png(mask: NDArray[Any], path: Path) -> None:
    """Class indices ``(H, W)``: bytes with the colours of the overlays, the background black, or uint16 without."""
    small = mask.dtype == np.uint8
    image = Image.fromarray(mask if small else mask.astype(np.uint16))
    if small:
        image.putpalette([0, 0, 0, *(part for index in range(1, 256) for part in colour(index))])
    with atomic_write(path) as unfinished:
        image.save(unfinished)


def write_nifti(voxels: NDArray[np.unsignedinteger], volume: Volume, path: Path) -> None:
    """Class indices ``(X, Y, Z)`` in RAS order, with shape, affine and units of the volume they belong to.

    Raises:
        ImportError: nibabel is missing.
    """
    nibabel = require("nibabel", "nifti", path)
    stored, affine, header = volume.as_stored(voxels), volume.stored_affine, None
    if isinstance(volume, NiftiVolume):
        image = nibabel.load(volume.path)
        stored, affine, header = stored.reshape(image.shape), image.affine, image.header.copy()
        header.set_data_dtype(voxels.dtype)
        header["cal_min"] = header["cal_max"] = 0  # the window of the image is not that of classes
    with atomic_write(path) as unfinished:
        nibabel.Nifti1Image(stored, affine, header, dtype=voxels.dtype).to_filename(unfinished)


def write_tiff(mask: NDArray[np.unsignedinteger], mpp: float, path: Path) -> None:
    """Class indices ``(H, W)`` as a tiled pyramid, which may be mapped: only tiles of it are read.

    The mask, with pixels of `mpp` µm, is the finest level; each coarser one has every second pixel.

    Raises:
        ImportError: tifffile is missing.
    """
    tifffile = require("tifffile", "slides", path)
    with atomic_write(path) as unfinished, tifffile.TiffWriter(unfinished, bigtiff=mask.size > 2**31) as writer:
        step = 1
        while step == 1 or max(mask.shape) / step >= _SMALLEST_LEVEL:
            level = mask[::step, ::step]
            writer.write(
                _tiles(level),
                shape=level.shape,
                dtype=mask.dtype,
                tile=(_TIFF_TILE, _TIFF_TILE),
                compression="zlib",
                photometric="minisblack",
                resolution=(1e4 / mpp / step,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(step > 1),
            )
            step *= 2


def _tiles(mask: NDArray[np.unsignedinteger]) -> Iterator[NDArray[Any]]:
    for y in range(0, mask.shape[0], _TIFF_TILE):
        for x in range(0, mask.shape[1], _TIFF_TILE):
            piece = mask[y : y + _TIFF_TILE, x : x + _TIFF_TILE]
            missing = [(0, _TIFF_TILE - side) for side in piece.shape]
            yield np.pad(piece, missing)
