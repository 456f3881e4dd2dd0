"""DICOM series as volumes: the frames of a folder or file, sorted by their position in space."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.unpacked import fingerprint, unpacked
from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.formats.missing import no_such_file
from umedpt_lightning.data.volume import dicom, dicom_file
from umedpt_lightning.data.volume.volume_files import open_volume_file, volume_suffix
from umedpt_lightning.data.volume.volumes import Volume, mapped_plane

#: Share of the distance between slices by which single distances may differ.
_UNEVEN = 0.1
#: Cosine between the normals of two slices that count as parallel; positions are rounded by scanners.
_PARALLEL = 0.9999
_TAGS = [
    "SeriesInstanceUID SeriesDescription Modality NumberOfFrames Rows Columns SamplesPerPixel PixelSpacing",
    "ImagePositionPatient ImageOrientationPatient PhotometricInterpretation BitsAllocated PixelRepresentation",
    "RescaleSlope RescaleIntercept ModalityLUTSequence",
    "PixelPaddingValue PixelPaddingRangeLimit FloatPixelPaddingValue DoubleFloatPixelPaddingValue",
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence",
]


@dataclass(frozen=True)
class _Frame:
    """One frame of a series.

    Attributes:
        number: Which one of its file.
        series: UID and description.
        size: Rows and columns.
        spacing: mm between rows and between columns.
        position: ``(3,)`` mm, LPS: the middle of the first pixel.
        along: ``(2, 3)`` the directions in which columns and rows are counted, LPS.
        padded: Whether its file says what padding is.
    """

    path: Path
    number: int
    series: tuple[str, str]
    size: tuple[int, int]
    spacing: tuple[float, float]
    position: NDArray[np.float64]
    along: NDArray[np.float64]
    dtype: np.dtype[Any]
    padded: bool

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.along[0], self.along[1])


class DicomVolume(Volume):
    """One DICOM series of parallel, evenly spaced slices, in the unit of its values.

    A plane along the slices is read from its own file. Planes across them need every file: the series is decoded once
    into the folder `cache_folder`. `path` is a folder with the files of one series, or a file of one or several frames.

    Raises:
        ImportError: pydicom or nibabel is missing.
        ValueError: The files cannot be read, are of several series, or do not make up a volume.
    """

    def __init__(self, path: Path) -> None:
        frames = _sorted([frame for file in _files(path) for frame in _frames(file)], path)
        first, last = frames[0], frames[-1]
        step = (last.position - first.position) / (len(frames) - 1) if len(frames) > 1 else first.normal
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = first.along[0] * first.spacing[1], first.along[1] * first.spacing[0]
        affine[:3, 2], affine[:3, 3] = step, first.position
        affine[:2] *= -1  # LPS, as DICOM counts, to RAS
        dtypes = {frame.dtype for frame in frames}
        dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        padded = any(frame.padded for frame in frames)
        super().__init__(path, (first.size[1], first.size[0], len(frames)), affine, dtype, padded)
        self._files = np.array([os.fsencode(frame.path) for frame in frames])
        self._numbers = np.array([frame.number for frame in frames], np.int32)
        self._size = first.size

    @property
    def frames(self) -> list[tuple[Path, int]]:
        """The file of each slice along the last stored axis, and which of its frames it is."""
        return [(self._path(k), int(number)) for k, number in enumerate(self._numbers)]

    def _read(self, axis: int, index: int) -> NDArray[Any]:
        if axis == 2:
            return self._slice(index).T[..., None]
        name = fingerprint(sorted({self._path(k) for k in range(len(self._files))}))
        dtype = self.plane_dtype
        stack = unpacked(f"{name}-{dtype.name}{'-padded' * self.padded}.raw", self._write, self.path)
        return mapped_plane(stack, dtype, 0, (*self._size[::-1], len(self._files)), axis, index)

    def _path(self, k: int) -> Path:
        return Path(os.fsdecode(self._files[k].item()))

    def _slice(self, k: int) -> NDArray[Any]:
        """``(J, I)``, of `plane_dtype`."""
        image = dicom.read_slice(self._path(k), int(self._numbers[k]))
        if image.shape != self._size:
            raise ValueError(
                f"{self._path(k)}: the image is {image.shape} (HxW), but its series has slices of {self._size}. "
                "Export the series again."
            )
        return image.astype(self.plane_dtype, copy=False)

    def _write(self, stream: IO[bytes]) -> None:
        for k in range(len(self._files)):
            stream.write(self._slice(k).tobytes())


def open_volume(path: Path) -> Volume:
    """The volume of a file (NIfTI, FreeSurfer, NRRD, MetaImage, DICOM), or of a folder with one DICOM series.

    Raises FileNotFoundError, ImportError without its library, or ValueError where it is none that can be used.
    """
    if path.suffix.lower() == ".hdr":  # of a pair, where a file of voxels goes with it
        path = path.with_suffix(".img")
    if volume_suffix(path) and path.is_file():
        return open_volume_file(path)
    if path.exists():
        return DicomVolume(path)
    raise no_such_file(path, "Correct the path or the table that names it.")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if dicom_file.is_dicom(file) or dicom_file.begins_like_dicom(file)]
    files = [file for file in files if file.name.upper() != "DICOMDIR"]
    if not files:
        raise ValueError(
            f"{path}: there are no DICOM files in this folder (sub-folders are not searched). Name the folder of one "
            "series, or a file of a volume, such as .nii.gz."
        )
    return sorted(files, key=lambda file: natural_key(file.name))


def _frames(path: Path) -> list[_Frame]:
    header = dicom_file.read_header(path, [tag for line in _TAGS for tag in line.split()])
    if "Rows" not in header or header.get("SamplesPerPixel", 1) != 1:
        what = f"in colour ({header.get('PhotometricInterpretation')})" if "Rows" in header else "no image"
        raise ValueError(f"{path}: a volume has grey slices, but this file is {what}. Take it out of the folder.")
    count = int(header.get("NumberOfFrames") or 1)
    # the frames of one file may each have their own scale, which is not looked for
    dtype = dicom.value_dtype(header) if count == 1 else np.dtype(np.float32)
    result = []
    for number in range(count):
        position = dicom_file.frame_value(header, number, "PlanePositionSequence", "ImagePositionPatient")
        along = dicom_file.frame_value(header, number, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = dicom_file.frame_value(header, number, "PixelMeasuresSequence", "PixelSpacing")
        if not (position and along and spacing):
            lacking = {"ImagePositionPatient": position, "ImageOrientationPatient": along, "PixelSpacing": spacing}
            raise ValueError(
                f"{path}: a slice of a volume has a place in space, but this one has no "
                f"{[name for name, value in lacking.items() if not value]}. Leave it out (it may be a localiser or a "
                "screenshot), or read the files as single images with ClassFolders or the Manifest readers."
            )
        directions = np.array(along, np.float64).reshape(2, 3)
        result.append(
            _Frame(
                path=path,
                number=number,
                series=(str(header.get("SeriesInstanceUID", "")), str(header.get("SeriesDescription", ""))),
                size=(int(header.Rows), int(header.Columns)),
                spacing=(float(spacing[0]), float(spacing[1])),
                position=np.array(position, np.float64),
                along=directions / np.linalg.norm(directions, axis=1, keepdims=True),
                dtype=dtype,
                padded=dicom_file.is_padded(header),
            )
        )
    return result


def _sorted(frames: list[_Frame], path: Path) -> list[_Frame]:
    """The frames along their normal; raises ValueError where they are not even, parallel slices of one series."""
    first = frames[0]
    for frame in frames[1:]:
        if frame.series[0] != first.series[0]:
            raise ValueError(
                f"{path}: files of several series, such as {first.path.name} ({first.series[1] or first.series[0]}) "
                f"and {frame.path.name} ({frame.series[1] or frame.series[0]}). Put each series in a folder of its own."
            )
        if frame.size != first.size or not np.allclose(frame.spacing, first.spacing, rtol=1e-3):
            raise ValueError(
                f"{path}: {frame.path.name} has {frame.size} pixels (HxW) of {frame.spacing} mm, but {first.path.name} "
                f"has {first.size} of {first.spacing} mm. Put slices of one size in a folder of their own."
            )
        turned = np.einsum("ij,ij->i", frame.along, first.along).min()  # cosines, of columns and of rows
        if turned < _PARALLEL:
            raise ValueError(
                f"{path}: {frame.path.name} and {first.path.name} are turned against each other by "
                f"{np.degrees(np.arccos(np.clip(turned, -1, 1))):.1f} degrees. Take localisers out of the folder, or "
                "give each orientation its own."
            )
    places = np.array([frame.position @ first.normal for frame in frames])  # mm
    order = np.argsort(places, kind="stable")
    frames, places = [frames[k] for k in order], places[order]
    if len(frames) < 2:
        return frames
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    same = np.flatnonzero(gaps <= max(_UNEVEN * usual, 1e-3))
    if len(same):
        raise ValueError(
            f"{path}: {len(same)} slices lie where another one does, the first {_name(frames[same[0]])} and "
            f"{_name(frames[same[0] + 1])} at {places[same[0]]:.2f} mm. Remove copies; give each phase, echo or "
            "reconstruction a folder of its own."
        )
    # slices of a tilted series lie on a line as well, though not along their normal
    ends = np.array([frames[0].position, frames[-1].position])
    line = ends[0] + (places - places[0])[:, None] / (places[-1] - places[0]) * (ends[1] - ends[0])
    aside = np.abs((np.array([frame.position for frame in frames]) - line) @ first.along.T).max(axis=1)  # mm
    if aside.max() > max(first.spacing):
        raise ValueError(
            f"{path}: {_name(frames[int(aside.argmax())])} lies {aside.max():.2f} mm beside the line through the first "
            "and the last slice. Give the slices of each place of the table a folder of their own."
        )
    odd = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if len(odd):
        raise ValueError(
            f"{path}: slices are {usual:.2f} mm apart, but {_name(frames[odd[0]])} and {_name(frames[odd[0] + 1])} "
            f"{gaps[odd[0]]:.2f} mm, one of {len(odd)} such gaps. Add the missing files, or leave this series out."
        )
    return frames


def _name(frame: _Frame) -> str:
    return frame.path.name if frame.number == 0 else f"{frame.path.name}[{frame.number}]"
