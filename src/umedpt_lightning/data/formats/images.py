"""Image files to arrays, through Pillow or pydicom, without ever losing depth silently."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from umedpt_lightning.data.formats.missing import no_such_file, unreadable
from umedpt_lightning.data.formats.tiff import is_beyond_pillow, probe_tiff, read_tiff
from umedpt_lightning.data.volume import dicom, dicom_file
from umedpt_lightning.data.volume.volume_files import volume_suffix

# What Pillow may try, the likeliest first: all of its decoders in turn take a tenth of the time that a small JPEG does,
# and one of them hands PostScript to an interpreter.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "WEBP", "AVIF", "PPM", "TGA", "PCX")
_GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})
# How Pillow's decoders name 16-bit colour samples, which it then cuts to 8 bits ("BGR;16" is 5-6-5 and loses nothing).
_DEEP_COLOUR = re.compile(r"(?!BGR)\w{2,};16[BLN]")
#: Stands for the layout of samples where Pillow sees alpha, but the file does not speak of it.
NO_ALPHA = "no alpha"
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow's conversion to grey


@lru_cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the files that `read_image` takes, such as ``.png``."""
    of_pillow = {suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS}
    return dicom_file.SUFFIXES | of_pillow


def probe_image(path: Path | str, *, windowed: bool = True) -> tuple[int, np.dtype[Any]]:
    """Channels and dtype that `read_image` would give, from the header alone; raises as that does."""
    if dicom_file.is_dicom(path):
        return dicom.probe_dicom(Path(path), windowed=windowed)
    if is_beyond_pillow(path):
        return probe_tiff(path)[2:]
    image, raw = open_image(path, load=False)
    if image.mode.startswith("I;16") or is_deep(raw):
        dtype = "uint16"
    else:
        dtype = "float32" if image.mode in ("I", "F") else "uint8"
    if raw == NO_ALPHA:
        return len(image.getbands()), np.dtype(dtype)
    grey = image.mode in _GREY_MODES or raw.startswith("LA;16")
    return (1 if grey else 3), np.dtype(dtype)


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width that `read_image` would give, but for EXIF turns, from the header alone; raises as that does."""
    path = Path(path)
    if dicom_file.is_dicom(path):
        header = dicom_file.read_header(path)
        return int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if is_beyond_pillow(path):
        return probe_tiff(path)[:2]
    image, _ = open_image(path, load=False)
    return image.height, image.width


def read_image(path: Path | str, channels: int | None = None, *, windowed: bool = True) -> NDArray[Any]:
    """Reads one image, upright as its EXIF data say.

    All channels are read, but what the file calls alpha is dropped. Palettes and CMYK become RGB, one-bit images 0 and
    255. Signed and 32-bit integers become float32.

    Args:
        path: The file.
        channels: 1 or 3 to turn colour to grey or grey to colour; None keeps what the file holds.
        windowed: Show DICOM greys through the window of their file, see `read_dicom`.

    Returns:
        ``(H, W, C)`` uint8, uint16 or float32.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is DICOM, and pydicom is missing.
        ValueError: The file cannot be read, or not without loss, or not with `channels`.
    """
    if dicom_file.is_dicom(path):
        return to_channels(dicom.read_dicom(Path(path), windowed=windowed), channels, str(path))
    if is_beyond_pillow(path):
        return to_channels(read_tiff(path), channels, str(path))
    image, raw = open_image(path, load=True)
    if raw == NO_ALPHA:
        array = np.array(image)
    else:
        array = _read_deep_colour(path, raw) if is_deep(raw) else _to_array(image, path)
    if array.ndim == 2:
        array = array[..., None]  # (H, W) -> (H, W, 1)
    return to_channels(array, channels, str(path))


def to_channels(image: NDArray[Any], channels: int | None, name: str) -> NDArray[Any]:
    """The image ``(H, W, C)`` with `channels` channels; grey is repeated, RGB becomes its luma; None keeps it.

    Raises ValueError, which calls the image `name`, where there is no such conversion.
    """
    match (image.shape[-1], channels):
        case (found, wanted) if wanted is None or found == wanted:
            return image
        case (1, 3):
            return np.repeat(image, 3, axis=-1)
        case (3, 1):
            grey: NDArray[Any] = image @ _LUMA  # (H, W)
            if image.dtype.kind != "f":
                grey = np.rint(grey)
            return grey[..., None].astype(image.dtype)
        case (found, _):
            raise ValueError(
                f"{name}: the image has {found} channels, which cannot become {channels}. Only grey and RGB are turned "
                f"into each other: write `channels: {found}`, or leave `channels` out."
            )


def open_image(path: Path | str, *, load: bool) -> tuple[Image.Image, str]:
    """What Pillow makes of a file, decoded and upright if `load`, and the name of its samples' layout in the file.

    Raises FileNotFoundError where there is no such file, and ValueError where it is no image that can be read.
    """
    try:
        # Not by name: Pillow maps uncompressed TIFFs into memory then, and scrambles those that are to be turned.
        with open(path, "rb") as stream, Image.open(stream, formats=_FORMATS) as image:
            raw = _raw_mode(image)
            # A photograph with an embedded preview (MPO) is one image all the same.
            pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if load and pages == 1 and not is_deep(raw):
                ImageOps.exif_transpose(image, in_place=True)
                image.load()
    except FileNotFoundError as error:
        raise no_such_file(path, "Correct the path or the table that names it.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path}: {os.path.getsize(path)} bytes that would become far too many pixels ({error}). If it is no "
            "attack, cut it up, or convert it to a pyramidal TIFF and read it as a slide."
        ) from error
    except Exception as error:  # broken files raise nearly anything: OSError, SyntaxError, struct.error, ...
        if suffix := volume_suffix(path):
            raise ValueError(
                f"{path}: a {suffix} file is a volume, no image. Read it with the Volume readers (VolumeClasses and so "
                "on), for which a single plane is a volume of one slice, or save its slices as PNG."
            ) from error
        mend = "Save it again as PNG, JPEG or TIFF (one page, 8 or 16 bits, or one channel of 32-bit floats)."
        raise unreadable("an image", mend, path, error) from error
    if pages != 1:
        raise ValueError(
            f"{path}: a sample is one 2-D image, but this file holds {pages} pages. Save each in its own file."
        )
    if image.mode not in _GREY_MODES | _COLOUR_MODES:
        raise ValueError(f"{path}: images of mode {image.mode} are not supported. Save it as grey or RGB.")
    return image, raw


def _raw_mode(image: ImageFile) -> str:
    """How Pillow's decoder names the samples in the file, such as ``L;4`` or ``RGB;16B``; empty if it does not say."""
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PLANAR_CONFIGURATION) == 2:
        return f"PLANES;{max(image.tag_v2.get(BITSPERSAMPLE, (8,)))}N"  # Pillow's name would lack the depth here
    if image.format == "JPEG2000" and len(image.getbands()) > 1:
        head = _head(image)
        lacks_alpha = image.mode in ("LA", "RGBA") and not _has_alpha(head)
        if _bits(head) > 8:  # which Pillow does not say
            return "PLANES;16N" if lacks_alpha else f"{image.mode};16N"
        return NO_ALPHA if lacks_alpha else ""
    if not image.tile:
        return ""
    args = image.tile[0][3]
    match args:
        case ("RGB", int(greatest)) if image.format == "PPM" and greatest > 255:
            return "RGB;16B"
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _head(image: ImageFile) -> bytes:
    """What an open file begins with."""
    stream = image.fp
    if stream is None:
        return b""
    place = stream.tell()
    stream.seek(0)
    head = stream.read(1 << 16)
    stream.seek(place)
    return head


