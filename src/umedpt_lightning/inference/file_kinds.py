"""What a file is, by its suffix and where that does not say it by its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from PIL.TiffImagePlugin import TILEWIDTH, TiffImageFile

from umedpt_lightning.data.formats.images import image_suffixes
from umedpt_lightning.data.volume import dicom_file
from umedpt_lightning.data.volume.volume_files import volume_suffix

#: ``dicom`` is a volume: a series, its folder or one file, whose slices have a place in space.
FileKind: TypeAlias = Literal["image", "nifti", "dicom", "slide"]
#: Of slides alone; a TIFF may be one too.
_SLIDES = frozenset({".svs", ".scn", ".bif", ".ndpi"})
_TIFFS = frozenset({".tif", ".tiff"})
_SUB_IFDS = 330  # the tag that OME-TIFF keeps the levels of its pyramid in
_TAGS = ["Rows", "NumberOfFrames", "ImagePositionPatient", "PerFrameFunctionalGroupsSequence"]


@dataclass(frozen=True)
class Preference:
    """What a task takes a file for that could be several things: what the reader of its training takes it for.

    Attributes:
        volumes: DICOM slices that have a place in space are a volume; else each file is an image.
        slides: A TIFF image that has smaller copies of itself is a slide; else it is an image.
    """

    volumes: bool = True
    slides: bool = True


def kind_of(path: Path, preference: Preference) -> FileKind | None:
    """What a file is; None where it is nothing that can be read.

    Raises:
        ImportError: It is DICOM, and pydicom is missing.
        ValueError: It is DICOM that cannot be read.
    """
    suffix = path.suffix.lower()
    if volume_suffix(path):
        return "nifti"
    if dicom_file.is_dicom(path):
        return _dicom_kind(path, preference)
    if suffix in _SLIDES or (suffix in _TIFFS and _is_pyramid(path, preference)):
        return "slide"
    return "image" if suffix in image_suffixes() else None


def _dicom_kind(path: Path, preference: Preference) -> FileKind | None:
    header = dicom_file.read_header(path, _TAGS)
    if "Rows" not in header:  # a report, a plan, or the index of a medium
        return None
    several = int(header.get("NumberOfFrames") or 1) > 1  # which no reader of images takes
    if not preference.volumes and not several:
        return "image"
    frames = header.get("PerFrameFunctionalGroupsSequence") or ()
    placed = header.get("ImagePositionPatient") or any("PlanePositionSequence" in frame for frame in frames)
    return "dicom" if placed else "image"


def _is_pyramid(path: Path, preference: Preference) -> bool:
    """Whether a TIFF has tiles and several levels."""
    try:
        # not by Image.open, which refuses what is large
        with path.open("rb") as stream:
            image = TiffImageFile(stream)
            # levels that are pages of their own are nothing that a reader of images takes
            hidden = preference.slides and _SUB_IFDS in image.tag_v2
            return TILEWIDTH in image.tag_v2 and (hidden or image.n_frames > 1)
    except Exception:  # broken files raise nearly anything; reading it tells what is wrong
        return False
