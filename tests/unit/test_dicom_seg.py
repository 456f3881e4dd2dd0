"""Masks of DICOM series as segmentations, read again by pydicom and highdicom."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from volume_files import FRAMES as SHAPE
from volume_files import PLANES, whole_series

from umedpt_lightning.data.volume.series import DicomVolume, open_volume
from umedpt_lightning.inference.output.dicom_seg import write_dicom_seg

CLASSES = ("background", "liver", "lesion")


def mask_of(volume: DicomVolume) -> NDArray[np.uint8]:
    """Random classes ``(X, Y, Z)`` in RAS order, none of them in one of the frames."""
    stored = np.random.default_rng(1).integers(0, 3, SHAPE[::-1]).astype(np.uint8)  # columns, rows, frames
    stored[:, :, 2] = 0
    turned = np.zeros(volume.shape, np.uint8)
    # `as_stored` gives a view of what it is given, into which the stored order is written
    volume.as_stored(turned)[...] = stored
    return turned


@pytest.mark.parametrize("plane", PLANES)
def test_a_segmentation_is_read_again_where_the_series_is(plane: str, tmp_path: Path) -> None:
    volume = open_volume(whole_series(tmp_path / "ct", PLANES[plane]))
    assert isinstance(volume, DicomVolume)
    voxels = mask_of(volume)
    write_dicom_seg(voxels, volume, CLASSES, "organs", tmp_path / "x.dcm")

    made = pydicom.dcmread(tmp_path / "x.dcm")
    sources = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    first = next(iter(sources.values()))
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate", "AccessionNumber"):
        assert made[tag].value == first[tag].value
    assert made.SeriesInstanceUID != first.SeriesInstanceUID
    assert made.Modality == "SEG"
    assert [s.SegmentLabel for s in made.SegmentSequence] == ["liver", "lesion"]
    assert [s.SegmentAlgorithmType for s in made.SegmentSequence] == ["AUTOMATIC"] * 2

    # frame by frame, by pydicom alone: the same pixels at the place of the slice that it names
    at = {tuple(np.round(one.ImagePositionPatient, 3)): uid for uid, one in sources.items()}
    stored = volume.as_stored(voxels)
    order = {pydicom.dcmread(path).SOPInstanceUID: k for k, (path, _) in enumerate(volume.frames)}
    expected = {(k, index) for k in range(SHAPE[0]) for index in (1, 2) if (stored[:, :, k] == index).any()}
    assert 2 not in {k for k, _ in expected}
    for frame, groups in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        k = order[at[tuple(np.round(position, 3))]]
        index = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        named = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert order[named] == k
        assert np.array_equal(frame.astype(bool), index == stored[:, :, k].T)
        expected.remove((k, index))
    assert not expected
    shared = made.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.7, 0.9]
    np.testing.assert_allclose(shared.PlaneOrientationSequence[0].ImageOrientationPatient, PLANES[plane])

    # as a volume, by highdicom: where each voxel lies in the patient
    read = highdicom.seg.segread(tmp_path / "x.dcm").get_volume(combine_segments=True)
    back = np.zeros(SHAPE[::-1], np.uint8)
    for place in np.argwhere(np.ones(read.array.shape, bool)):
        lps = read.affine @ [*place, 1]
        ras = lps * [-1, -1, 1, 1]
        i, j, k, _ = np.rint(np.linalg.solve(volume.stored_affine, ras)).astype(int)
        back[i, j, k] = read.array[tuple(place)]
    assert np.array_equal(back, stored)


def test_a_mask_of_background_is_written(tmp_path: Path) -> None:
    volume = open_volume(whole_series(tmp_path / "ct", PLANES["axial"]))
    assert isinstance(volume, DicomVolume)
    write_dicom_seg(np.zeros(volume.shape, np.uint8), volume, CLASSES, "organs", tmp_path / "x.dcm")
    assert not pydicom.dcmread(tmp_path / "x.dcm").pixel_array.any()


def test_a_series_that_lacks_what_the_standard_asks_is_told_with_the_mend(tmp_path: Path) -> None:
    volume = open_volume(whole_series(tmp_path / "ct", PLANES["axial"], StudyInstanceUID=None))
    assert isinstance(volume, DicomVolume)
    with pytest.raises(
        ValueError, match=r"ct: no DICOM segmentation can be made .*StudyInstanceUID.*Export the series"
    ):
        write_dicom_seg(mask_of(volume), volume, CLASSES, "organs", tmp_path / "x.dcm")
    assert not (tmp_path / "x.dcm").exists()
