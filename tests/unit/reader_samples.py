"""A small data set on disk for every reader, in two parts: `make[reader](folder, part)`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import slide_files
from PIL import Image
from volume_files import nifti

from umedpt_lightning.data import readers
from umedpt_lightning.data.shards.pack import pack_reader
from umedpt_lightning.data.slide.tiles import Tiles

PARTS = {"train": 6, "val": 4}


def image(path: Path, seed: int = 0, shape: tuple[int, ...] = (12, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def mask(path: Path, values: tuple[int, ...] = (0, 1), shape: tuple[int, int] = (12, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), shape)).save(path)
    return path


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def manifest(folder: Path) -> Path:
    """Columns for all five readers of tables."""
    rows: list[dict[str, object]] = []
    for part, size in PARTS.items():
        for i in range(size):
            image(folder / "images" / f"{part}{i}.png", i)
            mask(folder / "masks" / f"{part}{i}.png")
            rows.append(
                {
                    "path": f"images/{part}{i}.png",
                    "mask": f"masks/{part}{i}.png",
                    "split": part,
                    "label": "abc"[i % 3],
                    "edema": ["1", "0", ""][i % 3],
                    "mass": "1.0",
                    "z": i / 2 if i else "",
                    "months": i + 1,
                    "died": i % 2,
                    "patient": f"{part}{i // 2}",
                }
            )
    return table(folder / "table.csv", rows)


def corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def coco_content(part: str = "train") -> dict[str, list[dict[str, object]]]:
    """The first image has two boxes, the second none, each other one."""
    images = [{"id": 10 + i, "file_name": f"{part}{i}.png", "width": 16, "height": 12} for i in range(PARTS[part])]
    boxes = [
        (10, 7, [1, 2, 3, 4]),
        *((10 + i, 3, [0, 0, 16, 12]) for i in range(2, PARTS[part])),
        (10, 3, [5, 5, 2, 2]),
    ]
    annotations = [
        {"id": 100 + k, "image_id": owner, "category_id": kind, "bbox": box, "segmentation": [corners(*box)]}
        for k, (owner, kind, box) in enumerate(boxes)
    ]
    categories = [{"id": 7, "name": "white"}, {"id": 3, "name": "red"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(folder: Path, content: dict[str, list[dict[str, object]]]) -> Path:
    for i, record in enumerate(content["images"]):
        image(folder / str(record["file_name"]), i)
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def voc_object(kind: str, box: tuple[object, ...], difficult: int = 0) -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def voc(folder: Path, contents: dict[str, str], size: str = "<width>16</width><height>12</height>") -> Path:
    """Images and one XML file for each, with these objects."""
    for i, (name, objects) in enumerate(contents.items()):
        image(folder / "images" / f"{name}.png", i)
        (folder / "xml").mkdir(parents=True, exist_ok=True)
        (folder / "xml" / f"{name}.xml").write_text(f"<annotation><size>{size}</size>{objects}</annotation>")
    return folder


def voc_part(folder: Path, part: str) -> readers.Reader:
    """One folder for both parts, told apart by a list; the second image has no object."""
    for name, size in PARTS.items():
        one, two = voc_object("red", (1, 1, 16, 12)), voc_object("white", (2, 3, 4, 5))
        voc(folder, {f"{name}{i}": ["", one, one + two][(i + 2) % 3] for i in range(size)})
    (folder / f"{part}.txt").write_text("".join(f"{part}{i}  1\n" for i in range(PARTS[part])))
    return readers.VocBoxes(folder / "images", folder / "xml", folder / f"{part}.txt")


def medmnist(path: Path, labels: int = 1, colour: bool = False) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in PARTS.items():
        arrays[f"{part}_images"] = rng.integers(0, 256, (size, 12, 16, 3)[: 4 if colour else 3], dtype=np.uint8)
        values = np.arange(size)[:, None] % 3 if labels == 1 else rng.integers(0, 2, (size, labels))
        arrays[f"{part}_labels"] = values.astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def class_folders(folder: Path, part: str) -> readers.Reader:
    for i in range(PARTS[part]):
        image(folder / part / "abc"[i % 3] / f"patient{i}" / "x.png", i)
    return readers.ClassFolders(folder / part)


def mask_folders(folder: Path, part: str) -> readers.Reader:
    for i in range(PARTS[part]):
        image(folder / part / "images" / f"{i}.jpg", i)
        mask(folder / part / "masks" / f"{i}.png")
    return readers.MaskFolders(folder / part / "images", folder / part / "masks", ["background", "nodule"])


def subset(folder: Path, part: str) -> readers.Reader:
    whole = readers.MedMNIST(medmnist(folder / "a.npz"), "train")
    return readers.Subset(whole, stop=0.5) if part == "train" else readers.Subset(whole, start=0.5)


def centres(folder: Path, part: str) -> readers.Reader:
    whole = readers.ManifestClasses(readers.Table(manifest(folder), group="patient"), None)
    first = [str(whole.groups[0])]
    return readers.Centres(whole, without=first) if part == "train" else readers.Centres(whole, only=first)


def split(folder: Path, part: str) -> readers.Reader:
    whole = readers.ManifestClasses(readers.Table(manifest(folder), group="patient"), None)
    return readers.Split(whole, part, (0.6, 0.4, 0), seed=1)


def file_split(folder: Path, part: str) -> readers.Reader:
    whole = mask_folders(folder, "train")
    rows = [{"name": f"{i}", "split": "train" if i < 4 else "val"} for i in range(PARTS["train"])]
    return readers.FileSplit(whole, part, table(folder / "split.csv", rows))


def volumes(folder: Path) -> Path:
    """Columns for all readers of volumes: two of three slices a part."""
    rows: list[dict[str, object]] = []
    for k, part in enumerate(("train", "train", "val", "val")):
        rng = np.random.default_rng(k)
        nifti(folder / "volumes" / f"{k}.nii", rng.integers(0, 256, (7, 6, 3), dtype=np.uint8))
        nifti(folder / "labels" / f"{k}.nii", rng.integers(0, 2, (7, 6, 3), dtype=np.uint8), axes="LAS")
        rows.append(
            {"path": f"volumes/{k}.nii", "mask": f"labels/{k}.nii", "split": part, "label": "ab"[k % 2], "z": k}
            | {"old": ["1", "0", "", "1"][k], "mass": "1.0"}
        )
    return table(folder / "volumes.csv", rows)


def volume_folders(folder: Path, part: str) -> readers.Reader:
    for k in range(2):
        voxels = np.random.default_rng(k).integers(0, 256, (7, 6, 3), dtype=np.uint8)
        nifti(folder / part / "images" / f"{k}.nii", voxels)
        nifti(folder / part / "masks" / f"{k}.nii", voxels // 128)
    return readers.VolumeMaskFolders(folder / part / "images", folder / part / "masks", ["background", "bright"])


TILES = Tiles(mpp=0.5, size=32, tissue=None)


def slides(folder: Path) -> Path:
    """Columns for all readers of slides: two of two tiles a part."""
    rows: list[dict[str, object]] = []
    for k, part in enumerate(("train", "train", "val", "val")):
        grey = np.random.default_rng(k).integers(0, 256, (32, 64), dtype=np.uint8)
        slide_files.slide(folder / "slides" / f"{k}.tif", grey, tile=16, levels=(2,))
        regions = [
            slide_files.feature(name, slide_files.rectangle(32 * i + 1, 2, 32 * i + 30, 31))
            for i, name in enumerate("ab")
        ]
        slide_files.geojson(folder / "slides" / f"{k}.geojson", *regions)
        rows.append(
            {
                "path": f"slides/{k}.tif",
                "annotations": f"slides/{k}.geojson",
                "split": part,
                "label": "ab"[k % 2],
                "z": k,
                "old": ["1", "0", "", "1"][k],
                "mass": "1.0",
            }
        )
    return table(folder / "slides.csv", rows)


def named_classes(folder: Path, part: str) -> readers.Reader:
    for i in range(PARTS[part]):
        image(folder / part / f"x{i}" / f"{i}_{i % 2}.png", i)
        image(folder / part / f"y{i}" / "other.png", i)
    return readers.NamedClasses(folder / part, r"_([01])\.png$", {"no": "0", "yes": "1"}, "x*")


def npy_masks(folder: Path, part: str) -> readers.Reader:
    """Masks with a plane of objects and one of their classes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{part}.npy", rng.integers(0, 256, (PARTS[part], 12, 16), np.uint8))
    np.save(folder / f"{part}_masks.npy", rng.integers(0, 3, (PARTS[part], 12, 16, 2)))
    names = table(folder / f"{part}.csv", [{"name": f"{part}{i // 2}-{i}"} for i in range(PARTS[part])])
    return readers.NpyMasks(
        folder / f"{part}.npy",
        folder / f"{part}_masks.npy",
        ["no", "a", "b"],
        plane=1,
        names=readers.Table(names, path="name"),
    )


