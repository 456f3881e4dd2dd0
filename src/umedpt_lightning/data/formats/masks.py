"""Masks: the values that were written into a file, which class each means, and whether it is stored with loss."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from umedpt_lightning.data.formats.files import FileTable
from umedpt_lightning.data.formats.images import NO_ALPHA, is_deep, open_image, read_image
from umedpt_lightning.data.formats.labels import check_names
from umedpt_lightning.data.formats.tiff import is_beyond_pillow, read_tiff
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import IGNORE_INDEX

_MEANINGLESS = np.iinfo(np.int16).min
# Greys below 8 bits are stretched to 0..255 by Pillow: right for an image, wrong for class indices.
_STRETCHED = {"L;2": 85, "L;4": 17}
_MAYBE = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".jpf", ".webp", ".avif", ".tif", ".tiff"]
)
#: How Pillow names the ways in which a TIFF is compressed with loss.
_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
_HEAD = 1 << 16


class MaskFiles:
    """The masks of a reader, whose stored values are turned into class indices; arguments as for `MaskValues`.

    Raises ValueError where there are no paths, or the classes cannot be used, and FileNotFoundError for missing files.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        classes: Sequence[str | int] | Mapping[str, int],
        ignore: int | None,
        source: object,
    ) -> None:
        self._values = MaskValues(classes, ignore, source)
        self.classes = self._values.classes
        self._files = FileTable(paths, "masks", source)

    @property
    def files(self) -> list[str]:
        """Their names."""
        return [self._files[i] for i in range(len(self._files))]

    def read(self, index: int, image: NDArray[Any], name: str) -> NDArray[np.int16]:
        """The mask ``(H, W)`` of class indices and `IGNORE_INDEX` that belongs to an image of that name.

        Raises ValueError where it cannot be read, is not of the image's size, or holds another value.
        """
        path = self._files[index]
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"{path}: the mask is {mask.shape[0]}x{mask.shape[1]} (HxW), but its image {name} is "
                f"{image.shape[0]}x{image.shape[1]}. Save both at one size."
            )
        try:
            return self._values.to_indices(mask, path)
        except ValueError as error:
            if kind := lossy_format(path):
                raise ValueError(
                    f"{path}: the mask is stored as {kind}, with loss, which made other values of its classes. Export "
                    f"it again as PNG. ({error})"
                ) from error
            raise


class MaskValues:
    """Which stored value means which class; raises ValueError where two mean the same.

    Args:
        classes: Names of the classes stored as 0, 1, ..., or a stored value for each name.
        ignore: The stored value of unlabelled pixels, None if there are none.
        source: The file or folder that names the masks.
    """

    def __init__(self, classes: Sequence[str | int] | Mapping[str, int], ignore: int | None, source: object) -> None:
        self.classes = check_names(classes, "classes", source)
        values = list(classes.values()) if isinstance(classes, Mapping) else list(range(len(self.classes)))
        stored = values if ignore is None else [*values, ignore]
        if len(set(stored)) < len(stored) or min(stored) < 0 or max(stored) > 65535:
            raise ValueError(
                f"{source}: every class and `ignore` need a stored value of their own from 0 to 65535, but the values "
                f"of the classes are {values} and ignore is {ignore}. Correct `classes` or `ignore`."
            )
        self._stored = stored
        self._index = np.full(65536, _MEANINGLESS, np.int16)  # stored value -> class index
        self._index[stored] = [*range(len(values)), IGNORE_INDEX][: len(stored)]

    def to_indices(self, mask: NDArray[Any], name: str) -> NDArray[np.int16]:
        """Class indices and `IGNORE_INDEX`, int16, of a mask ``(H, W)`` uint8 or uint16 of that name.

        Raises ValueError where it holds another value.
        """
        result: NDArray[np.int16] = self._index[mask]
        if result.min() == _MEANINGLESS:
            raise ValueError(
                f"{name}: the mask holds the values {shorten(np.unique(mask).tolist())}, but only "
                f"{shorten(self._stored)} mean something. Say which value means which class (`classes: "
                f"{{{self.classes[0]}: 0, ...}}`), and which one unlabelled pixels have (`ignore: 255`)."
            )
        return result


