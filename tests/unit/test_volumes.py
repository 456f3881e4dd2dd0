"""Slices of NIfTI volumes: one picture however the file is stored, in mm, without reading the rest."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import volume_files
from jsonargparse import ArgumentParser
from reader_samples import table, volumes
from volume_files import nifti

from benchmarks.processes import in_fresh_process, peak_rss
from umedpt_lightning.data.cache.identity import named_files
from umedpt_lightning.data.cache.unpacked import cache_folder
from umedpt_lightning.data.demo import sources
from umedpt_lightning.data.readers import Reader, VolumeClasses, VolumeMaskFolders, VolumeMasks, VolumeNumbers
from umedpt_lightning.data.volume.intensity import Level, Percentiles, Window
from umedpt_lightning.data.volume.series import open_volume
from umedpt_lightning.data.volume.slices import Slices, VolumeImages
from umedpt_lightning.inference.output.masks import write_nifti

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(0, 256, (7, 6, 5), dtype=np.uint8)
ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


def images(path: Path, intensity: object = None, value_range: object = None, **slices: object) -> VolumeImages:
    return VolumeImages([path], Slices(**slices), intensity, None, value_range, "test")


def pixels(path: Path, index: int = 0, **options: object) -> np.ndarray:
    return images(path, **options).read(index)[0]


@pytest.mark.parametrize("turn", [0, 20])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_slices_do_not_depend_on_the_stored_orientation(tmp_path: Path, axes: str, turn: float) -> None:
    path = nifti(tmp_path / "a.nii", VOXELS, (0.5, 1, 3), axes, turn)
    # top is the front or the top, left is the patient's right, or the front
    for axis, expected in {
        "axial": [VOXELS[::-1, ::-1, k].T for k in range(5)],
        "coronal": [VOXELS[::-1, k, ::-1].T for k in range(6)],
        "sagittal": [VOXELS[k, ::-1, ::-1].T for k in range(7)],
    }.items():
        reader = images(path, axis=axis)
        assert len(reader) == len(expected)
        for index, plane in enumerate(expected):
            np.testing.assert_array_equal(reader.read(index)[0], plane[..., None])
    np.testing.assert_allclose(reader.volumes[0].spacing, (0.5, 1, 3))


@pytest.mark.parametrize(("unit", "mm"), [("unknown", 1), ("mm", 1), ("micron", 1e-3), ("meter", 1e3)])
def test_lengths_are_in_the_unit_of_the_file(tmp_path: Path, unit: str, mm: float) -> None:
    affine = np.diag([500.0, 1000, 3000, 1])
    affine[:3, 3] = 7000
    image = nibabel.Nifti1Image(VOXELS, affine)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.spacing, np.array([500, 1000, 3000]) * mm)
    np.testing.assert_allclose(volume.affine[:3, 3], 7000 * mm)
    write_nifti(VOXELS, volume, tmp_path / "b.nii")
    written = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_allclose(written.affine, affine)
    assert written.header.get_xyzt_units()[0] == unit


def test_pixels_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", RNG.integers(0, 256, (40, 30, 20), dtype=np.uint8), (0.5, 1, 3), "SPL")
    for axis, shape in {"axial": (30, 20), "coronal": (60, 20), "sagittal": (60, 30)}.items():
        assert pixels(path, axis=axis, spacing=1.0).shape == (*shape, 1)
    image, size = images(path, axis="coronal", spacing=(1.5, 2.0)).read(0)
    assert image.shape == (40, 10, 1)
    assert size == (20, 40)


def test_shrinking_averages_and_masks_stay_whole(tmp_path: Path) -> None:
    stripes = np.zeros((8, 8, 1), np.uint8)
    stripes[::2] = 200
    nifti(tmp_path / "i" / "a.nii", stripes)
    nifti(tmp_path / "m" / "a.nii", stripes // 100)
    reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", {"no": 0, "yes": 2}, slices=Slices(spacing=2.0))
    assert reader[0].image.shape == (4, 4, 1)
    assert (reader[0].image == 100).all()
    assert reader[0].target.shape == (4, 4)
    assert set(np.unique(reader[0].target)) <= {0, 1}
    assert reader[0].stored_size == (8, 8)


def test_slices_are_taken_every_so_many_mm(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", np.zeros((2, 2, 12), np.uint8), (1, 1, 2.5))
    for every, expected in {
        None: range(12),
        1.0: range(12),
        2.5: range(12),
        5.0: [1, 3, 5, 7, 9, 11],
        10.0: [2, 6, 10],
        99.0: [6],
    }.items():
        assert images(path, every=every).places.tolist() == list(expected), every


def test_neighbours_become_channels_and_ends_are_repeated(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", np.arange(9, dtype=np.uint8).reshape(1, 1, 9), (1, 1, 2), "SRA")
    stack = images(path, neighbours=1)
    assert stack.channels == 3
    assert [stack.read(k)[0].ravel().tolist() for k in (0, 4, 8)] == [[0, 0, 1], [3, 4, 5], [7, 8, 8]]
    assert pixels(path, 4, neighbours=2, distance=4.0).ravel().tolist() == [0, 2, 4, 6, 8]
    assert pixels(path, 4, neighbours=1, distance=0.5).ravel().tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match=r"`channels: 3` was asked for, but 5 slices"):
        VolumeImages([path], Slices(neighbours=2), None, 3, None, "test")


def test_intensities_are_scaled_and_windowed(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(5, dtype=np.int16).reshape(1, 1, 5), np.eye(4))
    image.header.set_slope_inter(100, -1000)
    image.to_filename(tmp_path / "a.nii")
    path = tmp_path / "a.nii"
    assert [float(pixels(path, k, value_range=(-1000, 400))[0, 0, 0]) for k in range(3)] == [-1000, -900, -800]
    for window in (Window(-900, -700), Level(-800, 200)):
        reader = images(path, window)
        assert reader.value_range == (0, 1)
        values = [reader.read(k)[0] for k in range(5)]
        assert values[0].dtype == np.float32
        np.testing.assert_allclose(np.ravel(values), [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_allclose(pixels(path, 1, intensity=Percentiles(0, 100)).ravel(), [0.25])
    with pytest.raises(ValueError, match=r"a\.nii: .*no natural range.*`intensity: \{low: -160, high: 240\}`"):
        images(path)
    with pytest.raises(ValueError, match="already says what becomes 0 and 1"):
        images(path, Window(0, 1), (0, 1))


def test_percentiles_are_those_of_each_volume_and_keep_its_depth(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64 * 64 * 4).reshape(64, 64, 4)
    paths = [nifti(tmp_path / f"{k}.nii", (ramp * k * 1000).astype(np.int16)) for k in (1, 30)]
    reader = VolumeImages(paths, None, Percentiles(1, 99), None, None, "test")
    np.testing.assert_allclose(reader.read(2)[0], reader.read(6)[0], atol=2e-3)
    assert len(np.unique(reader.read(6)[0])) > 256
    marked = ramp.astype(np.float32)
    marked[0, 0] = np.inf, -np.inf, np.nan, np.inf  # that do not count
    low, high = np.percentile(marked[np.isfinite(marked)], [1, 99])
    assert Percentiles(1, 99).limits(lambda: marked) == (low, high)
    assert Percentiles(1, 99).limits(lambda: marked[0, 0]) == (0, 0)
    nifti(tmp_path / "flat.nii", np.full((3, 3, 1), 5, np.int16))
    assert (pixels(tmp_path / "flat.nii", intensity=Percentiles(1, 99)) == 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_may_be_stored_as_floats_and_in_another_orientation(tmp_path: Path, dtype: type) -> None:
    labels = (VOXELS % 3).astype(dtype)
    nifti(tmp_path / "i" / "case 1.nii.gz", VOXELS, (0.5, 1, 3), "LPS")
    nifti(tmp_path / "m" / "case 1.nii", labels, (0.5, 1, 3), "SAR")
    reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y", "z"])
    np.testing.assert_array_equal(reader[4].target, labels[::-1, ::-1, 4].T)
    assert reader[4].name == f"{tmp_path}/i/case 1.nii.gz[axial 4]"


def test_slices_of_background_are_left_out_on_request(tmp_path: Path) -> None:
    labels = np.zeros_like(VOXELS)
    labels[3, 3, 1], labels[2, 2, 3], labels[0, 0, 4] = 1, 1, 9
    nifti(tmp_path / "i" / "a.nii", VOXELS)
    nifti(tmp_path / "m" / "a.nii.gz", labels)
    options = {"classes": ["no", "yes"], "ignore": 9, "foreground_only": True}
    reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", **options)
    assert [sample.name[-2] for sample in reader] == ["1", "3"]
    assert all((sample.target == 1).any() for sample in reader)
    nifti(tmp_path / "m" / "a.nii.gz", np.zeros_like(labels))
    with pytest.raises(ValueError, match=r"no class but no.*`foreground_only`"):
        VolumeMaskFolders(tmp_path / "i", tmp_path / "m", **options)


def test_a_class_and_a_number_are_those_of_the_volume(tmp_path: Path) -> None:
    file = volumes(tmp_path)
    reader = VolumeClasses(file, "train", slices=Slices(axis="coronal"))
    assert (len(reader), reader.targets.tolist(), reader.spec.counts) == (12, [0] * 6 + [1] * 6, (6, 6))
    assert VolumeNumbers(file, "val", {"z": "mm"}).targets.ravel().tolist() == [2] * 3 + [3] * 3


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ({"low": -160, "high": 240}, Window(-160, 240)),
        ({"level": 40, "width": 400}, Level(40, 400)),
        ({"lower": 0.5, "upper": 99.5}, Percentiles(0.5, 99.5)),
    ],
)
def test_options_are_plain_in_a_config(tmp_path: Path, intensity: dict[str, float], expected: object) -> None:
    slices = {"axis": "coronal", "spacing": [1.0, 2.0], "neighbours": 1}
    options = {"table": str(volumes(tmp_path)), "split": "val", "slices": slices, "intensity": intensity}
    parser = ArgumentParser()
    parser.add_argument("--reader", type=Reader)
    path = "umedpt_lightning.data.readers.VolumeClasses"
    parsed = parser.parse_object({"reader": {"class_path": path, "init_args": options}})
    reader = (parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes)(parsed).reader
    assert (len(reader), reader.spec.channels, reader.spec.value_range) == (12, 3, (0, 1))
    assert reader._images.slices == Slices("coronal", (1.0, 2.0), None, 1)
    assert reader._images._intensity == expected


# what cannot be used


def test_geometry_that_differs_names_both_files(tmp_path: Path) -> None:
    nifti(tmp_path / "i" / "a.nii", VOXELS)

    def read(labels: np.ndarray, **options: object) -> Reader:
        nifti(tmp_path / "m" / "a.nii", labels, **options)
        return VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])

    labels = VOXELS // 128
    with pytest.raises(ValueError, match=r"m/a\.nii: the labels are \(7, 6, 4\).*i/a\.nii is \(7, 6, 5\)"):
        read(labels[..., :4])
    with pytest.raises(ValueError, match=r"m/a\.nii: the labels lie up to .* mm away from .*i/a\.nii.*Resample"):
        read(labels, spacing=(1, 1, 1.2))
    read(labels, spacing=(1, 1, 1.001))


def scaled_labels(path: Path, stored: np.ndarray, slope: float, inter: float = 0.0) -> Path:
    """Integers with a scale in their header, as tools write floats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(stored, nibabel.load(path.parents[1] / "i" / "a.nii").affine)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())  # nibabel drops a scale that it is given for integers
    content[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("stored", [np.int16, np.uint8, np.int32])
@pytest.mark.parametrize("most", [1, 3, 4, 20])
def test_labels_that_a_scale_hardly_meets_are_rounded_within_its_step(tmp_path: Path, stored: type, most: int) -> None:
    labels = np.resize(np.arange(most + 1), VOXELS.shape).astype(float)
    nifti(tmp_path / "i" / "a.nii", VOXELS)
    image = nibabel.Nifti1Image(labels, nibabel.load(tmp_path / "i" / "a.nii").affine)
    image.set_data_dtype(stored)  # nibabel chooses a scale, since labels are floats
    (tmp_path / "m").mkdir()
    nibabel.save(image, tmp_path / "m" / "a.nii")
    reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", [f"c{k}" for k in range(most + 1)])
    for k in range(len(reader)):
        np.testing.assert_array_equal(reader[k].target, labels[::-1, ::-1, k].T)


@pytest.mark.parametrize(
    ("slope", "inter", "values", "right"),
    [
        (0.5, 0.0, (0, 2, 4), True),  # 0, 1, 2
        (0.5, 0.0, (0, 1, 2), False),  # 0.5 lies between
        (0.3, 0.0, (0, 3, 7), True),  # 0.9 and 2.1 are the nearest to 1 and 2
        (0.3, 0.0, (0, 4), False),  # 1.2 is not
        (0.25, 0.0, (0, 3), False),
        (2.0, 0.0, (0, 1, 2), True),  # 0, 2, 4
        (1.0000153, 0.0, (0, 1, 4), True),
        (0.9995, 0.0, (0, 3), True),
        (0.9995, 0.0, (0, 500), False),  # 499.75
        (1.5, 0.0, (0, 1, 2), False),
        (1.0, 0.4, (0, 1), False),
        (1e-4, 0.0, (0, 10000, 5000), False),
        (1e-4, 1e-5, (0, 10000, 20000), True),
    ],
)
def test_labels_truly_between_are_refused(
    tmp_path: Path, slope: float, inter: float, values: tuple[int, ...], right: bool
) -> None:
    nifti(tmp_path / "i" / "a.nii", VOXELS)
    stored = np.resize(np.array(values, np.int16), VOXELS.shape)
    scaled_labels(tmp_path / "m" / "a.nii", stored, slope, inter)
    reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["a", "b", "c", "d", "e"])
    if right:
        wanted = np.rint(stored * slope + inter)
        np.testing.assert_array_equal(reader[0].target, wanted[::-1, ::-1, 0].T)
    else:
        with pytest.raises(ValueError, match=r"labels are whole numbers.*in steps of.*without a scale"):
            reader[0]


