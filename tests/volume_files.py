"""Volumes of known geometry, written as NIfTI and DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def nifti(
    path: Path, voxels: NDArray[Any], spacing: tuple[float, ...] = (1, 1, 1), axes: str = "RAS", turn: float = 0
) -> Path:
    """Writes RAS voxels stored along `axes`, turned by some degrees about all three axes."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-10, 20, 30)
    for first in range(3):
        turned = np.eye(4)
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        i, j = first, (first + 1) % 3
        turned[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        affine = turned @ affine
    orientations = nibabel.orientations
    change = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(tuple(axes)))
    stored = orientations.apply_orientation(voxels, change)
    affine = affine @ orientations.inv_ornt_aff(change, voxels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(stored, affine).to_filename(path)
    return path


def dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """One file; CT without scale unless `tags` say otherwise, None leaves one out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    bits = 8 * pixels.dtype.itemsize
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    standard: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": dataset.file_meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "Modality": "CT",
        "Rows": pixels.shape[-3 if colour else -2],
        "Columns": pixels.shape[-2 if colour else -1],
        "SamplesPerPixel": 3 if colour else 1,
        "PlanarConfiguration": 0 if colour else None,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": tags.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    for name, value in (standard | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, voxels: NDArray[Any], spacing: tuple[float, ...] = (1, 1, 1), plane: str = "axial") -> Path:
    """Writes RAS voxels as slices of a plane, the first file in the middle, the origin that of `nifti`."""
    x, y, z = spacing
    corner = np.array([10, -20, 30.0])  # of the voxel (0, 0, 0), LPS
    for place, k in enumerate(np.roll(np.arange(voxels.shape["sca".index(plane[0])]), 2)):
        match plane:
            case "axial":  # columns to the left, rows to the back: both against RAS
                pixels, along, gap = voxels[::-1, ::-1, k].T, (1, 0, 0, 0, 1, 0), (y, x)
                position = np.add(corner, [-x * (voxels.shape[0] - 1), -y * (voxels.shape[1] - 1), z * k])
            case "coronal":  # columns to the left, rows down
                pixels, along, gap = voxels[::-1, k, ::-1].T, (1, 0, 0, 0, 0, -1), (z, x)
                position = np.add(corner, [-x * (voxels.shape[0] - 1), -y * k, z * (voxels.shape[2] - 1)])
            case _:  # columns to the back, rows down
                pixels, along, gap = voxels[k, ::-1, ::-1].T, (0, 1, 0, 0, 0, -1), (z, y)
                position = np.add(corner, [-x * k, -y * (voxels.shape[1] - 1), z * (voxels.shape[2] - 1)])
        geometry = {"ImagePositionPatient": position.tolist(), "ImageOrientationPatient": list(along)}
        dicom(folder / f"{place}.dcm", np.ascontiguousarray(pixels), **geometry, PixelSpacing=list(gap))
    return folder


#: The directions of columns and rows, LPS.
PLANES = {
    "axial": [1, 0, 0, 0, 1, 0],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "coronal": [1, 0, 0, 0, 0, -1],
    "oblique": [0.8, 0.48, -0.36, 0, 0.6, 0.8],
}
#: Frames, rows and columns of `whole_series`.
FRAMES = (6, 5, 4)


def whole_series(folder: Path, along: list[float], **tags: Any) -> Path:
    """A series with all that an archive wants, its files in no order."""
    rng = np.random.default_rng(0)
    normal = np.cross(along[:3], along[3:])
    common = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "PatientID": "p7",
        "PatientName": "Doe^Jo",
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        "StudyID": "1",
        "StudyDate": "20240102",
        "StudyTime": "101112",
        "AccessionNumber": "a1",
        "ReferringPhysicianName": "",
        "SeriesNumber": 3,
        "PositionReferenceIndicator": "",
        "Manufacturer": "m",
        "SliceThickness": 2.5,
        "PixelSpacing": [0.7, 0.9],
        "ImageOrientationPatient": along,
    }
    for k in range(FRAMES[0]):
        position = np.array([-10, 20, 5]) + 2.5 * k * normal
        place = {"ImagePositionPatient": [round(float(p), 5) for p in position], "InstanceNumber": k + 1}
        pixels = rng.integers(0, 100, FRAMES[1:]).astype(np.int16)
        dicom(folder / f"{(5 * k + 2) % 7}.dcm", pixels, **(common | place | tags))
    return folder
