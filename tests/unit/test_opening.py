"""A file is opened as the reader opened it that a task was trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import spec_of
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.readers.coco import CocoBoxes
from umedpt_lightning.data.readers.folders import ClassFolders, MaskFolders
from umedpt_lightning.data.readers.slides import SlideClasses
from umedpt_lightning.data.readers.volumes import VolumeClasses
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.data.volume.intensity import Window
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.dataset import InputDataset, ReaderImages, Wanted
from umedpt_lightning.inference.find_inputs import find_inputs
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.pool import ComputeOptions, read_ahead
from umedpt_lightning.types import TaskSpec

dicom_files = pytest.importorskip("volume_files")
PLACED = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [1, 1]}
WINDOW = {"WindowCenter": 500, "WindowWidth": 1000, "BitsStored": 12, "HighBit": 11}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))


def sagittal(folder: Path, count: int = 3, **tags: Any) -> Path:
    """DICOM slices with a place in space, as a data set of single images has them."""
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 1200, (16, 12)).astype(np.uint16)
        place = PLACED | {"ImagePositionPatient": [float(i), 0, 0]}
        dicom_files.dicom(folder / f"{i}.dcm", pixels, **{"Modality": "MR", **place, **WINDOW, **tags})
    return folder


def read(path: Path, spec: TaskSpec, size: tuple[int, int] | None = None, **asked: Any) -> dict[str, NDArray[Any]]:
    """All images of a path by id ``(H, W, C)``."""
    opening = Opening.as_trained(spec, size, **asked)
    files = find_inputs([path], preference=opening.preference)
    dataset = InputDataset(files, [opening])
    found = {}
    for number, file in enumerate(files):
        for index in range(1 if opening.is_single(file) else len(dataset.open(number, 0))):
            batch = dataset[[Wanted(number, index)]]
            assert batch.faults == []
            found[f"{file.id}{index or ''}"] = batch.stacks[0].images[0].permute(1, 2, 0).numpy()
    return found


@pytest.mark.parametrize("value_range", [None, (0.0, 1200.0), (0.0, 65535.0)])
@pytest.mark.parametrize("tags", [{}, {"Modality": "CT"}, {"PhotometricInterpretation": "MONOCHROME1"}])
def test_dicom_slices_of_a_task_of_images_are_images(tmp_path: Path, value_range: Any, tags: dict[str, Any]) -> None:
    folder = sagittal(tmp_path / "data" / "a", **tags).parent
    reader = ClassFolders(folder, value_range=value_range)
    found = read(folder, reader.spec, (8, 8))
    assert list(found) == ["a/0.dcm", "a/1.dcm", "a/2.dcm"]
    for i, (name, image) in enumerate(found.items()):
        expected = Transform((8, 8))(reader[i], 0).image
        assert np.array_equal(image, expected)
        assert image.dtype == expected.dtype
        (alone,) = read(folder / name, reader.spec, (8, 8)).values()
        assert np.array_equal(alone, expected)


def test_a_model_of_before_reads_dicom_slices_as_images_too(tmp_path: Path) -> None:
    folder = sagittal(tmp_path / "data" / "a").parent
    reader = ClassFolders(folder)
    found = read(folder, replace(reader.spec, cut={}))
    assert all(np.array_equal(image, reader[i].image) for i, image in enumerate(found.values()))


def test_a_folder_in_a_table_is_its_images(tmp_path: Path) -> None:
    folder = sagittal(tmp_path / "data" / "a").parent
    (tmp_path / "t.csv").write_text("path,name\ndata/a,patient\n")
    from umedpt_lightning.inference.find_inputs import TableColumns

    opening = Opening.as_trained(ClassFolders(folder).spec, None)
    files = find_inputs([tmp_path / "t.csv"], TableColumns(id="name"), opening.preference)
    assert [(file.id, file.group, file.kind) for file in files] == [
        (f"patient/{i}.dcm", "patient", "image") for i in range(3)
    ]


def test_what_is_asked_for_makes_a_volume_of_the_slices(tmp_path: Path) -> None:
    folder = sagittal(tmp_path / "data" / "a")
    spec = ClassFolders(folder.parent).spec
    found = read(folder, spec, slices=Slices("sagittal"), intensity=Window(0, 1200))
    assert list(found) == ["a", "a1", "a2"]
    with pytest.raises(ValueError, match=r"not known which intensities.*--window"):
        read(folder, spec, slices=Slices("sagittal"))


def test_slices_of_a_task_of_volumes_are_those_of_its_reader(tmp_path: Path) -> None:
    sagittal(tmp_path / "scan")
    (tmp_path / "t.csv").write_text("path,label\nscan,x\n")
    options = Slices("sagittal", neighbours=1), Window(100, 900)
    reader = VolumeClasses(tmp_path / "t.csv", None, slices=options[0], intensity=options[1])
    found = read(tmp_path / "scan", reader.spec)
    assert len(found) == len(reader) == 3
    assert all(np.array_equal(image, reader[i].image) for i, image in enumerate(found.values()))


def test_a_task_of_volumes_refuses_what_its_reader_refuses(tmp_path: Path) -> None:
    sagittal(tmp_path / "scan")
    (tmp_path / "t.csv").write_text("path,label\nscan,x\n")
    reader = VolumeClasses(tmp_path / "t.csv", None, intensity=Window(100, 900))
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    sagittal(tmp_path / "flat", 1, ImagePositionPatient=None)
    for path, told in ((tmp_path / "a.png", "trained on volumes"), (tmp_path / "flat", "has a place in space")):
        files = find_inputs([path], preference=Opening.as_trained(reader.spec, None).preference)
        ((_, _, text),) = InputDataset(files, [Opening.as_trained(reader.spec, None)])[[Wanted(0)]].faults
        assert told in text
        assert str(path) in text


def test_a_tiff_with_smaller_copies_is_what_the_task_was_trained_on(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("tiffslide")
    from slide_files import slide

    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    (tmp_path / "a").mkdir()
    with tifffile.TiffWriter(tmp_path / "a" / "x.tif") as writer:  # levels inside of the page, as in OME-TIFF
        writer.write(pixels, tile=(64, 64), photometric="rgb", subifds=1)
        writer.write(pixels[::2, ::2], tile=(64, 64), photometric="rgb", subfiletype=1)
    reader = ClassFolders(tmp_path)
    assert np.array_equal(read(tmp_path / "a", reader.spec)["x.tif"], reader[0].image)
    file = slide(tmp_path / "s.tif", pixels)
    (tmp_path / "t.csv").write_text("path,label\ns.tif,x\n")
    from umedpt_lightning.data.slide.tiles import Tiles

    of_tiles = SlideClasses(tmp_path / "t.csv", None, tiles=Tiles(mpp=0.5, size=64, tissue=None))
    found = read(file, of_tiles.spec)
    assert len(found) == len(of_tiles) == 4
    assert all(np.array_equal(image, of_tiles[i].image) for i, image in enumerate(found.values()))


@pytest.mark.parametrize("stored", [np.uint8, np.uint16])
def test_integers_of_another_depth_are_refused(tmp_path: Path, stored: type) -> None:
    other = np.uint16 if stored == np.uint8 else np.uint8
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((8, 8), 100, stored)).save(tmp_path / "a" / "x.png")
    Image.fromarray(np.full((8, 8), 100, other)).save(tmp_path / "y.png")
    for value_range in (None, (0.0, 200.0)):
        opening = Opening.as_trained(ClassFolders(tmp_path, value_range=value_range).spec, None)
        ((_, _, text),) = InputDataset(find_inputs([tmp_path / "y.png"]), [opening])[[Wanted(0)]].faults
        assert f"y.png: the image is {np.dtype(other)}, but those of the task are {np.dtype(stored)}" in text


def test_readers_of_images_say_how_they_opened_them(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "a.png")
    (tmp_path / "c.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "annotations": [], '
        '"categories": [{"id": 1, "name": "x"}]}'
    )
    readers = (
        MaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"]),
        CocoBoxes(tmp_path / "images", tmp_path / "c.json"),
        ClassFolders(tmp_path),
    )
    for reader in readers:
        assert reader.spec.cut == {"images": {"windowed": True, "dtype": "uint8"}}


def test_images_of_a_reader_are_those_of_its_files(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20 + i, 30), np.uint8)).save(
            tmp_path / "a" / f"{i}.png"
        )
    reader = ClassFolders(tmp_path)
    batch = ReaderImages(reader, (8, 8))[[Wanted(0, i) for i in range(3)]]
    found = read(tmp_path, reader.spec, (8, 8))
    assert np.array_equal(batch.stacks[0].images.permute(0, 2, 3, 1), np.stack(list(found.values())))
    assert batch.targets == [0, 0, 0]


def test_tasks_share_what_is_decoded_and_each_sees_it_in_its_own_way(tmp_path: Path) -> None:
    from umedpt_lightning.inference import dataset

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x")
    openings = [
        Opening.as_trained(spec_of("class", channels=1), (8, 8)),
        Opening.as_trained(spec_of("mask"), None),
        replace(Opening.as_trained(spec_of("box"), None), at_once=599),
    ]
    decoded = []

    def noted(path: Path, **options: Any) -> NDArray[Any]:
        decoded.append(Path(path).name)
        return reading(path, **options)

    reading, dataset.read_image = dataset.read_image, noted  # type: ignore[attr-defined]
    try:
        batch = InputDataset(find_inputs([tmp_path]), openings, draw_side=15)[
            [Wanted(0, 0, (0, 1, 2), draw=True), Wanted(1, 0, (1,))]
        ]
    finally:
        dataset.read_image = reading  # type: ignore[attr-defined]
    assert decoded == ["a.png", "b.png"]
    assert [(stack.task, stack.places, tuple(stack.images.shape)) for stack in batch.stacks] == [
        (0, [(0, (20, 30))], (1, 1, 8, 8)),
        (1, [(0, (20, 30))], (1, 3, 20, 30)),
    ]
    assert batch.large == [(0, 2)]
    assert [fault[:2] for fault in batch.faults] == [(1, 1)]
    assert np.array_equal(batch.drawn[0, 1], pixels[::2, ::2])


def test_batches_come_from_workers_as_they_are_made(tmp_path: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((8, 8 + i % 2, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    dataset = InputDataset(find_inputs([tmp_path]), [Opening.as_trained(spec_of("class"), None)], draw_side=8)
    keys = [[Wanted(i, draw=True) for i in range(start, min(start + 2, 5))] for start in (0, 2, 4)]
    for workers in (0, 2):
        asked = []
        batches = list(
            read_ahead(dataset, (asked.append(key) or key for key in keys), ComputeOptions(num_workers=workers))
        )
        assert [batch.wanted for batch in batches] == keys == asked
        for batch in batches:
            assert [stack.images.unique().item() for stack in batch.stacks] == [wanted.file for wanted in batch.wanted]
            assert all(type(image) is np.ndarray for image in batch.drawn.values())