def other_formats(folder: Path, voxels: np.ndarray, **geometry: object) -> dict[str, Path]:
    """The same volume in every format that is read."""
    first = nifti(folder / "a.nii.gz", voxels, **geometry)
    image, itk = nibabel.load(first), pytest.importorskip("SimpleITK")
    stored = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Pair(stored, image.affine), folder / "pair.img")
    for name in ("b.mgz", "c.mgh"):
        nibabel.save(nibabel.MGHImage(stored.astype(np.float32), image.affine), folder / name)
    ours = itk.ReadImage(str(first))
    for key in ours.GetMetaDataKeys():
        ours.EraseMetaData(key)
    for suffix in ("nrrd", "nhdr", "mha", "mhd"):
        itk.WriteImage(ours, str(folder / f"{suffix}.{suffix}"), True)
    names = ["pair.img", "pair.hdr", "b.mgz", "c.mgh", "nrrd.nrrd", "nhdr.nhdr", "mha.mha", "mhd.mhd"]
    return {name: folder / name for name in names} | {"a.nii.gz": first}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SLA"])
def test_every_format_of_volumes_gives_the_same(tmp_path: Path, axes: str) -> None:
    voxels = RNG.integers(-500, 3000, (7, 6, 5)).astype(np.int16)
    formats = other_formats(tmp_path, voxels, spacing=(0.5, 1, 3), axes=axes, turn=10)
    same = open_volume(formats.pop("a.nii.gz"))
    for path in formats.values():
        volume = open_volume(path)
        assert (volume.shape, volume.dtype) == (same.shape, same.dtype)
        np.testing.assert_allclose(volume.affine, same.affine, atol=1e-4)
        for axis in range(3):
            np.testing.assert_array_equal(volume.plane(axis, 1), same.plane(axis, 1))


