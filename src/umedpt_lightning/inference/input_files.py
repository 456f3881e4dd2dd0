"""An input: an image, a volume or a slide by its suffix or content, and what results call it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from PIL.TiffImagePlugin import TILEWIDTH, TiffImageFile

from umedpt_lightning.data.formats.files import walk
from umedpt_lightning.data.formats.images import image_suffixes
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import no_such_file
from umedpt_lightning.data.volume.dicom_file import is_dicom, read_header
from umedpt_lightning.data.volume.volume_files import companions, volume_suffix

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
    if is_dicom(path):
        return _dicom_kind(path, preference)
    if suffix in _SLIDES or (suffix in _TIFFS and _is_pyramid(path, preference)):
        return "slide"
    return "image" if suffix in image_suffixes() else None


def _dicom_kind(path: Path, preference: Preference) -> FileKind | None:
    header = read_header(path, _TAGS)
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


@dataclass(frozen=True, slots=True)
class InputFile:
    """An image, a volume or a slide.

    Attributes:
        id: What it is called in results: its path below the folder that was given, a file's name, or what a table says.
            No two files share one, and it never leads out of a folder that it is joined to.
        group: What a table says, such as the patient; else the id.
        kind: What it is.
        file: Its file, or the folder of a DICOM series.
        coco_id: The id of the image in a COCO file; None where nothing says one.
    """

    id: str
    group: str
    kind: FileKind
    file: str  # many of them are kept, and a Path takes five times the memory
    coco_id: int | str | None = None

    @property
    def path(self) -> Path:
        """As `file`."""
        return Path(self.file)

    @property
    def state(self) -> bytes:
        """Other bytes when the file, or one in the folder, has changed: of its name, size and time of change.

        So have they when a file has changed that is read with it, such as the header of a volume.
        """
        alone = [self.path, *map(Path, companions(self.file))]
        return b"".join(map(_state, sorted(self.path.iterdir()) if self.path.is_dir() else alone))

    @property
    def stamp(self) -> str:
        """Another text when `state` is another one."""
        return hashlib.sha256(self.state).hexdigest()[:32]


def _state(file: Path) -> bytes:
    try:
        stat = file.stat()
        of = f"{stat.st_size}\0{stat.st_mtime_ns}"
    except OSError:  # a file that is gone is told where it is read
        of = "gone"
    return os.fsencode(file.name) + f"\0{of}".encode()


def named_inputs(
    id: str, group: str | None, path: Path, preference: Preference, coco_id: int | str | None = None
) -> list[InputFile]:
    """A file that was named, and so must be there and be readable; of a folder of DICOM images each of them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is nothing that can be read.
    """
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r}: a path has no character NUL. Correct it.")
    if path.is_dir():  # of a table: all else would be many inputs in one row
        kinds = {
            file: kind_of(file, preference)
            for file in sorted(walk(path, deep=False), key=lambda f: natural_key(f.name))
        }
        slices = [file for file, kind in kinds.items() if kind == "dicom" or (kind == "image" and is_dicom(file))]
        if not slices:
            raise ValueError(f"{path}: a folder in a table is a DICOM series, but here is no slice of one. Name files.")
        if preference.volumes:
            return [InputFile(id, group or id, "dicom", str(path), coco_id)]
        return [InputFile(f"{id}/{f.name}", group or id, kinds[f] or "image", str(f)) for f in slices]
    if not path.is_file():
        raise no_such_file(path, "Correct the path.")
    kind = kind_of(path, preference)
    if kind is None:
        raise ValueError(
            f"{path}: this is no image, NIfTI file, DICOM image or slide by its name. Leave it out, or give it the "
            "suffix of what it is."
        )
    return [InputFile(id, group or id, kind, str(path), coco_id)]


def tame(path: str) -> str:
    """A path as an id: without what leads to the root or upwards."""
    return "/".join(part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "//", "..", "."))


def id_fault(id: str) -> str:
    """What is wrong with an id; empty where nothing is."""
    if not id.strip("/. "):
        return "is empty"
    if any(ord(character) < 32 for character in id):
        return "has control characters"
    if any("\ud800" <= character <= "\udfff" for character in id):  # Python's stand-ins for bytes that are no text
        return "is not UTF-8"
    drive = id[1:2] == ":"
    if drive or id.startswith(("/", "\\")) or ".." in id.replace("\\", "/").split("/"):
        return "leads out of a folder"
    return ""
