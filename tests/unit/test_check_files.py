"""What the check tells of folders, depths, masks and sizes, beyond single samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from reader_samples import class_folders, coco, coco_content, image, mask, mask_folders, voc, voc_object, volume_folders
from volume_files import dicom, nifti, series

from umedpt_lightning.data import readers
from umedpt_lightning.data.check import Problem, check
from umedpt_lightning.data.check.sample import Objects, count_objects
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.labels.views import BoxLayer, MaskLayer
from umedpt_lightning.types import BoxArrays, Sample

RNG = np.random.default_rng(0)


def problems_of(task: TaskData, word: str, stride: float = 8) -> list[Problem]:
    return [problem for problem in check({"t": task}, 1, stride=stride).problems if word in problem.what]


# files that nothing reads


def coco_reader(folder: Path, part: str) -> Reader:
    return readers.CocoBoxes(folder / part, coco(folder / part, coco_content(part)))


def coco_mask_reader(folder: Path, part: str) -> Reader:
    return readers.CocoMasks(folder / part, coco(folder / part, coco_content(part)))


def voc_reader(folder: Path, part: str) -> Reader:
    voc(folder / part, {name: voc_object("red", (1, 1, 9, 9)) for name in "abc"})
    return readers.VocBoxes(folder / part / "images", folder / part / "xml")


#: Readers of folders: how one is made, and the folders below its part in which a stray file is told.
FOLDERS: dict[str, tuple[Callable[[Path, str], Reader], list[str]]] = {
    "ClassFolders": (class_folders, ["", "a", "a/deep"]),
    "MaskFolders": (mask_folders, ["images", "masks", "images/deep"]),
    "CocoBoxes": (coco_reader, [""]),
    "CocoMasks": (coco_mask_reader, [""]),
    "VocBoxes": (voc_reader, ["images", "xml", "xml/deep"]),
    "VolumeMaskFolders": (volume_folders, ["images", "masks", "masks/deep"]),
}
STRAY = ["notes.txt", "scan.nrrd", "slices.npy", "IM0001x.CT"]


@pytest.mark.parametrize("kind", FOLDERS)
def test_files_that_no_part_reads_are_counted_and_told(tmp_path: Path, kind: str) -> None:
    make, places = FOLDERS[kind]
    strays = [f"{place}/{name}".lstrip("/") for place in places for name in STRAY]
    if kind == "VolumeMaskFolders":
        strays = [stray for stray in strays if "/deep" in stray or not stray.endswith(".nrrd")]
    task = TaskData(train=make(tmp_path, "train"), val=make(tmp_path, "val"))
    assert problems_of(task, "read by no part") == []
    for hidden in (".DS_Store", "Thumbs.db", ".cache/x.png", "desktop.ini"):
        (tmp_path / "train" / places[0] / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / places[0] / hidden).write_bytes(b"x")
    assert problems_of(TaskData(train=make(tmp_path, "train")), "read by no part") == []
    for stray in strays:
        (tmp_path / "train" / stray).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / stray).write_bytes(b"x")
    task = TaskData(train=task.train, val=make(tmp_path, "val"))
    (told,) = problems_of(task, "read by no part")
    assert told.what.startswith(f"{len(strays)} of ")
    assert f"{sum(stray.endswith('.txt') for stray in strays)} .txt" in told.what
    assert (told.severity, told.part) == ("warning", "")


def test_what_another_part_reads_is_not_told(tmp_path: Path) -> None:
    voc(tmp_path, {name: voc_object("red", (1, 1, 9, 9)) for name in "abcd"})
    parts = {}
    for part, names in (("train", "ab"), ("val", "c")):
        (tmp_path / f"{part}.txt").write_text("\n".join(names))
        parts[part] = readers.VocBoxes(tmp_path / "images", tmp_path / "xml", tmp_path / f"{part}.txt")
    (told,) = problems_of(TaskData(**parts), "read by no part")
    assert told.what.startswith("2 of 8 files")  # d.png and d.xml
    whole = mask_folders(tmp_path / "m", "train")
    halves = TaskData(train=readers.Subset(whole, stop=0.5), val=readers.Subset(whole, start=0.5))
    assert problems_of(halves, "read by no part") == []
    image(tmp_path / "m" / "train" / "images" / "deep" / "x.png")
    assert len(problems_of(halves, "read by no part")) == 1


def test_files_beside_the_slices_of_a_series_that_a_table_names_are_told(tmp_path: Path) -> None:
    for name in "ab":
        series(tmp_path / "scans" / name, np.arange(210, dtype=np.uint16).reshape(7, 6, 5))
    (tmp_path / "t.csv").write_text("path,label,split\nscans/a,x,train\nscans/b,y,train\n")
    task = TaskData(train=readers.VolumeClasses(tmp_path / "t.csv", "train"))
    assert problems_of(task, "read by no part") == []
    for stray in ("a/notes.txt", "b/mask.nii.gz", "b/deep/0.dcm"):
        (tmp_path / "scans" / stray).parent.mkdir(exist_ok=True)
        (tmp_path / "scans" / stray).write_bytes(b"x")
    (told,) = problems_of(TaskData(train=readers.VolumeClasses(tmp_path / "t.csv", "train")), "read by no part")
    assert told.what.startswith("3 of 13 files")


RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
#: How scanners and archives name files.
NAMES = ["a.dcm", "IM0001", "1.2.840.10008.77", "I10", "b.IMA", "c.dic"]


@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_is_read_from_folders_whatever_it_is_called(tmp_path: Path, preamble: bool) -> None:
    for k, name in enumerate(NAMES):
        path = dicom(tmp_path / "images" / name, RAMP + k, Modality="MR")
        if not preamble:
            data = path.read_bytes()
            path.write_bytes(data[132:])
        mask(tmp_path / "masks" / f"{Path(name).stem if k in (0, 4, 5) else name}.png", shape=(3, 4))
        shutil.copytree(tmp_path / "images", tmp_path / "classes" / "x", dirs_exist_ok=True)
    (tmp_path / "images" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    classes = readers.ClassFolders(tmp_path / "classes", value_range=(0, 4095))
    masks = readers.MaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"], value_range=(0, 4095))
    assert len(classes) == len(masks) == len(NAMES)
    assert {int(sample.image.min()) for sample in (classes[i] for i in range(len(NAMES)))} == set(range(len(NAMES)))
    assert problems_of(TaskData(train=classes), "read by no part") == []
    assert problems_of(TaskData(train=masks), "read by no part") == []
    shutil.move(tmp_path / "images" / "a.dcm", tmp_path / "classes" / "x" / "other.CT")
    (told,) = problems_of(TaskData(train=classes), "read by no part")
    assert "Give the 1 that are DICOM the suffix .dcm." in told.mend


def test_what_lies_in_hidden_folders_is_no_sample(tmp_path: Path) -> None:
    image(tmp_path / "a" / "x.png")
    image(tmp_path / "a" / ".ipynb_checkpoints" / "x-checkpoint.png")
    for folder in (tmp_path, tmp_path / "a"):
        image(folder / "__MACOSX" / "x.png")
    assert len(readers.ClassFolders(tmp_path)) == 1
    assert readers.ClassFolders(tmp_path).spec.names == ("a",)


# depths, masks


@pytest.mark.parametrize(("bits", "told"), [(10, True), (12, True), (14, False), (16, False)])
def test_a_depth_that_is_hardly_used_is_told(tmp_path: Path, bits: int, told: bool) -> None:
    for k in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        pixels = RNG.integers(0, 2**bits, (16, 16)).astype(np.uint16)
        pixels[0, :2] = 0, 2**bits - 1
        cv2.imwrite(str(tmp_path / "a" / f"{k}.png"), pixels)
    found = problems_of(TaskData(train=readers.ClassFolders(tmp_path)), "of the value_range")
    assert len(found) == told
    if told:
        assert f"value_range: [0, {2**bits - 1}]" in found[0].mend
        mended = readers.ClassFolders(tmp_path, value_range=(0, 2**bits - 1))
        assert problems_of(TaskData(train=mended), "of the value_range") == []


def save_as(path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((16, 16), np.uint8)).convert("RGB" if "webp" in path.suffix else "L").save(path, **options)


@pytest.mark.parametrize(
    ("suffix", "options", "kind"),
    [
        ("jpg", {}, "JPEG"),
        ("jpeg", {"quality": 100}, "JPEG"),
        ("jp2", {"irreversible": True, "quality_layers": [20]}, "JPEG 2000"),
        ("jp2", {"irreversible": False}, ""),
        ("webp", {"lossless": False}, "WebP"),
        ("webp", {"lossless": True}, ""),
        ("tif", {"compression": "jpeg"}, "TIFF with JPEG"),
        ("tif", {"compression": "tiff_lzw"}, ""),
        ("png", {}, ""),
    ],
)
def test_masks_with_loss_are_told(tmp_path: Path, suffix: str, options: dict[str, object], kind: str) -> None:
    for k in range(2):
        image(tmp_path / "images" / f"{k}.png", shape=(16, 16))
        save_as(tmp_path / "masks" / f"{k}.{suffix}", **options)
    reader = readers.MaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"])
    found = problems_of(TaskData(train=readers.Subset(reader, stop=2)), "stored with loss")
    assert len(found) == bool(kind)
    if kind:
        assert f"2 masks are stored with loss (this one as {kind})" in found[0].what
        assert "PNG" in found[0].mend


def test_values_that_loss_made_are_explained(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", shape=(32, 32))
    smeared = np.zeros((32, 32), np.uint8)
    smeared[5:19, 7:20] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(smeared).save(tmp_path / "masks" / "a.jpg", quality=30)
    reader = readers.MaskFolders(tmp_path / "images", tmp_path / "masks", {"x": 0, "y": 255})
    with pytest.raises(ValueError, match=r"a\.jpg: the mask is stored as JPEG, with loss.*Export it again as PNG"):
        reader[0]


# what resizing takes


def test_objects_are_counted_as_training_resizes_them() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        values = (rng.random((97, 131)) < 0.03).astype(np.uint8) * rng.integers(1, 3, (97, 131)).astype(np.uint8)
        wanted = (int(rng.integers(20, 97)), int(rng.integers(20, 131)))
        found = count_objects(MaskLayer(values), values.shape, wanted, 8)
        resized = Transform(wanted)(Sample(np.zeros((97, 131, 1), np.uint8), values, "x"), 0).target
        left = 0
        for value in (1, 2):
            count, areas = cv2.connectedComponents((values == value).astype(np.uint8), connectivity=8)
            for area in range(1, count):
                alone = np.where(areas == area, 255, 0).astype(np.uint8)
                shown = Transform(wanted)(Sample(np.zeros((97, 131, 1), np.uint8), alone, "x"), 0).target
                left += bool(shown.any())
        assert found.total - found.gone == left
        assert (resized > 0).any()


def test_boxes_are_counted_as_training_keeps_them() -> None:
    corners = RNG.uniform(0, 150, (200, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(1, 40, (200, 2))], axis=1).astype(np.float32)
    sample = Sample(np.zeros((200, 200, 1), np.uint8), BoxArrays(boxes, np.zeros(200, np.int64)), "x")
    for wanted in ((200, 200), (100, 60), (33, 47)):
        kept = Transform(wanted)(sample, 0).target.boxes
        found = count_objects(BoxLayer(boxes, np.zeros(200)), (200, 200), wanted, 8)
        assert found.total - found.gone == len(kept)
        assert found.small == int(((kept[:, 2:] - kept[:, :2]).min(axis=1) < 8).sum())
    assert count_objects(None, (9, 9), (3, 3), 8) == Objects()


def boxes_task(folder: Path, side: float, size: int | None) -> TaskData:
    image(folder / "a.png", shape=(400, 400))
    record = {"id": 1, "file_name": "a.png", "width": 400, "height": 400}
    boxes = [{"id": k, "image_id": 1, "category_id": 1, "bbox": [9 * k, 9, side, side]} for k in range(10)]
    content = {"images": [record], "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}
    (folder / "b.json").write_text(json.dumps(content))
    return TaskData(train=readers.CocoBoxes(folder, folder / "b.json"), size=size)


def test_boxes_below_the_finest_stride_are_told(tmp_path: Path) -> None:
    (told,) = problems_of(boxes_task(tmp_path, 12, 200), "finest stride")
    assert "10 of 10 boxes (100%) have a side below 8 pixels at size 200" in told.what
    assert problems_of(boxes_task(tmp_path, 12, 200), "finest stride", stride=4) == []
    assert problems_of(boxes_task(tmp_path, 12, None), "finest stride") == []
    assert len(problems_of(boxes_task(tmp_path, 3, None), "finest stride")) == 1
    (told,) = problems_of(boxes_task(tmp_path, 3, 100), "are gone")
    assert "10 of 10 objects (100%, in 1 images) are gone at size 100" in told.what


def test_areas_that_resizing_removes_are_told(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", shape=(400, 400))
    spots = np.zeros((400, 400), np.uint8)
    spots[1::40, 1::40] = 1  # 100 areas of one pixel
    spots[20:30, 20:30] = 1
    (tmp_path / "masks").mkdir()
    Image.fromarray(spots).save(tmp_path / "masks" / "a.png")
    reader = readers.MaskFolders(tmp_path / "images", tmp_path / "masks", ["x", "y"])
    (told,) = problems_of(TaskData(train=reader, size=(100, 100)), "are gone")
    assert "of 101 objects" in told.what
    assert "at size (100, 100)" in told.what
    assert "larger `size`" in told.mend
    assert problems_of(TaskData(train=reader), "are gone") == []


def test_areas_that_a_reader_resamples_away_are_told(tmp_path: Path) -> None:
    voxels = np.zeros((64, 64, 2), np.uint8)
    voxels[1::8, 1::8] = 1  # 64 areas of one voxel in each slice, none of which is nearest to a new pixel
    voxels[20:30, 20:30] = 1
    for folder in "im":
        nifti(tmp_path / folder / "a.nii", voxels)
    for spacing, gone in ((None, 0), (8.0, 126)):
        masks = readers.VolumeMaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"], slices=Slices(spacing=spacing))
        told = problems_of(TaskData(train=masks), "are gone")
        assert [problem.what.split(" of ")[0] for problem in told] == [str(gone)] * bool(gone)
    assert "finer `spacing`" in told[0].mend