def test_readers_take_every_format_for_images_and_labels(tmp_path: Path) -> None:
    for name, path in other_formats(tmp_path / "all", VOXELS % 3).items():
        if name == "pair.hdr":
            continue
        for folder in ("i", "m"):
            (tmp_path / name / folder).mkdir(parents=True)
            for file in path.parent.glob(f"{path.name.split('.')[0]}.*"):
                shutil.copy(file, tmp_path / name / folder)
        reader = VolumeMaskFolders(
            tmp_path / name / "i", tmp_path / name / "m", ["x", "y", "z"], intensity=Window(0, 2), foreground_only=False
        )
        assert len(reader) == 5
        np.testing.assert_array_equal(reader[2].target, (VOXELS % 3)[::-1, ::-1, 2].T)
        np.testing.assert_allclose(reader[2].image[..., 0] * 2, reader[2].target, atol=1e-6)
        assert (
            not set(map(str, reader.found()))
            - set(map(str, named_files(reader)))
            - set(map(str, (tmp_path / name).rglob("*.*")))
        )


def test_a_plane_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    plane, itk = VOXELS[..., 0], pytest.importorskip("SimpleITK")
    nibabel.save(nibabel.Nifti1Image(plane, np.diag([2.0, 1, 1, 1])), tmp_path / "a.nii")
    itk.WriteImage(itk.GetImageFromArray(plane.T), str(tmp_path / "b.mha"))
    for name, expected in (("a.nii", plane[::-1, ::-1].T), ("b.mha", plane.T)):  # ITK counts to the left and back
        assert open_volume(tmp_path / name).shape == (7, 6, 1)
        np.testing.assert_array_equal(pixels(tmp_path / name)[..., 0], expected)
        with pytest.raises(ValueError, match=rf"{name}: its only plane is axial.*`slices: {{axis: axial}}`"):
            images(tmp_path / name, axis="coronal")