def objects(folder: Path) -> readers.Table:
    """Two rows of the first image, one without an object of the second, one of each other."""
    rows: list[dict[str, object]] = []
    for part, size in PARTS.items():
        for i in range(size):
            image(folder / "images" / f"{part}{i}.png", i)
            one = {"id": f"{part}{i}", "split": part, "kind": "ab"[i % 2], "patient": f"{part}{i // 2}"}
            some = {"runs": "1 3 13 2", "x": 1, "y": 2, "w": 3, "h": 4}
            none = dict.fromkeys(some, "")
            rows += [one | (none if i == 1 else some), *([one | some | {"kind": "b", "x": 5}] if i == 0 else [])]
    return readers.Table(table(folder / "objects.csv", rows), path="images/{id}.png", group="patient")


def run_lengths(folder: Path, part: str) -> readers.Reader:
    return readers.RunLengthMasks(objects(folder), part, ["no", "a", "b"], runs="runs", label="kind")


def table_boxes(folder: Path, part: str) -> readers.Reader:
    return readers.TableBoxes(objects(folder), part, ["a", "b"], "kind", ("x", "y", "w", "h"), sized=True)


def packed(folder: Path, part: str) -> readers.Reader:
    pack_reader(readers.ManifestMasks(manifest(folder), part, ["background", "nodule"]), folder / part, 1 << 20)
    return readers.Packed(str(folder / part))


