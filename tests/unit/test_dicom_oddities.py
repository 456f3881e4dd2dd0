"""DICOM as it comes: padding, no preamble, no transfer syntax, odd numbers of samples."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.filewriter import dcmwrite
from volume_files import dicom, series

from umedpt_lightning.data.formats.images import probe_image, read_image
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.volume.dicom import probe_dicom, read_dicom, read_slice
from umedpt_lightning.data.volume.dicom_file import is_deflated, is_dicom
from umedpt_lightning.data.volume.intensity import Percentiles, Window
from umedpt_lightning.data.volume.series import open_volume
from umedpt_lightning.data.volume.slices import Slices, VolumeImages

RNG = np.random.default_rng(0)
TISSUE = RNG.integers(1000, 3000, (8, 9)).astype(np.uint16)
OUTSIDE = np.zeros((8, 9), bool)
OUTSIDE[:, :3] = True
VOXELS = RNG.integers(1000, 3000, (7, 6, 5)).astype(np.uint16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


def padded(path: Path, value: int, dtype: Any = np.uint16, **tags: Any) -> Path:
    pixels = np.where(OUTSIDE, value, TISSUE).astype(dtype)
    return dicom(path, pixels, **{"Modality": "DX", "PixelPaddingValue": value} | tags)


# padding


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (63536, {}),
        (0, {}),
        (4095, {"BitsStored": 12}),
        (63536, {"BitsStored": 12}),  # needs more bits than pixels have
        (65000, {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 60000}),
        (65000, {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 65535}),
    ],
)
def test_padding_is_black_and_no_part_of_the_range(
    tmp_path: Path, photometric: str, value: int, tags: dict[str, Any]
) -> None:
    image = read_dicom(padded(tmp_path / "a.dcm", value, PhotometricInterpretation=photometric, **tags), windowed=True)
    assert (image[OUTSIDE] == 0).all()
    tissue = image[~OUTSIDE][:, 0].astype(float)
    assert (tissue.min(), tissue.max()) == (0, 65535)
    sign = 1 if photometric == "MONOCHROME2" else -1
    assert np.corrcoef(tissue, sign * TISSUE[~OUTSIDE].astype(float))[0, 1] > 0.999


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_black_under_a_window_and_a_look_up_table(tmp_path: Path, photometric: str) -> None:
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], np.arange(4096) * 16
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    lut.LUTData = (np.arange(4096) * 16).astype(int).tolist()
    for window in ({"WindowCenter": 2000, "WindowWidth": 2000}, {"VOILUTSequence": [lut]}):
        tags = window | {"PhotometricInterpretation": photometric}
        image = read_dicom(padded(tmp_path / "a.dcm", 4095, **tags), windowed=True)
        assert (image[OUTSIDE] == 0).all()
        assert image[~OUTSIDE].min() < image[~OUTSIDE].max()


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_of_values_in_their_own_unit_is_background(tmp_path: Path, photometric: str) -> None:
    plain = read_dicom(padded(tmp_path / "a.dcm", 63536, PhotometricInterpretation=photometric), windowed=False)
    assert (plain[OUTSIDE] == 0).all()
    np.testing.assert_array_equal(
        plain[~OUTSIDE][:, 0], TISSUE[~OUTSIDE] if photometric == "MONOCHROME2" else 65535 - TISSUE[~OUTSIDE]
    )
    scale = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "PhotometricInterpretation": photometric}
    hounsfield = read_dicom(padded(tmp_path / "b.dcm", -2000, np.int16, **scale), windowed=False)
    assert hounsfield.dtype == np.float32
    assert (hounsfield[OUTSIDE] == min(-1000, hounsfield[~OUTSIDE].min())).all()
    low = dicom(tmp_path / "c.dcm", np.where(OUTSIDE, -2000, -900).astype(np.int16), PixelPaddingValue=-2000, **scale)
    assert np.unique(read_dicom(low, windowed=False)).size == (1 if photometric == "MONOCHROME2" else 2)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize(("written", "signed"), [(63536, True), (-2000, False)])
def test_the_sign_of_a_padding_value_is_that_of_the_pixels(
    tmp_path: Path, implicit: bool, written: int, signed: bool
) -> None:
    pixels = np.where(OUTSIDE, -2000, TISSUE.astype(np.int32)).astype(np.int16 if signed else np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels, Modality="MR", PixelPaddingValue=-2000 if signed else 63536)
    dataset = pydicom.dcmread(path)
    dataset["PixelPaddingValue"] = pydicom.DataElement("PixelPaddingValue", "US" if written > 0 else "SS", written)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dcmwrite(path, dataset)
    image = read_image(path)
    assert (image[OUTSIDE] == 0).all()
    assert (image[~OUTSIDE].min(), image[~OUTSIDE].max()) == (0, 65535)


def test_an_image_of_padding_alone_or_without_any_is_read_as_well(tmp_path: Path) -> None:
    empty = dicom(tmp_path / "a.dcm", np.full((4, 5), 7, np.uint16), Modality="DX", PixelPaddingValue=7)
    assert (read_dicom(empty, windowed=True) == 0).all()
    assert (read_dicom(empty, windowed=False) == 0).all()
    none = dicom(tmp_path / "b.dcm", TISSUE, Modality="DX", PixelPaddingValue=7)
    np.testing.assert_array_equal(
        read_dicom(none, windowed=True), read_dicom(dicom(tmp_path / "c.dcm", TISSUE, Modality="DX"), windowed=True)
    )


def test_readers_see_no_padding(tmp_path: Path) -> None:
    for k in range(2):
        padded(tmp_path / "x" / f"{k}.dcm", 63536)
    shown, raw = ClassFolders(tmp_path)[0].image, ClassFolders(tmp_path, value_range=(0, 4095))[0].image
    assert (shown[OUTSIDE] == 0).all()
    assert shown[~OUTSIDE].max() == 65535
    assert raw.max() <= 4095


def padded_series(
    folder: Path, value: int, stored: Any = np.int16, limit: int | None = None, **tags: Any
) -> tuple[Path, np.ndarray]:
    outside = np.zeros(VOXELS.shape, bool)
    outside[:4] = True
    outside[:, :, 0] = True  # a whole slice
    ends = sorted((value, value if limit is None else limit))
    padding = RNG.integers(ends[0], ends[1], VOXELS.shape, endpoint=True)
    series(folder, np.where(outside, padding, VOXELS.astype(np.int32)).astype(stored))
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        for name, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
            if number is not None:
                dataset.add_new(name, "SS" if value < 0 else "US", number)
        for name, tag in tags.items():
            setattr(dataset, name, tag)
        dataset.save_as(file)
    return folder, outside


def views(path: Path, axis: str, **options: Any) -> np.ndarray:
    images = VolumeImages([path], Slices(axis=axis), options.get("intensity"), None, options.get("value_range"), "test")
    return np.concatenate([images.read(i)[0].ravel() for i in range(len(images))])


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(
    ("value", "stored", "limit"),
    [
        (-2000, np.int16, None),
        (63536, np.uint16, None),
        (65535, np.uint16, 60000),
        (60000, np.uint16, 65535),
        (-2000, np.int16, -1000),
    ],
)
def test_padding_of_series_counts_for_no_percentile_and_becomes_0(
    tmp_path: Path, axis: str, value: int, stored: Any, limit: int | None, photometric: str
) -> None:
    tags = {"PhotometricInterpretation": photometric}
    folder, outside = padded_series(tmp_path / "s", value, stored, limit, **tags)
    planes = [open_volume(folder).plane(2, k) for k in range(VOXELS.shape[2])]
    np.testing.assert_array_equal(np.isnan(np.stack(planes, -1)), outside)
    shown = views(folder, axis, intensity=Percentiles(0, 100))
    assert (shown == 0).sum() >= outside.sum()
    inside = np.sort(shown)[outside.sum() :]
    assert (inside[0], inside[-1]) == (0, 1)
    expected = (VOXELS[~outside] - VOXELS[~outside].min()) / np.ptp(VOXELS[~outside].astype(float))
    expected = expected if photometric == "MONOCHROME2" else 1 - expected
    np.testing.assert_allclose(inside, np.sort(expected), atol=1e-4)
    windowed = views(folder, axis, intensity=Window(-5000, 70000))
    assert (windowed == 0).sum() == outside.sum()


def test_padding_of_series_without_a_window_becomes_the_low_end(tmp_path: Path) -> None:
    folder, outside = padded_series(tmp_path / "a", -2000, Modality="CT", RescaleIntercept=-1024, RescaleSlope=1)
    for axis in ("axial", "coronal"):
        assert (views(folder, axis, value_range=(-1000, 400)) == -1000).sum() == outside.sum()
    folder, outside = padded_series(tmp_path / "b", 63536, np.uint16, Modality="MR")
    plain = views(folder, "axial")
    assert plain.dtype == np.uint16
    assert (plain == 0).sum() == outside.sum()
    np.testing.assert_array_equal(np.sort(plain)[outside.sum() :], np.sort(VOXELS[~outside]))


def test_a_series_of_padding_alone_is_background(tmp_path: Path) -> None:
    folder, _ = padded_series(tmp_path / "a", -2000)
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelData = np.full((6, 7), -2000, np.int16).tobytes()
        dataset.save_as(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (views(folder, "axial", intensity=Percentiles(1, 99)) == 0).all()


# files that lack what the standard asks


def stripped(path: Path, way: str) -> Path:
    """The file without its preamble, its file meta information, or its transfer syntax."""
    dataset = pydicom.dcmread(path)
    match way:
        case "preamble":
            path.write_bytes(path.read_bytes()[132:])
        case "meta, implicit" | "meta, explicit":
            del dataset.file_meta
            dcmwrite(path, dataset, implicit_vr="implicit" in way, little_endian=True, enforce_file_format=False)
        case "meta, big endian":
            swapped = dataset.pixel_array.astype(">u2").tobytes()
            del dataset.file_meta
            dataset.PixelData = swapped
            dcmwrite(path, dataset, implicit_vr=False, little_endian=False, enforce_file_format=False)
        case "transfer syntax":
            head, tail = path.read_bytes().split(b"\x02\x00\x10\x00UI", 1)
            length = int.from_bytes(tail[:2], "little")
            size = int.from_bytes(head[140:144], "little") - 8 - length
            path.write_bytes(head[:140] + size.to_bytes(4, "little") + head[144:] + tail[2 + length :])
    return path


WAYS = ["preamble", "meta, implicit", "meta, explicit", "meta, big endian", "transfer syntax"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["a.dcm", "IM0001", "1.2.840.17"])
def test_dicom_without_preamble_or_transfer_syntax_is_read(tmp_path: Path, way: str, name: str) -> None:
    for tags in ({"Modality": "DX", "PixelPaddingValue": 63536}, {"Modality": "CT", "RescaleIntercept": -1024}):
        whole = dicom(tmp_path / "whole.dcm", np.where(OUTSIDE, 63536, TISSUE).astype(np.uint16), **tags)
        path = stripped(dicom(tmp_path / name, np.where(OUTSIDE, 63536, TISSUE).astype(np.uint16), **tags), way)
        assert is_dicom(path)
        assert not is_deflated(path)
        for windowed in (True, False):
            expected = read_image(whole, windowed=windowed)
            np.testing.assert_array_equal(read_image(path, windowed=windowed), expected)
            assert probe_image(path, windowed=windowed) == (1, expected.dtype)


@pytest.mark.parametrize("way", WAYS)
def test_series_of_such_files_are_volumes(tmp_path: Path, way: str) -> None:
    whole = open_volume(series(tmp_path / "whole", VOXELS))
    for file in series(tmp_path / "odd", VOXELS).iterdir():
        stripped(file, way).rename(file.with_suffix(""))
    odd = open_volume(tmp_path / "odd")
    for axis in range(3):
        np.testing.assert_array_equal(odd.plane(axis, 2), whole.plane(axis, 2))


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"path,label\na.png,x\n", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table").write_bytes(content)
    assert not is_dicom(tmp_path / "table")
    (tmp_path / "a.dcm").write_bytes(content * 20)
    with pytest.raises(ValueError, match=r"a\.dcm: not a DICOM image that can be read"):
        probe_dicom(tmp_path / "a.dcm", windowed=True)


def test_compressed_pixels_without_a_transfer_syntax_are_named(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(dicom(tmp_path / "a.dcm", TISSUE))
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(30)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    dataset.save_as(tmp_path / "a.dcm")
    stripped(tmp_path / "a.dcm", "transfer syntax")
    with pytest.raises(ValueError, match=r"a\.dcm: .*compressed, but it does not say how"):
        read_dicom(tmp_path / "a.dcm", windowed=True)


@pytest.mark.parametrize("modality", ["MG", "CT"])
def test_a_broken_look_up_table_is_named(tmp_path: Path, modality: str) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], b"ab"
    name = "VOILUTSequence" if modality == "MG" else "ModalityLUTSequence"
    path = dicom(tmp_path / "a.dcm", TISSUE, Modality=modality, **{name: [table]})
    with pytest.raises(ValueError, match=r"a\.dcm: not a DICOM image that can be read"):
        read_dicom(path, windowed=True)
    if modality == "CT":
        with pytest.raises(ValueError, match=r"a\.dcm: not a DICOM image that can be read"):
            read_slice(path, 0)


def test_a_palette_of_bytes_may_be_stored_in_words(tmp_path: Path) -> None:
    palette = RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    tags: dict[str, Any] = {}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tags[f"{colour}PaletteColorLookupTableData"] = palette[i].tobytes()
    pixels = (TISSUE & 255).astype(np.uint8)
    path = dicom(tmp_path / "a.dcm", pixels, Modality="US", PhotometricInterpretation="PALETTE COLOR", **tags)
    image = read_dicom(path, windowed=True)
    assert (3, image.dtype) == probe_dicom(path, windowed=True)
    np.testing.assert_array_equal(image, palette[:, pixels].transpose(1, 2, 0))


def test_a_header_without_the_high_bit_or_with_one_that_cannot_be_keeps_its_values(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 4096, (4, 5)).astype(np.uint16)
    for high in (None, 0, 11):
        path = dicom(tmp_path / "a.dcm", pixels, BitsStored=12, HighBit=high)
        np.testing.assert_array_equal(read_dicom(path, windowed=False)[..., 0], pixels)


def test_a_header_that_lacks_the_number_of_samples_is_named(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a.dcm", RNG.integers(0, 9, (4, 5)).astype(np.uint16), SamplesPerPixel=None)
    assert probe_dicom(path, windowed=True) == (1, np.uint16)
    with pytest.raises(ValueError, match=r"a\.dcm: .*Samples per Pixel"):
        read_dicom(path, windowed=True)


@pytest.mark.parametrize("space", ["YBR_PARTIAL_420", "HSV"])
def test_colours_that_nothing_turns_into_rgb_are_refused(tmp_path: Path, space: str) -> None:
    pixels = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    path = dicom(tmp_path / "a.dcm", pixels, Modality="US", PhotometricInterpretation=space)
    for read in (probe_dicom, read_dicom):
        with pytest.raises(ValueError, match=rf"a\.dcm: its colours are {space}, which .* Save it as RGB"):
            read(path, windowed=True)


@pytest.mark.parametrize("samples", [2, 4])
def test_other_numbers_of_samples_are_refused(tmp_path: Path, samples: int) -> None:
    pixels = RNG.integers(0, 256, (4, 5, samples), dtype=np.uint8)
    tags = {"Rows": 4, "Columns": 5, "SamplesPerPixel": samples, "PhotometricInterpretation": "ARGB"}
    path = dicom(tmp_path / "a.dcm", pixels, Modality="US", PlanarConfiguration=0, **tags)
    with pytest.raises(ValueError, match=rf"a\.dcm: {samples} values a pixel \(ARGB\), but DICOM images are grey"):
        probe_dicom(path, windowed=True)
    with pytest.raises(ValueError, match=r"a\.dcm: "):
        read_dicom(path, windowed=True)