def test_brackets_in_names_are_no_pattern(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    for value, name in enumerate(("a[1].nrrd", "b[2].nrrd")):  # each is unpacked under a name of its own
        itk.WriteImage(itk.GetImageFromArray(np.full((3, 4, 5), value, np.uint8)), str(tmp_path / name))
        assert (open_volume(tmp_path / name).plane(2, 0) == value).all()


def test_what_is_no_volume_of_numbers_is_named(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    nibabel.save(nibabel.Spm2AnalyzeImage(VOXELS, np.diag([1.0, 1, 1, 1])), tmp_path / "a.img")
    colours = itk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    itk.WriteImage(colours, str(tmp_path / "b.nrrd"))
    itk.WriteImage(itk.GetImageFromArray(np.zeros((3, 4, 5, 6), np.uint8), isVector=False), str(tmp_path / "c.mha"))
    for name in ("d.nrrd", "e.mha", "f.mgz", "g.img"):
        (tmp_path / name).write_bytes(b"no")
    for name, message in {
        "a.img": "Analyze 7.5 does not say which side is left",
        "b.nrrd": "voxels are real numbers, but these are vector of 8-bit unsigned integer",
        "c.mha": "a volume is 3-D, but this file is 6x5x4x3",
        "d.nrrd": "not a volume that can be read",
        "e.mha": "not a volume that can be read",
        "f.mgz": "not a volume that can be read",
        "g.img": "not a volume that can be read",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
            open_volume(tmp_path / name)


def test_wrong_labels_are_named(tmp_path: Path) -> None:
    nifti(tmp_path / "i" / "a.nii", VOXELS)
    nifti(tmp_path / "m" / "a.nii", VOXELS % 4)
    reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])
    with pytest.raises(ValueError, match=r"m/a\.nii\[axial 2\]: the mask holds the values \[0, 1, 2, 3\].*`classes"):
        reader[2]
    for wrong in (0.5, -1, np.nan, 1e9):
        nifti(tmp_path / "m" / "a.nii", np.full(VOXELS.shape, wrong, np.float32))
        with pytest.raises(ValueError, match=r"m/a\.nii\[axial 0\]: labels are whole numbers.*nearest"):
            reader = VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])[0]