def read_mask(path: Path | str) -> NDArray[Any]:
    """``(H, W)`` uint8 or uint16: the values that were written, palette indices included; one-bit masks are 0 and 1.

    Raises FileNotFoundError where there is no such file, and ValueError where it cannot be read, or holds colours or
    numbers that cannot be class indices.
    """
    if is_beyond_pillow(path):
        found = read_tiff(path)
        if found.shape[-1] > 1:
            raise ValueError(f"{path}: a mask has one channel, but this one has {found.shape[-1]}. Save one of them.")
        return _whole(found[..., 0], path)
    image, raw = open_image(path, load=True)
    values = _stored(image, raw, path)
    # "RGBA", "LA" or "PA"
    if image.mode.endswith("A") and raw != NO_ALPHA and values.size and (values == values[0, 0]).all():
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():
            raise ValueError(
                f"{path}: all of the mask is {values[0, 0]}, but its transparency differs from pixel to pixel, and is "
                "no class. Save what was drawn on a layer as an 8-bit grey or palette PNG of class indices."
            )
    return values


def _stored(image: Image.Image, raw: str, path: Path | str) -> NDArray[Any]:
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode == "L":
        values = np.asarray(image)
        # Pillow inverts greys whose 0 is white: right for an image, wrong for class indices, such as ImageJ's masks
        inverted = raw.endswith("I")
        return (255 - values if inverted else values) // np.uint8(_STRETCHED.get(raw.removesuffix("I"), 1))
    if image.mode == "P":
        return np.array(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _whole(np.asarray(image), path)
    if image.mode in ("RGB", "RGBA") or is_deep(raw):
        # of 16 bits Pillow has the upper ones, in which most indices are 0
        colours = read_image(path) if is_deep(raw) else np.asarray(image)[..., :3]
        if (colours == colours[..., :1]).all():  # a grey mask that some tool saved as RGB
            return np.ascontiguousarray(colours[..., 0])
    elif image.mode in ("LA", "PA") and raw != NO_ALPHA:
        return np.ascontiguousarray(np.asarray(image)[..., 0])
    raise ValueError(
        f"{path}: a mask holds one class index a pixel, but this one has colours (mode {image.mode}). "
        "Save it as an 8-bit grey or palette PNG of class indices."
    )


def _whole(values: NDArray[Any], path: Path | str) -> NDArray[np.uint16]:
    with np.errstate(invalid="ignore"):  # NaN and negative numbers fail the comparison below
        whole = values.astype(np.uint16)
    if not np.array_equal(whole, values):
        raise ValueError(
            f"{path}: a mask holds class indices from 0 to 65535, but the values of this one lie between "
            f"{values.min()} and {values.max()} ({values.dtype}). Save it as an 8- or 16-bit PNG of class indices."
        )
    return whole


def lossy_format(path: Path | str) -> str:
    """The name of the format where a file is stored with loss; empty where it is not, or cannot be told."""
    if os.path.splitext(path)[1].lower() not in _MAYBE:
        return ""
    try:
        with open(path, "rb") as stream, Image.open(stream) as image:
            stream.seek(0)
            head = stream.read(_HEAD)
            match image.format:
                case "JPEG" | "MPO":
                    return "JPEG"
                case "AVIF":
                    return "AVIF"
                case "WEBP" if b"VP8L" not in head:
                    return "WebP"
                case "JPEG2000" if _is_irreversible(head):
                    return "JPEG 2000"
                case "TIFF" if isinstance(image, TiffImageFile) and image.info.get("compression") in _TIFF:
                    return f"TIFF with {image.info['compression'].removeprefix('tiff_').upper()}"
    except Exception:  # reading it tells what is wrong
        return ""
    return ""


def _is_irreversible(head: bytes) -> bool:
    """Whether the marker COD of a JPEG 2000 codestream names the wavelet 9-7, as ISO 15444-1 A.6.1 has it."""
    place = head.find(b"\xff\x52")
    return place >= 0 and head[place + 13 : place + 14] == b"\x00"
