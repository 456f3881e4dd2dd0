"""DICOM images to arrays: one frame, as the values it measures or as a viewer shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.volume.dicom_file import decoded, frame_value, padding_of, read_header, readable

# Their values have a unit, which a display window would throw away.
_MEASURING = frozenset({"CT", "PT"})
_AIR = -1000  # Hounsfield units
#: Of three values a pixel: what pydicom turns into RGB, or decoders have turned already.
_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})


def probe_dicom(path: Path, *, windowed: bool) -> tuple[int, np.dtype[Any]]:
    """Channels and dtype that `read_dicom` would give, from the header alone; raises as that does."""
    header = read_header(path)
    if "Rows" not in header or "PhotometricInterpretation" not in header:
        raise ValueError(
            f"{path}: this DICOM file holds no image ({header.get('Modality', 'no modality')}). Leave it out."
        )
    _check_single(header, path)
    _check_colours(header, path)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        return 3, _palette_dtype(header)
    if header.get("SamplesPerPixel") == 3:
        return 3, np.dtype("uint8" if header.BitsAllocated <= 8 else "uint16")
    if windowed and not measures(header):
        return 1, np.dtype("uint8" if header.get("BitsStored", 16) <= 8 else "uint16")
    return 1, value_dtype(header)


def read_dicom(path: Path, frame: int | None = None, *, windowed: bool) -> NDArray[Any]:
    """Reads one image, ``(H, W, C)`` uint8, uint16 or float32.

    Grey values are rescaled to what they measure (slope and intercept, or the look-up table), MONOCHROME1 is inverted
    so that more is brighter, colours of any kind become RGB. What the file calls padding is background, and
    never counts for a range: black where a window is applied, else air (-1000 HU) or 0, or what is less in the image.

    Args:
        path: The file.
        frame: Which one of several; None where there must be one.
        windowed: Map greys to the full range of uint8 (up to 8 stored bits) or uint16 through the first window or
            look-up table of the file, or, if there is none, from the image's least value to its greatest, as viewers
            do. CT and PET, which measure, are left in their unit all the same.

    Raises:
        ImportError: pydicom is missing.
        ValueError: The file cannot be read, or holds no image or several.
    """
    stored, header = decoded(path, frame or 0)
    if frame is None:
        _check_single(header, path)
    if stored.ndim == 3:
        _check_colours(header, path)
        return np.array(stored, stored.dtype.newbyteorder("="))
    with readable(path):  # look-up tables may be broken
        if header.PhotometricInterpretation == "PALETTE COLOR":
            colours = np.array(require("pydicom.pixels", "dicom", path).apply_color_lut(stored, header))
            # bytes may be stored as words
            return colours.astype(_palette_dtype(header)) if colours.max() < 256 else colours
        if windowed and not measures(header):
            values, padding = _values(stored, header, frame or 0)
            return _displayed(values, padding, header, frame or 0)[..., None]
        values, padding = _measured(stored, header, frame or 0)
    if padding is not None:
        is_hounsfield = header.get("Modality") == "CT" or header.get("RescaleType") == "HU"
        values[padding] = values[~padding].min(initial=_AIR if values.dtype.kind == "f" and is_hounsfield else 0)
    return np.ascontiguousarray(values[..., None])


def read_slice(path: Path, frame: int) -> NDArray[Any]:
    """``(H, W)``: one grey frame as the values it measures; float32 with NaN where the file says that there is padding.

    Raises ImportError without pydicom, and ValueError where it cannot be read, or is no grey image.
    """
    stored, header = decoded(path, frame)
    if stored.ndim != 2:
        raise ValueError(f"{path}: the image is {stored.shape} (HxWxC), but a slice is grey. Export the series again.")
    with readable(path):
        values, padding = _measured(stored, header, frame)
    return values if padding is None else np.where(padding, np.float32(np.nan), values.astype(np.float32))


def measures(header: Any) -> bool:
    """Whether the grey values have a unit."""
    return header.get("Modality") in _MEASURING or header.get("RescaleType") == "HU"


def value_dtype(header: Any, frame: int = 0) -> np.dtype[Any]:
    """The dtype of grey values that are rescaled but not windowed: the stored one where nothing is to be done."""
    slope, intercept, table = _rescale_of(header, frame)
    plain = slope == 1 and intercept == 0 and not table and not header.get("PixelRepresentation")
    if not plain or header.BitsAllocated > 16 or "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        return np.dtype(np.float32)
    return np.dtype("uint8" if header.BitsAllocated <= 8 else "uint16")


def _palette_dtype(header: Any) -> np.dtype[Any]:
    return np.dtype("uint8" if header.RedPaletteColorLookupTableDescriptor[2] <= 8 else "uint16")


def _check_single(header: Any, path: Path) -> None:
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ValueError(
            f"{path}: a sample is one 2-D image, but this file holds {frames} frames. Read a volume with the Volume "
            "readers (VolumeClasses and so on), or save each frame of a film in its own file."
        )


def _check_colours(header: Any, path: Path) -> None:
    samples = int(header.get("SamplesPerPixel") or 1)
    if samples not in (1, 3):
        raise ValueError(
            f"{path}: {samples} values a pixel ({header.get('PhotometricInterpretation')}), but DICOM images are grey "
            "or RGB. Save it as one of them."
        )
    if samples == 3 and (space := header.get("PhotometricInterpretation")) not in _COLOURS:
        raise ValueError(f"{path}: its colours are {space}, which are not turned into RGB here. Save it as RGB.")


def _values(stored: NDArray[Any], header: Any, frame: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Stored values to what they measure, and where there is padding."""
    stored = np.asarray(stored, stored.dtype.newbyteorder("="))
    meaningful = _meaningful_bits(stored, header)
    return _rescaled(meaningful, header, frame), padding_of(stored, meaningful, header)