def test_files_that_are_no_volumes_are_named(tmp_path: Path) -> None:
    nifti(tmp_path / "4d.nii", np.zeros((3, 4, 5, 6), np.uint8))
    with pytest.raises(ValueError, match=r"4d\.nii: a volume is 3-D, but this file is 3x4x5x6.*own file"):
        images(tmp_path / "4d.nii")
    assert len(images(nifti(tmp_path / "one.nii", np.zeros((3, 4, 5, 1), np.uint8)))) == 5
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 0, 5), np.uint8), np.eye(4)), tmp_path / "hollow.nii")
    with pytest.raises(ValueError, match=r"hollow\.nii: a volume is 3-D, but this file is 3x0x5"):
        images(tmp_path / "hollow.nii")
    nifti(tmp_path / "c.nii", np.zeros((3, 4, 5), np.complex64))
    with pytest.raises(ValueError, match=r"c\.nii: voxels are real numbers, but these are complex64"):
        images(tmp_path / "c.nii")
    (tmp_path / "x.nii").write_text("broken")
    with pytest.raises(ValueError, match=r"x\.nii: not a volume that can be read \(6 bytes"):
        images(tmp_path / "x.nii")
    with pytest.raises(FileNotFoundError, match=r"none\.nii"):
        images(tmp_path / "none.nii")
    image = nibabel.Nifti1Image(VOXELS, None)
    image.header.set_sform(np.zeros((4, 4)), code=1)
    image.to_filename(tmp_path / "flat.nii")
    with pytest.raises(ValueError, match=r"flat\.nii: the matrix from voxels to mm.*no orientation"):
        images(tmp_path / "flat.nii")


