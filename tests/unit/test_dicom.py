"""DICOM files as images of every reader, and series as volumes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from reader_samples import mask
from volume_files import dicom, nifti, series

from umedpt_lightning.data.cache.unpacked import cache_folder
from umedpt_lightning.data.formats.images import probe_image, read_image
from umedpt_lightning.data.readers import ClassFolders, MaskFolders, VolumeMaskFolders
from umedpt_lightning.data.volume.dicom import probe_dicom, read_dicom
from umedpt_lightning.data.volume.intensity import Window
from umedpt_lightning.data.volume.series import open_volume
from umedpt_lightning.data.volume.slices import Slices, VolumeImages

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 3000, (7, 6, 5), dtype=np.uint16)
RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


def read(path: Path, pixels: np.ndarray, windowed: bool = True, **tags: Any) -> np.ndarray:
    image = read_dicom(dicom(path, pixels, **tags), windowed=windowed)
    assert probe_dicom(path, windowed=windowed) == (image.shape[-1], image.dtype)
    return image[..., 0] if image.shape[-1] == 1 else image


def item(**tags: Any) -> list[Dataset]:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return [dataset]


# single images


def test_measured_values_keep_their_unit(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    for windowed in (True, False):
        hounsfield = read(path, RAMP, windowed, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=9)
        assert hounsfield.dtype == np.float32
        np.testing.assert_array_equal(hounsfield, RAMP * 2.0 - 1024)
    np.testing.assert_array_equal(read(path, RAMP.astype(np.int16) - 500), RAMP - 500.0)
    plain = read(path, RAMP, windowed=False, Modality="DX", WindowCenter=0, WindowWidth=9)
    assert plain.dtype == np.uint16
    np.testing.assert_array_equal(plain, RAMP)


def test_other_greys_are_shown_through_the_first_window(tmp_path: Path) -> None:
    window = {"Modality": "DX", "WindowCenter": [600.5, 1], "WindowWidth": [401, 2], "BitsStored": 12}
    image = read(tmp_path / "a.dcm", RAMP, **window)
    assert image.dtype == np.uint16
    expected = np.clip((RAMP - 400.0) / 400, 0, 1) * 65535
    np.testing.assert_allclose(image, expected, atol=1)
    inverted = read(tmp_path / "a.dcm", RAMP, **window, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(inverted, 65535 - expected, atol=1)
    exact = read(tmp_path / "a.dcm", RAMP, **window | {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 600})
    np.testing.assert_allclose(exact, np.clip((RAMP - 399.5) / 401, 0, 1) * 65535, atol=1)
    sigmoid = read(tmp_path / "a.dcm", RAMP, **window | {"VOILUTFunction": "SIGMOID", "WindowCenter": 600})
    assert sigmoid.ravel()[6] == 32768
    assert (np.diff(sigmoid.ravel().astype(int)) > 0).all()


def test_without_a_window_the_whole_range_of_the_image_is_shown(tmp_path: Path) -> None:
    image = read(tmp_path / "a.dcm", RAMP.astype(np.int16) - 300, Modality="MR")
    np.testing.assert_allclose(image, RAMP / 1100 * 65535, atol=1)
    assert read(tmp_path / "a.dcm", RAMP.astype(np.uint8), Modality="US").dtype == np.uint8
    assert (read(tmp_path / "a.dcm", RAMP * 0, Modality="MR") == 0).all()
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):  # a width that is none
        window = {"WindowCenter": 0, "WindowWidth": 0, "VOILUTFunction": function}
        image = read(tmp_path / "a.dcm", RAMP.astype(np.int16) - 300, Modality="MR", **window)
        np.testing.assert_allclose(image, RAMP / 1100 * 65535, atol=1)


def test_look_up_tables_are_applied(tmp_path: Path) -> None:
    table = [0, 4095, 2048, *[0] * 9]
    lut = item(LUTDescriptor=[12, 0, 12], LUTData=table)
    lut[0]["LUTDescriptor"].VR, lut[0]["LUTData"].VR = "US", "US"
    image = read(tmp_path / "a.dcm", RAMP // 100, Modality="MG", VOILUTSequence=lut, WindowCenter=1, WindowWidth=2)
    assert image.ravel()[:3].tolist() == [0, 65535, 32776]


def test_monochrome1_values_are_inverted_in_their_stored_range(tmp_path: Path) -> None:
    tags = {"windowed": False, "BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", RAMP, **tags), 4095 - RAMP)
    scaled = read(tmp_path / "a.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-10, **tags)
    np.testing.assert_array_equal(scaled, (4095 - RAMP) * 2.0 - 10)


def test_bits_outside_the_value_are_dropped_and_signs_kept(tmp_path: Path) -> None:
    overlay = np.where(np.arange(12).reshape(3, 4) % 2, 0xF000, 0).astype(np.uint16)
    stored = read(tmp_path / "a.dcm", RAMP | overlay, windowed=False, BitsStored=12)
    np.testing.assert_array_equal(stored, RAMP)
    signed = (RAMP.astype(np.int16) - 500) & 0x0FFF  # 12-bit two's complement without the sign above
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", signed.astype(np.int16), BitsStored=12), RAMP - 500.0)


def test_colours_become_rgb(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm", rgb, Modality="US"), rgb)
    grey = np.full((4, 6, 3), (90, 128, 128), np.uint8)
    ybr = read(tmp_path / "a.dcm", grey, Modality="US", PhotometricInterpretation="YBR_FULL")
    assert (ybr == 90).all()


def test_every_reader_of_images_takes_dicom(tmp_path: Path) -> None:
    for k in range(2):
        dicom(tmp_path / "images" / f"{k}.dcm", RAMP, RescaleIntercept=-1000, RescaleSlope=1)
        mask(tmp_path / "masks" / f"{k}.png", shape=(3, 4))
        dicom(tmp_path / "classes" / "ab"[k] / "x.dcm", RAMP, Modality="DX", BitsStored=(12, 14)[k])
    masks = MaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"], value_range=(-1000, 400))
    np.testing.assert_array_equal(masks[1].image[..., 0], RAMP - 1000.0)
    with pytest.raises(ValueError, match=r"0\.dcm: float32 images have no natural range.*Hounsfield"):
        MaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"])
    classes = ClassFolders(tmp_path / "classes", channels=3)
    assert classes.spec.value_range == (0, 65535)
    assert (classes[0].image.shape, classes[0].image.dtype) == ((3, 4, 3), np.uint16)
    raw = ClassFolders(tmp_path / "classes", value_range=(0, 4095))
    np.testing.assert_array_equal(raw[1].image[..., 0], RAMP)
    shutil.copy(tmp_path / "images" / "0.dcm", tmp_path / "1.2.840.9")  # no suffix: known by its first bytes
    assert probe_image(tmp_path / "1.2.840.9") == (1, np.float32)


def test_files_that_are_no_image_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("broken")
    for function in (read_image, probe_image):
        with pytest.raises(ValueError, match=r"a\.dcm: not a DICOM image that can be read"):
            function(tmp_path / "a.dcm")
    whole = dicom(tmp_path / "b.dcm", RAMP).read_bytes()
    (tmp_path / "b.dcm").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"b\.dcm: not a DICOM image"):
        read_image(tmp_path / "b.dcm")
    film = dicom(tmp_path / "c.dcm", np.stack([RAMP] * 3), NumberOfFrames=3)
    for function in (read_image, probe_image):
        with pytest.raises(ValueError, match=r"c\.dcm: a sample is one 2-D image, but this file holds 3 frames"):
            function(film)
    report = get_testdata_file("reportsi.dcm", download=False)
    with pytest.raises(ValueError, match=r"reportsi\.dcm: this DICOM file holds no image"):
        probe_image(report)


REAL = "CT_small MR_small MR_small_RLE JPEG2000 693_J2KI SC_rgb_rle SC_rgb_rle_16bit examples_palette examples_jpeg2k"
REAL += " MR_small_bigendian MR_small_jpeg_ls_lossless SC_ybr_full_422_uncompressed ExplVR_BigEnd liver_1frame"


@pytest.mark.parametrize("name", REAL.split())
def test_real_files_are_read_as_probed(name: str) -> None:
    path = get_testdata_file(f"{name}.dcm", download=False)
    if path is None:
        pytest.skip(f"this pydicom comes without {name}.dcm")
    header = pydicom.dcmread(path)
    for windowed in (True, False):
        image = read_image(path, windowed=windowed)
        assert probe_image(path, windowed=windowed) == (image.shape[-1], image.dtype)
        assert image.dtype in (np.uint8, np.uint16, np.float32)
        assert image.dtype.isnative
        assert image.shape[:2] == (header.Rows, header.Columns)
        assert image.min() < image.max()
    if header.PhotometricInterpretation == "MONOCHROME2" and header.get("BitsAllocated") == 16:
        slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
        stored = pixel_array(header)
        measured = stored != header.get("PixelPaddingValue", -(2**31))
        np.testing.assert_allclose(image[..., 0][measured], (stored * slope + intercept)[measured])


# series


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_series_are_the_volume_that_nifti_is(tmp_path: Path, plane: str) -> None:
    spacing = (0.5, 1, 3)
    scan = open_volume(series(tmp_path / "scan", VOXELS, spacing, plane))
    same = open_volume(nifti(tmp_path / "scan.nii", VOXELS, spacing))
    np.testing.assert_allclose(scan.affine, same.affine, atol=1e-9)
    assert (scan.shape, scan.dtype) == (same.shape, same.dtype)
    for axis in range(3):
        for index in range(same.shape[axis]):
            np.testing.assert_array_equal(scan.plane(axis, index), same.plane(axis, index))
    assert len(list(cache_folder().iterdir())) == 1


def test_oblique_and_tilted_series_keep_their_geometry(tmp_path: Path) -> None:
    cosine, sine = np.cos(0.3), np.sin(0.3)
    for k in range(5):
        place = [0, 0, 2.0 * k]  # not along the normal: a gantry that is tilted
        along = [1, 0, 0, 0, cosine, sine]
        pixels = np.ascontiguousarray(VOXELS[::-1, ::-1, k].T)
        tags = {"ImagePositionPatient": place, "ImageOrientationPatient": along, "PixelSpacing": [1, 1]}
        dicom(tmp_path / f"{9 - k}.dcm", pixels, **tags)
    scan = open_volume(tmp_path)
    np.testing.assert_allclose(scan.spacing, (1, 1, 2))
    np.testing.assert_allclose(scan.affine[:3, 1], (0, cosine, -sine), atol=1e-9)
    for index in range(5):
        np.testing.assert_array_equal(scan.plane(2, index), VOXELS[..., index])


def test_slices_along_a_series_need_no_cache(tmp_path: Path) -> None:
    reader = VolumeImages([series(tmp_path / "scan", VOXELS)], None, Window(0, 3000), None, None, "test")
    np.testing.assert_allclose(reader.read(2)[0][..., 0], VOXELS[::-1, ::-1, 2].T / 3000, rtol=1e-6)
    assert not cache_folder().exists()
    assert reader.name(2) == f"{tmp_path}/scan[axial 2]"


def test_series_pair_with_label_volumes(tmp_path: Path) -> None:
    series(tmp_path / "images" / "case1", VOXELS, (0.5, 1, 3))
    nifti(tmp_path / "masks" / "case1.nii.gz", (VOXELS > 1500).astype(np.float32), (0.5, 1, 3), "SAL")
    slices = Slices(axis="sagittal", spacing=0.5)
    reader = VolumeMaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"], slices=slices)
    for sample in reader:
        assert sample.target.shape == (30, 12)
    plain = VolumeMaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"])
    for sample in plain:
        np.testing.assert_array_equal(sample.target, sample.image[..., 0] > 1500)


def test_frames_of_one_file_are_sorted_by_their_own_position(tmp_path: Path) -> None:
    order, slopes = [3, 0, 4, 1, 2], [5, 0.5, 2, 1, 3]  # the first frame has a scale of 1, but others have not
    frames = np.stack([VOXELS[::-1, ::-1, k].T for k in order])
    groups = []
    for k in order:
        (group,) = item(PlanePositionSequence=item(ImagePositionPatient=[0, 0, 3.0 * k]))
        group.PixelValueTransformationSequence = item(RescaleSlope=slopes[k], RescaleIntercept=0)
        groups.append(group)
    (shared,) = item(PixelMeasuresSequence=item(PixelSpacing=[1, 0.5]))
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    path = dicom(
        tmp_path / "a.dcm",
        frames,
        NumberOfFrames=5,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
    )
    scan = open_volume(path)
    np.testing.assert_allclose(scan.spacing, (0.5, 1, 3))
    expected = VOXELS * np.array(slopes)
    for index in range(5):
        np.testing.assert_array_equal(scan.plane(2, index), expected[..., index])
    np.testing.assert_array_equal(scan.plane(0, 2), expected[2])


def test_series_that_are_no_volume_are_named(tmp_path: Path) -> None:
    def broken(name: str, **tags: Any) -> Path:
        folder = series(tmp_path / name, VOXELS)
        dataset = pydicom.dcmread(folder / "3.dcm")
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        dataset.save_as(folder / "3.dcm")
        return folder

    position, here = (pydicom.dcmread(series(tmp_path / "x", VOXELS) / f"{k}.dcm").ImagePositionPatient for k in (2, 3))
    for number, (tags, match) in enumerate(
        (
            ({"SeriesInstanceUID": "1.2.4", "SeriesDescription": "T2"}, r"several series.*0\.dcm.*3\.dcm \(T2\).*own"),
            (
                {"ImagePositionPatient": position},
                r"1 slices lie where another one does.*2\.dcm and 3\.dcm.*Remove copies",
            ),
            (
                {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
                r"3\.dcm and 0\.dcm are turned .* 90\.0 degrees.*localiser",
            ),
            (
                {"ImagePositionPatient": [float(np.add(here, [0, 1.5, 0])[i]) for i in range(3)]},
                r"3\.dcm lies 1\.50 mm beside the line through the first and the last slice",
            ),
            ({"PixelSpacing": [2, 2]}, r"3\.dcm has \(6, 7\) pixels \(HxW\) of \(2\.0, 2\.0\) mm.*one size"),
            ({"ImagePositionPatient": None}, r"3\.dcm: .*has no \['ImagePositionPatient'\]"),
        )
    ):
        with pytest.raises(ValueError, match=match):
            open_volume(broken(str(number), **tags))
    (series(tmp_path / "gap", VOXELS) / "3.dcm").unlink()
    with pytest.raises(ValueError, match=r"slices are 1\.00 mm apart, but .*2\.00 mm, one of 1 such gaps. Add"):
        open_volume(tmp_path / "gap")
    dicom(tmp_path / "colour" / "a.dcm", np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.dcm: a volume has grey slices.*colour \(RGB\)"):
        open_volume(tmp_path / "colour")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are no DICOM files in this folder"):
        open_volume(tmp_path / "empty")
