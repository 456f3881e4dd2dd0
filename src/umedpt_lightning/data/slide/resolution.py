"""How large the pixels of a slide are, as its file says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

#: µm of the units of OME-XML and ImageJ; what is not here (pixels, reference frames) is no length.
_UNITS = {
    "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4,
    "dm": 1e5, "m": 1e6, "in": 25400.0, "inch": 25400.0,
}  # fmt: skip
#: µm that the finest pixels of a slide may have. Programs that know nothing write 72, 96 or 300 dots an inch (353, 265
#: or 85 µm), or one pixel a centimetre.
_PLAUSIBLE = (0.01, 20.0)


def pixel_size(slide: Any) -> tuple[float, float] | str:
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