def _measured(stored: NDArray[Any], header: Any, frame: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """As `_values`, a new array, and more is brighter."""
    values, padding = _values(stored, header, frame)
    if header.PhotometricInterpretation == "MONOCHROME1":
        least = -(2 ** (int(header.BitsStored) - 1)) if header.get("PixelRepresentation") else 0
        ends = least, least + 2 ** int(header.BitsStored) - 1
        low, high = (_rescaled(np.array([end]), header, frame)[0] for end in ends)
        return (values.dtype.type(low) + values.dtype.type(high)) - values, padding
    return np.array(values), padding


def _meaningful_bits(stored: NDArray[Any], header: Any) -> NDArray[Any]:
    """The bits that belong to the value: older files hide overlays in the others."""
    allocated, bits, high = (int(header.get(key) or 0) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    high = max(high, bits - 1)  # some files do not say it
    native = not header.file_meta.TransferSyntaxUID.is_encapsulated  # decoders give the value itself
    if stored.dtype.kind not in "iu" or not native or not bits < allocated == 8 * stored.itemsize:
        return stored
    # up to the top and back down: fills with the sign, or with zeros if there is none
    return (stored << (allocated - 1 - high)) >> (allocated - bits)


def _rescale_of(header: Any, frame: int) -> tuple[float, float, bool]:
    slope, intercept = (
        frame_value(header, frame, "PixelValueTransformationSequence", tag)
        for tag in ("RescaleSlope", "RescaleIntercept")
    )
    table = bool(header.get("ModalityLUTSequence"))
    return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept)), table


def _rescaled(stored: NDArray[Any], header: Any, frame: int) -> NDArray[Any]:
    """Stored values to what they measure, in `value_dtype`."""
    slope, intercept, table = _rescale_of(header, frame)
    if table:
        pixels = require("pydicom.pixels", "dicom", "modality look-up table")
        return np.asarray(pixels.apply_modality_lut(stored, header), np.float32)
    return np.asarray(
        stored if (slope, intercept) == (1, 0) else stored * slope + intercept, value_dtype(header, frame)
    )


def _displayed(
    values: NDArray[Any], padding: NDArray[np.bool_] | None, header: Any, frame: int
) -> NDArray[np.uint8 | np.uint16]:
    """Rescaled values to the full range of uint8 or uint16, as PS3.3 C.11.2 of the DICOM standard shows them."""
    centre, width = (frame_value(header, frame, "FrameVOILUTSequence", f"Window{tag}") for tag in ("Center", "Width"))
    function = frame_value(header, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR"
    numbers = values.astype(np.float64)
    if header.get("VOILUTSequence"):
        pixels = require("pydicom.pixels", "dicom", "VOI look-up table")
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        numbers = pixels.apply_voi_lut(np.rint(numbers).astype(np.int64), header, prefer_lut=True) / (2.0**bits - 1)
    elif centre is None or width is None or not _first(width) > 0:  # a width of 0 says as little as none
        shown = numbers if padding is None or padding.all() else numbers[~padding]
        least, most = shown.min(), shown.max()
        numbers = (numbers - least) / max(most - least, 1e-6)
    else:
        c, w = _first(centre), _first(width)
        match function:
            case "SIGMOID":
                numbers = 1 / (1 + np.exp(-4 * (numbers - c) / w))
            case "LINEAR_EXACT":
                numbers = (numbers - c) / w + 0.5
            case _:
                numbers = (numbers - (c - 0.5)) / max(w - 1, 1e-6) + 0.5  # a width of 1 is a threshold
    numbers = np.clip(numbers, 0, 1)
    if header.PhotometricInterpretation == "MONOCHROME1":
        numbers = 1 - numbers
    if padding is not None:
        numbers[padding] = 0
    most, dtype = (255, np.uint8) if header.get("BitsStored", 16) <= 8 else (65535, np.uint16)
    return np.rint(numbers * most).astype(dtype)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list) or hasattr(value, "append") else value)