def test_truncated_files_are_named_when_they_are_read(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        path = nifti(tmp_path / name, RNG.integers(0, 256, (32, 32, 32), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:20000])
        with pytest.raises(ValueError, match=rf"{name}: not a volume that can be read \(20000 bytes"):
            pixels(path, 9)
    assert not list(cache_folder().iterdir())


def test_volumes_of_different_dtype_need_an_intensity(tmp_path: Path) -> None:
    paths = [nifti(tmp_path / "a.nii", VOXELS), nifti(tmp_path / "b.nii", VOXELS.astype(np.int16))]
    with pytest.raises(ValueError, match=r"b\.nii: float32, but the first volume .*a\.nii\) is uint8.*`intensity`"):
        VolumeImages(paths, None, None, None, None, "test")
    reader = VolumeImages(paths, None, Window(0, 255), None, None, "test")
    np.testing.assert_array_equal(reader.read(0)[0], reader.read(5)[0])


def test_volumes_and_labels_must_pair(tmp_path: Path) -> None:
    for name in ("i/a.nii", "i/b.nii.gz", "m/b.nii", "m/c.nii"):
        nifti(tmp_path / name, VOXELS)
    with pytest.raises(ValueError, match=r"1 images have no mask \[.*a\.nii.*1 masks no image \[.*c\.nii"):
        VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])
    nifti(tmp_path / "i" / "a.nii.gz", VOXELS)
    with pytest.raises(ValueError, match="have one name"):
        VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])
    rows = [{"path": "i/a.nii", "mask": "m/z.nii", "split": "train"}]
    with pytest.raises(FileNotFoundError, match=r"t\.csv: 1 of 1 label volumes are missing.*z\.nii"):
        VolumeMasks(table(tmp_path / "t.csv", rows), "train", ["x", "y"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"axis": "x"}, "axis is 'x', but it must be one of"),
        ({"spacing": 0.0}, "spacing is 0.0, but it must be mm above 0"),
        ({"spacing": (1.0, -1.0)}, "spacing"),
        ({"every": -1.0}, "every is -1.0"),
        ({"neighbours": -1}, "neighbours is -1"),
        ({"distance": 2.0}, "`neighbours: 1`"),
    ],
)
def test_impossible_slices_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Slices(**options)


