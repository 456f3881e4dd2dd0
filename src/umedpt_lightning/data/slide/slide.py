"""Whole-slide images: pyramids of which pieces are read at any level, and how large their pixels are."""

from __future__ import annotations

import math
import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.missing import no_such_file, unreadable

# Open slides of one process. Each holds the places of all its tiles, some MB for a large slide.
_MOST_OPEN = 16
_open: OrderedDict[tuple[Path, int, int], Any] = OrderedDict()
_open_in = os.getpid()

#: µm of the units of OME-XML and ImageJ; what is not here (pixels, reference frames) is no length.
_UNITS = {
    "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4,
    "dm": 1e5, "m": 1e6, "in": 25400.0, "inch": 25400.0,
}  # fmt: skip
#: µm that the finest pixels of a slide may have. Programs that know nothing write 72, 96 or 300 dots an inch (353, 265
#: or 85 µm), or one pixel a centimetre.
_PLAUSIBLE = (0.01, 20.0)
_MEND = (
    "Export it again, or convert it to a tiled, pyramidal TIFF (`vips tiffsave in out.tif --tile --pyramid "
    "--compression jpeg`)."
)
_unreadable = partial(unreadable, "a whole-slide image", _MEND)


class Slide:
    """A pyramidal whole-slide image in a TIFF or one of its relatives (SVS, SCN, BIF, NDPI).

    Pickling and forking are safe: each process opens the file for itself, when it first reads.

    Attributes:
        size: Width and height of the finest level, pixels.
        mpp: µm from pixel to pixel of the finest level, along x and y: those that are given, or as the file says.
        sizes: ``(L, 2)`` width and height of each level, the finest first.
        downsamples: ``(L, 2)`` pixels of the finest level a pixel of each, along x and y.
        channels: All that a pixel has; only what the file calls alpha is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: tiffslide is missing.
        ValueError: It cannot be read, or the size of its pixels is unknown.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        if not path.is_file():
            raise no_such_file(path, "Correct the path or the table that names it.")
        self.path = path
        tiffslide = require("tiffslide", "slides", path)
        try:
            with tiffslide.TiffSlide(path) as slide:  # closed again: an open file must not be shared by forked workers
                self.sizes = np.array(slide.level_dimensions, np.int64)
                stored = _pixel_size(slide)
                self._samples = _samples(slide)
                corner = slide.read_region((0, 0), len(self.sizes) - 1, (1, 1), as_array=True)
        except Exception as error:  # broken files raise nearly anything
            raise _unreadable(path, error) from error
        self.size = (int(self.sizes[0, 0]), int(self.sizes[0, 1]))
        self.downsamples = self.sizes[0] / self.sizes
        if mpp is not None:
            stored = mpp, mpp
        if isinstance(stored, str):
            raise ValueError(
                f"{path}: {stored}. Write `slide_mpp:` under `tiles`, the µm from pixel to pixel (about 0.25 for a 40x "
                "and 0.5 for a 20x scan)."
            )
        self.mpp = stored
        self.channels, self.dtype = len(self._samples), corner.dtype

    def level(self, mpp: float) -> int:
        """The coarsest level that is as fine as `mpp`, or the finest; 2 % do not count, as scanners round."""
        fine = self.downsamples.max(axis=1) * max(self.mpp) <= mpp * 1.02
        return int(np.flatnonzero(fine)[-1]) if fine.any() else 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        """A piece of a level, which must lie inside it, ``(height, width, channels)``.

        Raises ValueError where it cannot be read.
        """
        try:
            slide = _handle(self.path)
            # tiffslide wants the place in the finest level, divides by the mean downsample and cuts: the first place
            # that comes out right
            downsample = slide.level_downsamples[level]
            places = [math.ceil(place * downsample) for place in (x, y)]
            places = [p + (int(p / downsample) < place) for p, place in zip(places, (x, y), strict=True)]
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # of pieces outside, which would be filled with zeros
                piece = slide.read_region(places, level, (width, height), as_array=True, padding=False)
        except Exception as error:
            raise _unreadable(self.path, error) from error
        if piece.shape[:2] != (height, width):
            raise _unreadable(self.path, f"{piece.shape} pixels at {x}, {y} of level {level}")
        return np.ascontiguousarray(piece[..., self._samples])


def _samples(slide: Any) -> list[int]:
    """Which of the values of a pixel are channels, and not alpha."""
    series = slide.ts_tifffile.series[slide.properties["tiffslide.series-index"]]
    page = series.keyframe
    if page.photometric.name not in ("MINISBLACK", "RGB", "YCBCR"):
        raise ValueError(f"its pixels are {page.photometric.name}, in place of colours or of grey in which 0 is black")
    if "S" not in series.axes:  # a page a channel
        return list(range(series.shape[series.axes.index("C")] if "C" in series.axes else 1))
    colours = page.samplesperpixel - len(page.extrasamples)
    alpha = [colours + i for i, extra in enumerate(page.extrasamples) if extra.name in ("ASSOCALPHA", "UNASSALPHA")]
    return [i for i in range(page.samplesperpixel) if i not in alpha]


def _handle(path: Path) -> Any:
    """The file, opened in this process; few are kept open."""
    global _open_in
    if _open_in != os.getpid():  # forked: the parent's files share their position with this process
        _open.clear()
        _open_in = os.getpid()
    stat = path.stat()
    key = (path, stat.st_size, stat.st_mtime_ns)
    if key not in _open:
        _open[key] = require("tiffslide", "slides", path).TiffSlide(path)
        if len(_open) > _MOST_OPEN:
            _open.popitem(last=False)[1].close()
    _open.move_to_end(key)
    return _open[key]


def _pixel_size(slide: Any) -> tuple[float, float] | str:
    """µm from pixel to pixel of the finest level along x and y of an open `TiffSlide`, or why they are unknown.

    What OME-XML and ImageJ say of it counts more than the resolution of the TIFF, which is often a printer's.
    """
    tiff, properties = slide.ts_tifffile, slide.properties
    series = tiff.series[properties["tiffslide.series-index"]]
    sizes = [
        _of_ome(tiff.ome_metadata, slide.dimensions) if tiff.is_ome else None,
        _of_imagej(tiff.imagej_metadata or {}, series[0].tags) if tiff.is_imagej else None,
        (properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")),
    ]
    told = [(float(size[0]), float(size[1])) for size in sizes if size and all(size)]
    low, high = _PLAUSIBLE
    for x, y in told:
        if low <= x <= high and low <= y <= high:
            return x, y
    if not told:
        return "the file does not say how large its pixels are"
    x, y = told[0]
    dots = f", as at {25400 / x:.0f} dots an inch" if math.isfinite(x) and x > high else ""
    return f"the file says that its pixels are {x:.3g} by {y:.3g} µm{dots}, which no slide has"


def _of_ome(xml: str | None, size: tuple[int, int]) -> tuple[float, float] | None:
    """Of the image of that width and height, else of the first."""
    try:
        found = [element for element in ElementTree.fromstring(xml or "").iter() if element.tag.endswith("}Pixels")]
    except ElementTree.ParseError:
        return None
    found.sort(key=lambda p: (p.get("SizeX"), p.get("SizeY")) != tuple(map(str, size)))
    for pixels in found[:1]:
        x, y = (
            _length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"
        )
        return (x, y) if x and y else None
    return None


def _of_imagej(about: Mapping[str, Any], tags: Any) -> tuple[float, float] | None:
    """ImageJ counts pixels a unit, and names the unit in its own text."""
    sizes = []
    for name in ("XResolution", "YResolution"):
        count, of = tags[name].value if name in tags else (0, 1)
        sizes.append(_length(of / count if count else None, str(about.get("unit", ""))))
    x, y = sizes
    return (x, y) if x and y else None


def _length(value: Any, unit: str) -> float | None:
    unit = unit.replace("\\u00B5", "µ").replace("\u03bc", "µ").strip()  # the Greek letter, and ImageJ's escape
    try:
        return float(value) * _UNITS[unit]
    except (TypeError, ValueError, KeyError):
        return None
