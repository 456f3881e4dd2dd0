"""DICOM files: which ones they are, their headers and stored pixels, also of files that lack what the standard asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.missing import unreadable

SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".dic", ".dc3"})
#: Attributes beside the pixel description (group 0028) that say how to read the pixels.
_TAGS = [
    0x00080060,  # Modality
    0x52009229,  # SharedFunctionalGroupsSequence
    0x52009230,  # PerFrameFunctionalGroupsSequence
]
#: A file that is read with force is DICOM if it has one of these.
_MARKS = ("SOPClassUID", "Modality", "Rows")
_KINDS = ("", "Float", "DoubleFloat")  # of pixels: each has attributes of its own
_MEND = (
    'Export it again, or, where a decoder is missing, pip install "umedpt-lightning[dicom]", or save it without '
    "compression."
)
_unreadable = partial(unreadable, "a DICOM image", _MEND)


def is_dicom(path: Path | str) -> bool:
    """Whether this is a DICOM file by its suffix or, having none, by its first bytes."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in SUFFIXES:
        return True
    # Scanners name files by their UID, which looks like a long suffix of digits.
    if suffix and not suffix[1:].isdigit():
        return False
    return begins_like_dicom(path)


def begins_like_dicom(path: Path | str) -> bool:
    """Whether the file starts as DICOM files do, or as a data set does that lacks the preamble in front of it."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    if len(head) < 8:
        return False
    if head[128:] == b"DICM":
        return True
    # the tag of the first element, then its type or the length of its value
    group, element, length = (int.from_bytes(head[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
    typed = head[4:6].isalpha() and head[4:6].isupper()
    return group in (0x0002, 0x0008) and element < 0x0100 and (typed or length < 128)


def read_header(path: Path, tags: list[str] | None = None) -> Any:
    """The data set without its pixels; of `tags` only, where given; raises ValueError where it cannot be read."""
    with readable(path):
        return _read(path, stop_before_pixels=True, specific_tags=None if tags is None else [*tags, *_MARKS])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises ValueError with the name of the file where the block raises anything but ImportError."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # broken files raise nearly anything
        raise _unreadable(path, error) from error


def decoded(path: Path, frame: int) -> tuple[NDArray[Any], Any]:
    """The stored pixels of one frame, ``(H, W)`` or ``(H, W, samples)``, and the data set that describes them.

    Raises ImportError without pydicom, and ValueError where the file cannot be read.
    """
    pixels = require("pydicom.pixels", "dicom", path)
    header = require("pydicom", "dicom", path).Dataset()
    with readable(path):
        syntax = _transfer_syntax(path)
        if syntax is not None and not syntax.is_deflated:
            # all bits, as padding may need more of them than pixels do
            options = {"correct_unused_bits": syntax.is_encapsulated, "specific_tags": _TAGS}
            return pixels.pixel_array(path, ds_out=header, index=frame, **options), header
        header = _read(path)  # all of it: pixel_array does not inflate a file, nor guess what it does not say
        return pixels.pixel_array(header, index=frame, correct_unused_bits=False), header


def frame_value(header: Any, frame: int, group: str, tag: str) -> Any:
    """An attribute of one frame: its own, that shared by all, or the plain one; None if there is none."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    for item in (*per_frame[frame : frame + 1], *shared):
        if group in item and tag in item[group][0]:
            return item[group][0][tag].value
    return header.get(tag)


def is_deflated(path: Path) -> bool:
    """Whether a file is compressed as a whole, so that its header does not say how large it becomes."""
    with readable(path):
        syntax = _transfer_syntax(path)
        return bool(syntax and syntax.is_deflated)


def _transfer_syntax(path: Path) -> Any:
    """As the file says it; None where it does not."""
    try:
        return require("pydicom.filereader", "dicom", path).read_file_meta_info(path).get("TransferSyntaxUID")
    except require("pydicom.errors", "dicom", path).InvalidDicomError:  # without a preamble
        return None


def _read(path: Path, **options: Any) -> Any:
    """The data set, with the transfer syntax that its bytes show where the file does not say one."""
    pydicom = require("pydicom", "dicom", path)
    dataset = pydicom.dcmread(path, force=True, **options)
    if not any(name in dataset for name in _MARKS):
        raise ValueError(f"it has none of {', '.join(_MARKS)}")
    meta = getattr(dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise ValueError("its pixels are compressed, but it does not say how: there is no transfer syntax")
        implicit, little = dataset.original_encoding
        plain = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta = meta = pydicom.dataset.FileMetaDataset() if meta is None else meta
        meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else plain
    return dataset


def is_padded(header: Any) -> bool:
    """Whether the file says a value that padding has."""
    return any(_value(header, f"{kind}PixelPaddingValue") is not None for kind in _KINDS)


def padding_of(stored: NDArray[Any], meaningful: NDArray[Any], header: Any) -> NDArray[np.bool_] | None:
    """``(H, W)`` the pixels with the padding value or, where a limit is said, in its range; None without any.

    Both are in stored values (PS3.3 C.7.5.1.1.2), and may need more of the bits in `stored` than those that are
    `meaningful`.
    """
    kind = next((kind for kind in _KINDS if _value(header, f"{kind}PixelPaddingValue") is not None), None)
    if kind is None:
        return None
    ends = (_value(header, f"{kind}PixelPadding{end}") for end in ("Value", "RangeLimit"))
    limits = [_wrapped(end, stored.dtype) for end in ends if end is not None]
    low, high = min(limits), max(limits)
    found: NDArray[np.bool_] = np.zeros(stored.shape, np.bool_)
    for values in (stored, meaningful):
        found |= (values >= low) & (values <= high)
    return found if found.any() else None


def _value(header: Any, tag: str) -> float | None:
    value = header.get(tag)
    return None if value is None or value == "" else float(value[0] if isinstance(value, list) else value)


def _wrapped(value: float, dtype: np.dtype[Any]) -> float:
    """The number that the same bits are in a dtype: many files write -2000 as 63536, or the other way round."""
    if dtype.kind not in "iu":
        return value
    limits = np.iinfo(dtype)
    return (int(value) - int(limits.min)) % (int(limits.max) - int(limits.min) + 1) + int(limits.min)