def test_impossible_intensities_are_refused() -> None:
    for make, match in (
        (lambda: Window(1, 1), "low must be below high"),
        (lambda: Level(0, 0), "width must be positive"),
        (lambda: Percentiles(99, 1), "0 <= lower < upper <= 100"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


@pytest.mark.parametrize(("missing", "extra"), [("nibabel", "nifti"), ("pydicom", "dicom")])
def test_a_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str
) -> None:
    nifti(tmp_path / "a.nii", VOXELS)
    volume_files.series(tmp_path / "series", VOXELS)
    for name in list(sys.modules):
        if name.partition(".")[0] == missing:
            monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / ("a.nii" if missing == "nibabel" else "series")
    with pytest.raises(ImportError, match=rf"{missing}, which is not installed.*umedpt-lightning\[{extra}\]"):
        images(path)


# from disk to slice


def test_compressed_files_are_unpacked_once_and_again_when_they_change(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", VOXELS)
    reader = images(path)
    assert not cache_folder().exists()
    for index in range(5):
        np.testing.assert_array_equal(reader.read(index)[0][..., 0], VOXELS[::-1, ::-1, index].T)
    (copy,) = cache_folder().iterdir()
    stamp = copy.stat().st_mtime_ns
    pixels(path, 1)
    assert [file.stat().st_mtime_ns for file in cache_folder().iterdir()] == [stamp]
    nifti(path, 255 - VOXELS)
    os.utime(path, ns=(stamp + 10**9, stamp + 10**9))
    np.testing.assert_array_equal(pixels(path, 2)[..., 0], 255 - VOXELS[::-1, ::-1, 2].T)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nifti(tmp_path / "a.nii.gz", VOXELS)
    (tmp_path / "file").touch()
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: it is unpacked once into .*volumes.*UMEDPT_CACHE"):
        pixels(path)


def _memory_of_slices(path: Path) -> float:
    """MiB that reading a few slices of two directions takes."""
    reader = VolumeImages([path], Slices(neighbours=1), Window(0, 1), None, None, "x")
    before = peak_rss()
    for index in (0, 60, 511):
        reader.read(index)
    VolumeImages([reader.volumes[0].path], Slices("sagittal"), Window(0, 1), None, None, "x").read(256)
    return peak_rss() - before


def test_reading_a_slice_does_not_read_the_volume(tmp_path: Path) -> None:
    small = nifti(tmp_path / "small.nii", np.zeros((512, 512, 1), np.int16))
    header = nibabel.load(small).header
    header.set_data_shape((512, 512, 512))
    with (tmp_path / "big.nii").open("wb") as stream:  # a hole of 256 MiB
        header.write_to(stream)
        stream.truncate(352 + 2 * 512**3)
    assert in_fresh_process(_memory_of_slices, tmp_path / "big.nii") < 32


def test_unpacking_does_not_hold_the_volume(tmp_path: Path) -> None:
    small = nifti(tmp_path / "small.nii", np.zeros((512, 512, 1), np.int16))
    header = nibabel.load(small).header
    header.set_data_shape((512, 512, 512))
    with gzip.open(tmp_path / "big.nii.gz", "wb", compresslevel=1) as stream:
        header.write_to(stream)
        stream.write(bytes(4))
        for _ in range(512):
            stream.write(bytes(2 * 512**2))
    assert in_fresh_process(_memory_of_slices, tmp_path / "big.nii.gz") < 40


def test_real_volumes_agree_with_nibabel() -> None:
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    paths = [folder / name for name in ("anatomical.nii", "example_nifti2.nii.gz", "reoriented_anat_moved.nii")]
    for name in ("mri", "ct"):
        with contextlib.suppress(FileNotFoundError):  # the demo's packages, where they are installed
            paths.append(sources.locate(sources.SOURCES[name]))
    checked = 0
    for path in filter(Path.is_file, paths):
        whole = nibabel.as_closest_canonical(nibabel.load(path))
        if len(whole.shape) != 3:
            continue
        checked += 1
        voxels = whole.get_fdata(dtype=np.float32)
        for axis, planes in {"axial": voxels.transpose(2, 0, 1), "sagittal": voxels}.items():
            reader = images(path, value_range=(0, 1), axis=axis)
            for index in (0, len(planes) // 2, len(planes) - 1):
                np.testing.assert_allclose(reader.read(index)[0][..., 0], planes[index][::-1, ::-1].T, rtol=1e-5)
        reader = images(path, Percentiles(0.5, 99.5), axis="coronal", spacing=2.0, neighbours=1, every=10.0)
        image, _ = reader.read(len(reader) // 2)
        assert image.shape[-1] == 3
        assert 0 <= image.min() < image.mean() < image.max() <= 1
    if not checked:
        pytest.skip("neither nibabel's test files nor the packages of the demo data are installed")