def _bits(head: bytes) -> int:
    """Of a sample in a JPEG 2000 file; 128 where they differ."""
    start = head.find(b"ihdr")  # a box of height, width, number of components and this; a bare codestream has none
    stored = head[start + 14 : start + 15] if start >= 0 else head[42:43]
    return (int.from_bytes(stored) & 127) + 1  # one less is stored, and the sign in the highest bit


def _has_alpha(head: bytes) -> bool:
    """Whether a JPEG 2000 file says, in a box of channel definitions, that one of them is alpha."""
    start = head.find(b"cdef") + 4
    if start < 4:
        return False
    count = int.from_bytes(head[start : start + 2])
    kinds = np.frombuffer(head[start + 2 : start + 2 + 6 * count], ">u2")[1::3]  # of channel, kind and association
    return bool(np.isin(kinds, (1, 2)).any())  # opacity, or premultiplied opacity


def is_deep(raw: str) -> bool:
    """Whether samples of that layout are 16-bit colours."""
    return _DEEP_COLOUR.fullmatch(raw) is not None


def _read_deep_colour(path: Path | str, raw: str) -> NDArray[Any]:
    """16-bit colour, which Pillow cuts to 8 bits."""
    array = None
    if not raw.startswith("PLANES"):  # cv2 would mix them up
        array = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)  # (H, W, 3) BGR
    if array is None or array.dtype != np.uint16:
        raise ValueError(f"{path}: 16-bit samples of layout {raw} cannot be read whole. Save it as a 16-bit RGB PNG.")
    grey = raw.startswith("LA")  # cv2 made three equal channels of it
    return np.ascontiguousarray(array[..., :1] if grey else array[..., ::-1])


def _to_array(image: Image.Image, path: Path | str) -> NDArray[Any]:
    """``(H, W)`` or ``(H, W, 3)``, writable and in the machine's byte order."""
    match image.mode:
        case "L" | "RGB" | "F":
            return np.array(image)
        case "1" | "LA":
            return np.array(image.convert("L"))
        case "I":
            values = np.asarray(image)
            if isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 1:
                values = values.view(np.uint32)  # which Pillow takes for signed
            exact = values.astype(np.float32)
            if not np.array_equal(exact, values):  # float32 holds integers up to 2 ** 24
                raise ValueError(
                    f"{path}: integers up to {values.max()} do not fit 16 bits, nor 32-bit floats exactly. "
                    "Save the image with 16 bits a pixel."
                )
            return exact
        case mode if mode.startswith("I;16"):
            deep = np.asarray(image).astype(np.uint16)
            inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
            return 65535 - deep if inverted else deep  # 0 is white, which Pillow minds in bytes only
        case _:
            return np.array(image.convert("RGB"))
