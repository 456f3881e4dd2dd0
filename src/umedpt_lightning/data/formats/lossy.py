"""Which image files were stored with loss."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_MAYBE = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".jpf", ".webp", ".avif", ".tif", ".tiff"]
)
#: How Pillow names the ways in which a TIFF is compressed with loss.
_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
_HEAD = 1 << 16


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
