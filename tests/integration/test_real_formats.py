"""Files that others made: those of pydicom, nibabel and the demo's packages, and depth up to the encoder."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch
from builders import SMALL_DETECTION, SMALL_PIXELS, small_encoder
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.demo import sources
from umedpt_lightning.data.readers import (
    ClassFolders,
    ManifestClasses,
    Reader,
    SlideClasses,
    SlideMasks,
    VolumeClasses,
    VolumeMaskFolders,
)
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.model import MultiTaskModel


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


def one_row(folder: Path, path: Path, annotations: str = "") -> Path:
    with (folder / "table.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "split", "annotations"], [path, "x", "train", annotations]])
    return folder / "table.csv"


# pydicom's files


def pydicom_folder() -> Path:
    """Never downloads, as pydicom's own look-up may."""
    data = pytest.importorskip("pydicom.data", reason="pydicom is not installed")
    return Path(data.__file__).parent / "test_files"


def pydicom_file(name: str) -> Path:
    path = pydicom_folder() / name
    if not path.exists():
        pytest.skip(f"this pydicom comes without {name}")
    return path


def measured(path: Path) -> NDArray[Any]:
    """What pydicom itself makes of a file: values in their unit, or RGB."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    dataset = pydicom.dcmread(path)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return np.asarray(pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset))
    if dataset.SamplesPerPixel == 3:
        return np.asarray(dataset.pixel_array)
    return np.asarray(pydicom.pixels.apply_modality_lut(dataset.pixel_array, dataset))


GREY = {
    "CT_small": np.float32,  # signed, intercept -1024
    "693_J2KI": np.float32,  # the same in JPEG 2000, 14 bits
    "J2K_pixelrep_mismatch": np.float32,
    "JPEG2000": np.float32,
    "MR_small": np.float32,
    "MR_small_RLE": np.float32,
    "MR_small_bigendian": np.float32,
    "MR_small_implicit": np.float32,
    "MR_small_jp2klossless": np.float32,
    "MR_small_jpeg_ls_lossless": np.float32,
    "MR_small_padded": np.float32,
    "JPEGLSNearLossless_16": np.uint16,
    "examples_overlay": np.uint16,  # 12 bits
    "JPEGLSNearLossless_08": np.uint8,
    "liver_1frame": np.uint8,  # 1 bit
}
COLOUR = {
    "ExplVR_BigEnd": np.uint8,
    "GDCMJ2K_TextGBR": np.uint8,
    "SC_rgb_dcmtk_+eb+cy+s2": np.uint8,
    "SC_rgb_jpeg_gdcm": np.uint8,
    "SC_rgb_rle": np.uint8,
    "SC_rgb_rle_16bit": np.uint16,
    "SC_rgb_small_odd": np.uint8,
    "SC_ybr_full_422_uncompressed": np.uint8,
    "examples_jpeg2k": np.uint8,
    "examples_palette": np.uint16,  # 8 bits, of 16-bit colours
    "examples_rgb_color": np.uint8,
}


@pytest.mark.filterwarnings("ignore:The pixel data is 8320 bytes long")
@pytest.mark.parametrize(("name", "dtype"), (GREY | COLOUR).items())
def test_dicom_files_are_what_pydicom_reads(tmp_path: Path, name: str, dtype: type) -> None:
    path = pydicom_file(f"{name}.dcm")
    expected = measured(path)
    reader = ManifestClasses(one_row(tmp_path, path), "train", value_range=(-1000, 3000))
    image = reader[0].image
    assert (reader.spec.channels, reader.spec.value_range) == (3 if name in COLOUR else 1, (-1000, 3000))
    assert image.dtype == dtype
    header = pytest.importorskip("pydicom").dcmread(path)
    if (value := header.get("PixelPaddingValue")) is not None:  # which is background
        expected = np.where(header.pixel_array == value, image[..., 0], expected)
    np.testing.assert_array_equal(image if name in COLOUR else image[..., 0], expected)


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_deflated_dicom_files_are_read(tmp_path: Path) -> None:
    path = pydicom_file("image_dfl.dcm")
    image = ManifestClasses(one_row(tmp_path, path), "train", value_range=(0, 255))[0].image
    np.testing.assert_array_equal(image[..., 0], measured(path))


def test_hounsfield_units_of_a_real_scan(tmp_path: Path) -> None:
    path = pydicom_file("CT_small.dcm")
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "a.dcm").symlink_to(path)
    for reader in (
        ClassFolders(tmp_path, value_range=(-1000, 400)),
        VolumeClasses(one_row(tmp_path, path), "train", value_range=(-1000, 400)),
    ):
        image = reader[0].image
        assert (image.shape, image.dtype) == ((128, 128, 1), np.float32)
        assert (image.min(), image.max()) == (-896, 1167)
        np.testing.assert_array_equal(image[..., 0], measured(path))


def test_a_real_series_is_its_slices_from_bottom_to_top(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    folder = pydicom_file("dicomdirtests/98892001/CT5N")
    height = {path: pydicom.dcmread(path).ImagePositionPatient[2] for path in folder.iterdir()}
    reader = VolumeClasses(one_row(tmp_path, folder), "train", value_range=(-1000, 400))
    assert len(reader) == len(height) == 5
    for sample, path in zip(reader, sorted(height, key=height.__getitem__), strict=True):
        np.testing.assert_array_equal(sample.image[..., 0], measured(path))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("77654033/CT2", r"CT2: slices are 1\.25 mm apart, but 17106 and 17136 202\.50 mm"),
        ("77654033/CR1", r"6154: a slice of a volume has a place in space"),
        ("98892003/MR1", r"MR1: files of several series, such as 4919 \(FAST LOCALIZER\)"),
        ("98892003/MR2", r"MR2: 4981 and 4950 are turned against each other by 90\.0 degrees"),
    ],
)
def test_real_folders_that_are_no_volume_are_named(tmp_path: Path, name: str, match: str) -> None:
    folder = pydicom_file(f"dicomdirtests/{name}")
    with pytest.raises(ValueError, match=match):
        VolumeClasses(one_row(tmp_path, folder), "train", value_range=(-1000, 400))


# nibabel's files

VOLUMES = {
    "anatomical.nii": ((33, 41, 25), np.float32),  # big-endian, stored to the left
    "reoriented_anat_moved.nii": ((21, 26, 22), np.float32),
    "resampled_anat_moved.nii": ((17, 21, 3), np.float32),
    "standard.nii.gz": ((4, 5, 7), np.uint8),
}


def nibabel_file(name: str) -> Path:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    if not path.is_file():
        pytest.skip(f"this nibabel comes without {name}")
    return path


def canonical(path: Path) -> Any:
    import nibabel

    return nibabel.as_closest_canonical(nibabel.load(path))


def planes(voxels: NDArray[Any], axis: str) -> list[NDArray[Any]]:
    """The slices of voxels in RAS order, as pictures."""
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[axis]
    return [plane[::-1, ::-1].T for plane in np.moveaxis(voxels, across, 0)]


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_what_nibabel_reads(tmp_path: Path, name: str, axis: Any) -> None:
    path = nibabel_file(name)
    shape, dtype = VOLUMES[name]
    voxels = canonical(path).get_fdata()
    assert voxels.shape == shape
    reader = VolumeClasses(one_row(tmp_path, path), "train", slices=Slices(axis), value_range=(0, 1))
    for sample, plane in zip(reader, planes(voxels, axis), strict=True):
        assert sample.image.dtype == dtype
        np.testing.assert_array_equal(sample.image[..., 0], plane.astype(dtype))


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_masks_lie_on_a_real_volume_however_they_are_stored(tmp_path: Path, axis: Any) -> None:
    path = nibabel_file("anatomical.nii")
    import nibabel

    whole = canonical(path)  # the labels are stored to the right, the image to the left
    voxels = whole.get_fdata()
    labels = (voxels > np.median(voxels)).astype(np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "a.nii").symlink_to(path)
    nibabel.Nifti1Image(labels, whole.affine).to_filename(tmp_path / "masks" / "a.nii.gz")
    reader = VolumeMaskFolders(
        tmp_path / "images", tmp_path / "masks", ["dark", "bright"], slices=Slices(axis), value_range=(0, 255)
    )
    for sample, image, mask in zip(reader, planes(voxels, axis), planes(labels, axis), strict=True):
        np.testing.assert_array_equal(sample.image[..., 0], image)
        np.testing.assert_array_equal(sample.target, mask)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("example4d.nii.gz", "128x96x24x2"),
        ("example_nifti2.nii.gz", "32x20x12x2"),
        ("functional.nii", "17x21x3x20"),
    ],
)
def test_volumes_over_time_are_an_error_with_its_mend(tmp_path: Path, name: str, shape: str) -> None:
    match = rf"{name}: a volume is 3-D, but this file is {shape}\. Save each volume .*four_to_three"
    with pytest.raises(ValueError, match=match):
        VolumeClasses(one_row(tmp_path, nibabel_file(name)), "train", value_range=(0, 1))


# slides of real pictures


def stardist_section() -> NDArray[np.uint8]:
    """A stained section, ``(300, 500, 3)``."""
    package = find_spec("stardist")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the picture is in stardist, which is not installed")
    path = Path(package.submodule_search_locations[0]) / "data" / "images" / "histo.jpg"
    if not path.is_file():
        pytest.skip("this stardist comes without histo.jpg")
    return np.array(Image.open(path))


def svs(path: Path, image: NDArray[np.uint8], mpp: float = 0.25) -> Path:
    """As Aperio's scanners write: the slide, a thumbnail, coarser levels, label; the size of pixels in a text."""
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    height, width = image.shape[:2]
    small = {factor: image[: height // factor * factor, : width // factor * factor] for factor in (1, 2, 4)}
    small = {f: cv2.resize(i, (width // f, height // f), interpolation=cv2.INTER_AREA) for f, i in small.items()}
    tiled = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
    strip = {"rowsperstrip": 16, "photometric": "rgb", "metadata": None}
    head = f"Aperio Image Library v11.2.1\r\n{width}x{height} [0,0 {width}x{height}] (64x64) Deflate"
    with tifffile.TiffWriter(path) as writer:
        writer.write(small[1], description=f"{head}|AppMag = 40|MPP = {mpp}", **tiled)
        writer.write(small[4], description=f"{head} -> {width // 4}x{height // 4}", **strip)
        for factor in (2, 4):
            writer.write(small[factor], description=f"{head} -> {width // factor}x{height // factor}", **tiled)
        writer.write(small[4][:32, :32], description=f"{head}\r\nlabel 32x32", subfiletype=1, **strip)
    return path


def test_tiles_of_an_svs_file_are_the_pixels_of_the_section(tmp_path: Path) -> None:
    pytest.importorskip("tiffslide", reason="tiffslide is not installed")
    section = stardist_section()
    file = one_row(tmp_path, svs(tmp_path / "a.svs", section))
    reader = SlideClasses(file, "train", tiles=Tiles(0.25, 50, tissue=None))
    assert len(reader) == 6 * 10
    for index, sample in enumerate(reader):
        y, x = 50 * (index // 10), 50 * (index % 10)
        np.testing.assert_array_equal(sample.image, section[y : y + 50, x : x + 50])
    half = SlideClasses(file, "train", tiles=Tiles(0.5, 50, tissue=None))
    means = cv2.resize(section, (250, 150), interpolation=cv2.INTER_AREA)
    assert len(half) == 3 * 5
    for index, sample in enumerate(half):
        y, x = 50 * (index // 5), 50 * (index % 5)
        np.testing.assert_array_equal(sample.image, means[y : y + 50, x : x + 50])
    assert 0 < len(SlideClasses(file, "train", tiles=Tiles(0.25, 50))) <= len(reader)


def pyramid(path: Path, image: NDArray[Any], mpp: float = 0.5) -> None:
    """A grey TIFF of three levels."""
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        for factor in (1, 2, 4):
            size = (image.shape[1] // factor, image.shape[0] // factor)
            writer.write(
                cv2.resize(image, size, interpolation=cv2.INTER_AREA),
                tile=(64, 64),
                photometric="minisblack",
                compression="deflate",
                resolution=(1e4 / mpp / factor,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
            )


def outline(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A GeoJSON annotation of rectangles, one row each, that together are exactly the pixels of a mask."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    rows = [
        [[[x1, y], [x2, y], [x2, y + 1], [x1, y + 1], [x1, y]]]
        for (y, x1), (_, x2) in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    return {
        "type": "Feature",
        "geometry": {"type": "MultiPolygon", "coordinates": rows},
        "properties": {"classification": {"name": "nucleus"}},
    }


def test_outlines_of_real_nuclei_on_a_16_bit_slide_are_their_pixels(tmp_path: Path) -> None:
    for package in ("tifffile", "tiffslide", "shapely"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    try:
        nuclei, labels = (sources.read_tiff(sources.SOURCES[f"nuclei_image{end}"]) for end in ("", "_labels"))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    pyramid(tmp_path / "a.tif", nuclei * 100)
    features = [outline(labels == label) for label in np.unique(labels)[1:]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    file = one_row(tmp_path, tmp_path / "a.tif", "a.geojson")
    reader = SlideMasks(file, "train", ["background", "nucleus"], tiles=Tiles(0.5, 128, tissue=None))
    assert len(reader) == 4 * 4
    for index, sample in enumerate(reader):
        y, x = 128 * (index // 4), 128 * (index % 4)
        assert sample.image.dtype == np.uint16
        np.testing.assert_array_equal(sample.image[..., 0], nuclei[y : y + 128, x : x + 128] * 100)
        np.testing.assert_array_equal(sample.target, labels[y : y + 128, x : x + 128] > 0)


# depth up to the encoder

LEVELS = np.random.default_rng(0).permutation(4096).reshape(64, 64)
DEEP = {
    "16 bits": ("png", (LEVELS * 16).astype(np.uint16), None),
    "12 bits": ("png", LEVELS.astype(np.uint16), (0.0, 4095.0)),
    "float": ("tif", (LEVELS / 4 - 1000 + 1 / 3).astype(np.float32), (-1000.0, 400.0)),
}
AUGMENT = {
    "flip": albumentations.HorizontalFlip(p=1),
    "exposure": albumentations.RandomBrightnessContrast(brightness_limit=(0.05, 0.1), contrast_limit=(0.05, 0.1), p=1),
}


def deep_reader(folder: Path, kind: str) -> Reader:
    suffix, image, value_range = DEEP[kind]
    for name in "ab":
        (folder / name).mkdir()
        Image.fromarray(image).save(folder / name / f"0.{suffix}")
    return ClassFolders(folder, value_range=value_range)


def encoder_inputs(data: MultiTaskDataModule, *, train: bool) -> list[torch.Tensor]:
    """What reaches the encoder of each image of one pass."""
    model = MultiTaskModel(small_encoder(), data.specs, None, SMALL_PIXELS, SMALL_DETECTION).eval()
    seen: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[0]))
    loader = data.train_dataloader() if train else data.val_dataloader()
    with torch.no_grad():
        for item in loader:
            for batch in item if train else [item]:
                images = batch.images
                before = len(seen)
                model(images, batch.task)
                torch.testing.assert_close(torch.stack(seen[before:]), model.normalise(images, batch.task))
    return seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", DEEP)
def test_more_than_256_levels_reach_the_encoder(tmp_path: Path, kind: str, workers: int) -> None:
    reader = deep_reader(tmp_path, kind)
    low, high = reader.spec.value_range
    stored = (torch.from_numpy(DEEP[kind][1].astype(np.float64)) - low) / (high - low)

    task = TaskData(train=reader, val=reader, batch_size=2, size=48, augment=AUGMENT)
    for train in (False, True):
        images = encoder_inputs(MultiTaskDataModule({"deep": task}, num_workers=workers), train=train)
        assert len(images) == 2
        for image in images:
            assert image.shape == (3, 48, 48)
            assert all(len(channel.unique()) > 1000 for channel in image)

    task = TaskData(val=reader, batch_size=2)  # neither resized nor augmented: every level that is stored
    model = MultiTaskModel(small_encoder(), {"deep": reader.spec}, None, SMALL_PIXELS, SMALL_DETECTION)
    for image in encoder_inputs(MultiTaskDataModule({"deep": task}, num_workers=workers), train=False):
        assert [len(channel.unique()) for channel in image] == [4096] * 3
        unit = image * model.encoder.std[0] + model.encoder.mean[0]
        torch.testing.assert_close(unit, stored.float().expand(3, -1, -1), rtol=0, atol=1e-6)
