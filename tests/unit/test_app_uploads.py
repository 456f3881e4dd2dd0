"""Files that somebody drops: those that can be used are as they were stored, the others are told."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import spec_of
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.app import uploads
from umedpt_lightning.app.uploads import for_task, load
from umedpt_lightning.data.readers.folders import ClassFolders
from umedpt_lightning.data.readers.volumes import VolumeClasses
from umedpt_lightning.data.volume.intensity import Window
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.types import ClassSpec


def _png(width: int, height: int) -> bytes:
    """A PNG of few bytes that says to hold so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (20, 30)), (np.uint16, (20, 30)), (np.uint8, (20, 30, 3))])
def test_intensities_stay_as_they_are_stored(tmp_path: Path, suffix: str, dtype: type, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    Image.fromarray(image).save(tmp_path / f"image{suffix}")
    found = load(tmp_path / f"image{suffix}")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.reshape(shape), image)


def _files(folder: Path) -> dict[str, Path]:
    """Bad files by what their message says."""
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    whole.save(folder / "whole.jpg")
    contents = {
        "not an image": b"hello",
        "is truncated": (folder / "whole.jpg").read_bytes()[:900],
        "0 bytes": b"",
        "far too many pixels": _png(60_000, 60_000),
        r"9000 x 9000 pixels.*67 million": _png(9000, 9000),
        "1 x 1 pixels": _png(1, 1),
        "3 x 500 pixels": _png(3, 500),
    }
    files = {}
    for i, (message, content) in enumerate(contents.items()):
        files[message] = folder / f"file{i}.png"
        files[message].write_bytes(content)
    files["not numbers"] = folder / "nan.tif"
    Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(files["not numbers"])
    files["holds 2 pages"] = folder / "pages.tif"
    whole.save(files["holds 2 pages"], save_all=True, append_images=[whole])
    files["no longer here"] = folder / "gone.png"
    return files


def test_a_bad_file_is_told_by_its_name_alone(tmp_path: Path) -> None:
    for message, file in _files(tmp_path).items():
        with pytest.raises(ValueError, match=message) as error:
            load(file)
        assert file.name in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_too_many_pixels_are_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(9000, 9000))
    monkeypatch.setattr(uploads, "read_image", lambda path: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="million"):
        load(tmp_path / "bomb.png")


def test_a_dicom_file_is_read_and_a_deflated_one_is_not(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    for name, syntax in (
        ("plain", pydicom.uid.ExplicitVRLittleEndian),
        ("small", pydicom.uid.DeflatedExplicitVRLittleEndian),
    ):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "OT", 20, 20, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit = 15
        data.PixelData = pixels.tobytes()
        data.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    assert load(tmp_path / "plain.dcm").shape == (20, 20, 1)
    with pytest.raises(ValueError, match=r"small\.dcm: this DICOM file is deflated"):
        load(tmp_path / "small.dcm")
    (tmp_path / "noise.dcm").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"noise\.dcm"):
        load(tmp_path / "noise.dcm")


def test_a_dicom_file_is_read_as_the_task_was_trained(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    from volume_files import dicom

    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    pixels = np.random.default_rng(0).integers(0, 1200, (20, 20)).astype(np.uint16)
    for part in ("a", "b"):
        window = {"WindowCenter": 500, "WindowWidth": 1000, "Modality": "MR"}
        dicom(tmp_path / "data" / part / "x.dcm", pixels, **window, **place)
    file = tmp_path / "data" / "a" / "x.dcm"
    for value_range in (None, (0.0, 1200.0)):
        reader = ClassFolders(tmp_path / "data", value_range=value_range)
        np.testing.assert_array_equal(load(file, Opening.as_trained(reader.spec, None)), reader[0].image)
    (tmp_path / "t.csv").write_text("path,label\ndata/a/x.dcm,y\n")
    volumes = VolumeClasses(tmp_path / "t.csv", None, intensity=Window(100, 900))
    np.testing.assert_array_equal(load(file, Opening.as_trained(volumes.spec, None)), volumes[0].image)
    with pytest.raises(ValueError, match=r"x\.dcm: its only plane is axial, but slices are to be coronal"):
        load(file, Opening.as_trained(replace(volumes.spec, cut={"slices": {"axis": "coronal"}}), None))


def _image(dtype: Any = np.uint8, channels: int = 1, side: int = 16) -> NDArray[Any]:
    most = 255 if dtype == np.uint8 else 4095
    return np.linspace(0, most, side * side * channels).reshape(side, side, channels).astype(dtype)


def test_an_image_that_fits_is_given_as_it_is() -> None:
    image = _image()
    given, notes = for_task(image, spec_of("class", channels=1), None, stretch=False)
    assert given is image
    assert notes == []


@pytest.mark.parametrize(("found", "wanted"), [(1, 3), (3, 1)])
def test_grey_and_colour_become_each_other_and_it_is_said(found: int, wanted: int) -> None:
    given, notes = for_task(_image(channels=found), spec_of("class", channels=wanted), None, stretch=False)
    assert given.shape == (16, 16, wanted)
    assert len(notes) == 1


@pytest.mark.parametrize("wanted", [2, 4, 5])
def test_other_channels_are_told(wanted: int) -> None:
    with pytest.raises(ValueError, match=f"with {wanted} channels, but this one has 3"):
        for_task(_image(channels=3), spec_of("class", channels=wanted), None, stretch=False)


def test_another_bit_depth_is_told_and_mended_by_stretching() -> None:
    spec = ClassSpec(channels=1, classes=("a", "b"), value_range=(0.0, 255.0))
    deep = _image(np.uint16)
    assert "0 to 4095" in for_task(deep, spec, None, stretch=False)[1][0]
    given, notes = for_task(deep, spec, None, stretch=True)
    assert (given.min(), given.max()) == (0, 255)
    assert notes == ["Intensities 0 to 4095 were stretched to 0 to 255."]
    flat = np.full((16, 16, 1), 7, np.uint8)
    assert for_task(flat, spec, None, stretch=True)[0] is flat, "a flat image cannot be stretched"


def test_only_a_task_of_a_fixed_size_takes_very_many_pixels() -> None:
    huge = np.broadcast_to(np.uint8([[[0, 100, 200]]]), (5000, 5000, 3))
    assert for_task(huge, spec_of("class"), (64, 64), stretch=False)[0] is huge
    with pytest.raises(ValueError, match="5000 x 5000 pixels"):
        for_task(huge, spec_of("mask"), None, stretch=False)
