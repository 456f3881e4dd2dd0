"""Slices and tiles as rows, and the file that they end in."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builders import spec_of
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.data.volume.intensity import Window
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.data.volume.volumes import NiftiVolume
from umedpt_lightning.inference.find_inputs import find_inputs
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Rows, Store
from umedpt_lightning.types import Sample, TaskSpec

GREY = spec_of("class", channels=1)
UNIT = replace(GREY, value_range=(0.0, 1.0))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """An image and the same voxels as a NIfTI file and a DICOM series."""
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    from volume_files import nifti, series

    voxels = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4), dtype=np.int16)
    folder = tmp_path / "given"
    nifti(folder / "a.nii.gz", voxels)
    series(folder / "ct", voxels)
    Image.new("L", (5, 6)).save(folder / "b.png")
    return folder


def opened(
    path: Path, spec: TaskSpec, size: tuple[int, int] | None = None, skip_bad: bool = False, **cut: Any
) -> InputRows:
    opening = Opening.as_trained(spec, size, **cut)
    return InputRows(find_inputs([path], preference=opening.preference), opening, skip_bad)


def image(inputs: InputRows, row: int) -> NDArray[Any]:
    """``(H, W, C)`` as a batch has it."""
    batch = inputs.dataset[next(inputs.batches(row, 1))]
    assert batch.faults == []
    found: NDArray[Any] = batch.stacks[0].images[0].permute(1, 2, 0).numpy()
    return found


@pytest.mark.parametrize(("axis", "letter", "count"), [("axial", "z", 4), ("coronal", "y", 5), ("sagittal", "x", 6)])
def test_a_volume_is_a_row_a_slice(volumes: Path, axis: str, letter: str, count: int) -> None:
    pieces = opened(volumes, UNIT, slices=Slices(axis), intensity=Window(-100, 300))  # type: ignore[arg-type]
    ids = [pieces.id(i) for i in range(len(pieces))]
    slices = [f"{name}#{letter}={k}" for name in ("a.nii.gz", "ct") for k in range(count)]
    assert ids == [*slices[:count], "b.png", *slices[count:]]
    assert [pieces.group(i) for i in range(len(pieces))] == [name.partition("#")[0] for name in ids]
    of_nifti, of_dicom = (
        np.stack([image(pieces, ids.index(name)) for name in part]) for part in (slices[:count], slices[count:])
    )
    assert np.array_equal(of_nifti, of_dicom)
    assert (of_nifti.min(), of_nifti.max()) == (0, 1)


def test_windowed_slices_have_the_intensities_of_the_task(volumes: Path) -> None:
    file, window = volumes / "a.nii.gz", Window(-100, 300)
    as_bytes, as_unit = (image(opened(file, spec, intensity=window), 1) for spec in (GREY, UNIT))
    assert np.allclose(as_bytes, as_unit * 255)
    stored = image(opened(file, replace(GREY, value_range=(-1000.0, 400.0))), 1)
    assert np.allclose(as_unit, ((stored + 100) / 400).clip(0, 1), atol=1e-6)


def test_a_volume_for_a_task_of_windowed_volumes_needs_the_window(volumes: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)a.nii.gz: the task was not trained on volumes.*ct: the task.*--window"):
        opened(volumes, UNIT, slices=Slices())
    inputs = opened(volumes, UNIT, slices=Slices(), skip_bad=True)
    assert len(inputs) == 1
    assert len(inputs.skipped) == 2


def test_a_slide_is_a_row_a_tile_of_tissue(tmp_path: Path) -> None:
    pytest.importorskip("tiffslide")
    from slide_files import slide, stained

    slide(tmp_path / "given" / "s.tif", stained(512, 512, (256, 0, 512, 128)))
    pieces = opened(tmp_path / "given", spec_of("class"), (32, 32), tiles=Tiles(mpp=0.5, size=128))
    assert [pieces.id(i) for i in range(len(pieces))] == ["s.tif#x=256,y=0", "s.tif#x=384,y=0"]
    assert image(pieces, 0).shape == (32, 32, 3)
    assert len(opened(tmp_path / "given", spec_of("class"), tiles=Tiles(mpp=1, size=64, tissue=None))) == 16
    with pytest.raises(ValueError, match="not trained on slides"):
        opened(tmp_path / "given", spec_of("class"))


@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1), (np.uint16, 3), (np.float32, 1)]
)
@pytest.mark.parametrize("size", [(20, 20), (60, 70), (20, 70), (33, 47)])
def test_images_are_resized_as_in_training(tmp_path: Path, dtype: type, channels: int, size: tuple[int, int]) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (33, 47, channels)).astype(dtype)
    if dtype == np.uint8:
        Image.fromarray(stored.squeeze()).save(tmp_path / "a.png")
    elif channels == 3:
        cv2.imwrite(str(tmp_path / "a.tif"), stored[..., ::-1])
    else:
        Image.fromarray(stored.squeeze()).save(tmp_path / "a.tif")
    high = {np.uint8: 255.0, np.uint16: 65535.0, np.float32: 300.0}[dtype]
    spec = replace(spec_of("class", channels=channels), value_range=(0.0, high))
    found = image(opened(tmp_path, spec, size), 0)
    expected = Transform(size)(Sample(stored, 0, ""), 0).image
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_the_digest_is_that_of_the_images_asked_for(volumes: Path) -> None:
    def digests() -> list[str]:
        inputs = opened(volumes, GREY, intensity=Window(0, 1))
        return [inputs.digest(start, stop) for start, stop in ((0, 4), (4, 5), (5, 9), (0, 9))]

    before = digests()
    assert before == digests()
    assert len(set(before)) == 4
    Image.new("L", (7, 7)).save(volumes / "b.png")
    assert [old == new for old, new in zip(before, digests(), strict=True)] == [True, False, True, False]
    slices = sorted((volumes / "ct").iterdir())
    slices[0].touch()
    assert [old == new for old, new in zip(before, digests(), strict=True)] == [True, False, False, False]


def test_no_more_is_unpacked_than_the_header_tells_of(volumes: Path) -> None:
    file = volumes / "a.nii.gz"
    whole = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(whole + bytes(10**8)))  # 100 kB that would fill a disk, if there were more
    NiftiVolume(file).plane(2, 0)
    (unpacked,) = (volumes.parent / "cache" / "volumes").iterdir()
    assert unpacked.stat().st_size == len(whole)


def rows(start: int, stop: int) -> Rows:
    numbers = np.arange(start, stop)
    names = np.array([f"n{'x' * (i % 7)}{i}" for i in numbers], np.str_)
    return Rows(names, names, np.outer(numbers, [1, 2, 3]).astype(np.float32))


def filled(file: Path, ends: Sequence[int]) -> Store:
    store = Store(file, {"model": "a"}, lambda start, stop: f"{start} {stop}", ends[-1])
    for start, stop in zip([0, *ends], ends, strict=False):
        store.add(start, stop, rows(start, stop), [])
    return store


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_a_file_does_not_depend_on_its_parts(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow")
    contents = []
    for number, ends in enumerate(([2500], [1, 2, 1024, 1025, 2500], list(range(100, 2501, 100)))):
        file = tmp_path / f"{number}{suffix}"
        assert filled(file, ends).finish([]) == (2500, 3, [])
        contents.append(file.read_bytes())
        if suffix == ".npy":
            assert np.array_equal(np.load(file), rows(0, 2500).vectors)
    assert len(set(contents)) == 1


def test_what_was_left_out_is_kept_in_mind(tmp_path: Path) -> None:
    store = Store(tmp_path / "e.npy", {}, lambda start, stop: "", 6)
    nothing = Rows(np.empty(0, np.str_), np.empty(0, np.str_), np.empty((0, 0), np.float32))
    store.add(0, 2, nothing, ["a is bad", "b is bad"])
    store = Store(tmp_path / "e.npy", {}, lambda start, stop: "", 6)
    assert store.done == 2
    store.add(2, 6, rows(2, 5), ["c is bad"])
    assert store.finish(["d cannot be opened"]) == (
        3,
        3,
        ["d cannot be opened", "a is bad", "b is bad", "c is bad"],
    )
    assert np.array_equal(np.load(tmp_path / "e.npy"), rows(2, 5).vectors)


def test_a_damaged_part_and_one_that_lacks_are_told(tmp_path: Path) -> None:
    filled(tmp_path / "e.npy", [10, 20, 30])
    first, second, _ = sorted((tmp_path / "e.npy.parts").glob("*.npz"))
    whole = first.read_bytes()
    first.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=rf"{first} is damaged"):
        filled(tmp_path / "e.npy", [40])
    first.write_bytes(whole)
    second.unlink()
    with pytest.raises(ValueError, match="made of other inputs"):
        filled(tmp_path / "e.npy", [40])