def unlabelled_folder(folder: Path, part: str) -> readers.Reader:
    for i in range(PARTS[part]):
        image(folder / part / f"{i % 2}" / f"{i}.png", i)
    return readers.UnlabelledFolder(folder / part)


make: dict[type[readers.Reader], Callable[[Path, str], readers.Reader]] = {
    readers.Centres: centres,
    readers.ClassFolders: class_folders,
    readers.CocoBoxes: lambda folder, part: readers.CocoBoxes(folder / part, coco(folder / part, coco_content(part))),
    readers.CocoMasks: lambda folder, part: readers.CocoMasks(folder / part, coco(folder / part, coco_content(part))),
    readers.FileSplit: file_split,
    readers.ManifestClasses: lambda folder, part: readers.ManifestClasses(manifest(folder), part),
    readers.ManifestLabels: lambda folder, part: readers.ManifestLabels(manifest(folder), part, ["edema", "mass"]),
    readers.ManifestMasks: lambda folder, part: readers.ManifestMasks(manifest(folder), part, ["background", "nodule"]),
    readers.ManifestNumbers: lambda folder, part: readers.ManifestNumbers(manifest(folder), part, {"z": "mm"}),
    readers.ManifestSurvival: lambda folder, part: readers.ManifestSurvival(
        manifest(folder), part, "months", time="months", event="died"
    ),
    readers.MaskFolders: mask_folders,
    readers.MedMNIST: lambda folder, part: readers.MedMNIST(medmnist(folder / "a.npz"), part),
    readers.MedMNISTMultilabel: lambda folder, part: readers.MedMNISTMultilabel(medmnist(folder / "m.npz", 5), part),
    readers.NamedClasses: named_classes,
    readers.NpyMasks: npy_masks,
    readers.Packed: packed,
    readers.RunLengthMasks: run_lengths,
    readers.Split: split,
    readers.SlideBoxes: lambda folder, part: readers.SlideBoxes(slides(folder), part, ["a", "b"], tiles=TILES),
    readers.SlideClasses: lambda folder, part: readers.SlideClasses(slides(folder), part, tiles=TILES),
    readers.SlideLabels: lambda folder, part: readers.SlideLabels(slides(folder), part, ["old", "mass"], tiles=TILES),
    readers.SlideMasks: lambda folder, part: readers.SlideMasks(slides(folder), part, ["no", "a", "b"], tiles=TILES),
    readers.SlideNumbers: lambda folder, part: readers.SlideNumbers(slides(folder), part, {"z": "mm"}, tiles=TILES),
    readers.SlideRegions: lambda folder, part: readers.SlideRegions(slides(folder), part, ["a", "b"], tiles=TILES),
    readers.Subset: subset,
    readers.TableBoxes: table_boxes,
    readers.Unlabelled: lambda folder, part: readers.Unlabelled(readers.ManifestClasses(manifest(folder), part)),
    readers.UnlabelledFolder: unlabelled_folder,
    readers.VocBoxes: voc_part,
    readers.VolumeClasses: lambda folder, part: readers.VolumeClasses(volumes(folder), part),
    readers.VolumeLabels: lambda folder, part: readers.VolumeLabels(volumes(folder), part, ["old", "mass"]),
    readers.VolumeMaskFolders: volume_folders,
    readers.VolumeMasks: lambda folder, part: readers.VolumeMasks(volumes(folder), part, ["background", "bright"]),
    readers.VolumeNumbers: lambda folder, part: readers.VolumeNumbers(volumes(folder), part, {"z": "mm"}),
}
