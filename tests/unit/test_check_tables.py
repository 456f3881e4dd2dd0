"""Faults that a reader finds when it is made: the check names each of them, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slide_files
import yaml
from reader_samples import (
    coco,
    coco_content,
    image,
    manifest,
    mask,
    medmnist,
    slides,
    voc,
    voc_object,
    volumes,
)

from umedpt_lightning.cli import main
from umedpt_lightning.data.readers import ManifestNumbers

Named = dict[str, str]  # what is found, by the end of the name
Planted = Callable[[Path], tuple[str, dict[str, Any], Named]]


def change(file: Path, **cells: str) -> Path:
    """Other cells in a table: ``line_4=("label", "x")``."""
    lines = [line.split(",") for line in file.read_text().splitlines()]
    for place, cell in cells.items():
        line, column = place.removeprefix("line_").split("_", 1)
        lines[int(line) - 1][lines[0].index(column)] = cell
    file.write_text("\n".join(map(",".join, lines)) + "\n")
    return file


def classes(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = change(manifest(folder), line_2_label="q", line_4_label="A", line_5_label="?", line_8_label="not mine")
    for i in (2, 5):
        (folder / "images" / f"train{i}.png").unlink()
    (folder / "images" / "val0.png").unlink()  # of the other part
    options = {"table": str(file), "split": "train", "classes": ["a", "b", "c"]}
    return (
        "ManifestClasses",
        options,
        {
            "table.csv line 2": "its class is 'q', which is not among \\['a', 'b', 'c'\\]",
            "table.csv line 4": "its class is 'A'",
            "table.csv line 5": "its class is '?'",
            "images/train2.png": "there is no such file, but .*table.csv names it",
            "images/train5.png": "there is no such file",
        },
    )


def numbers(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = change(manifest(folder), line_3_z="five", line_6_z="1e99", line_7_patient="")
    return (
        "ManifestNumbers",
        {"table": {"file": str(file), "group": "patient"}, "split": "train", "quantities": {"z": "mm"}},
        {"line 3": "z is 'five'", "line 6": "z is '1e99'", "line 7": "patient is empty"},
    )


def labels(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = change(manifest(folder), line_2_edema="2", line_3_mass="yes", line_4_path="")
    return (
        "ManifestLabels",
        {"table": str(file), "split": "train", "labels": ["edema", "mass"]},
        {"line 2": "edema is '2', but it should be 0, 1", "line 3": "mass is 'yes'", "line 4": "path is empty"},
    )


def masks(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = manifest(folder)
    for path in ("images/train1.png", "masks/train1.png", "masks/train3.png"):
        (folder / path).unlink()
    options = {"table": str(file), "split": "train", "classes": ["background", "nodule"]}
    names = ("images/train1.png", "masks/train1.png", "masks/train3.png")
    return "ManifestMasks", options, dict.fromkeys(names, "there is no such file")


def rows(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = manifest(folder)
    lines = file.read_text().splitlines()
    for i in (3, 9):
        lines[i] += ",one more"
    file.write_text("\n".join(lines))
    what = "11 cells, but the header has 10"
    return "ManifestClasses", {"table": str(file), "split": "train"}, {"line 4": what, "line 10": what}


def leaks(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = change(manifest(folder), line_8_path="images/train0.png", line_9_path="images/train4.png")
    what = "is in the parts 'train' and 'val'"
    return "ManifestClasses", {"table": str(file), "split": "train"}, {"line 8": what, "line 9": what}


def boxes(folder: Path) -> tuple[str, dict[str, Any], Named]:
    content = coco_content()
    for i, new in enumerate(({"bbox": [1, 1, 0, 5]}, {"bbox": [1, 1, 17, 5]}, {"category_id": 99}, {"bbox": [1, 2]})):
        content["annotations"][i].update(new)
    file = coco(folder, content)
    (folder / "train3.png").unlink()
    return (
        "CocoBoxes",
        {"images": str(folder), "annotations": str(file)},
        {
            "boxes.json|100": "of annotation 100 has no area inside its image train0.png of 16x12",
            "boxes.json|101": "of annotation 101 lies outside its image train2.png",
            "boxes.json|102": "annotation 102 has category_id 99",
            "boxes.json|103": r"the bbox of annotation 103 is \[1, 2\], but a box is four numbers",
            "train3.png": "there is no such file",
        },
    )


def outlines(folder: Path) -> tuple[str, dict[str, Any], Named]:
    content = coco_content()
    content["annotations"][0]["segmentation"] = [[0, 0, 1, 1]]
    content["annotations"][2]["segmentation"] = [[0, 0, 30, 0, 30, 5]]
    content["annotations"][3]["image_id"] = 1
    return (
        "CocoMasks",
        {"images": str(folder), "annotations": str(coco(folder, content))},
        {
            "boxes.json|100": "the segmentation of annotation 100 has a polygon of fewer than three points",
            "boxes.json|102": "annotation 102 reaches from .* outside its image of 16x12",
            "boxes.json|103": "annotation 103 is of image_id 1, which is not among the images",
        },
    )


def objects(folder: Path) -> tuple[str, dict[str, Any], Named]:
    odd = voc_object("blue", (1, 1, 4, 4))
    contents = {
        "a": voc_object("red", (1, 1, 19, 4)) + odd,
        "b": voc_object("red", (5, 5, 4, 9)),
        "c": voc_object("red", (1, 1, 16, 12)),
    }
    voc(folder, contents)
    return (
        "VocBoxes",
        {"images": str(folder / "images"), "annotations": str(folder / "xml"), "classes": ["red"]},
        {
            "a.xml": r"\[1.0, 1.0, 19.0, 4.0\] of object 1 \(red\) lies outside its image a.png",
            "a.xml object 2": "its class is 'blue'",
            "b.xml": "has no area inside its image b.png",
        },
    )


def elements(folder: Path) -> tuple[str, dict[str, Any], Named]:
    contents = {"a": voc_object("", (1, 1, 9, 4)) + voc_object("red", (1, "x", 4, 4)), "b": "<object>", "c": ""}
    voc(folder, contents)
    (folder / "images" / "d.png").unlink(missing_ok=True)
    return (
        "VocBoxes",
        {"images": str(folder / "images"), "annotations": str(folder / "xml"), "classes": ["red"]},
        {
            "a.xml|1": r"object 1 \(no name\) needs a name",
            "a.xml|2": r"object 2 \(red\) needs a name and a bndbox",
            "b.xml": "not an XML file",
        },
    )


def cubes(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = change(volumes(folder), line_2_old="3")
    (folder / "volumes" / "0.nii").unlink()
    (folder / "volumes" / "1.nii").write_text("text")
    return (
        "VolumeLabels",
        {"table": str(file), "split": "train", "labels": ["old", "mass"]},
        {
            "volumes.csv line 2": "old is '3'",
            "volumes/0.nii": "there is no such file",
            "volumes/1.nii": "not a volume",
        },
    )


def regions(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = slides(folder)
    inside, line = slide_files.rectangle(1, 2, 30, 31), {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
    features = [slide_files.feature(name, inside) for name in ("a", "ink", "b", "pen", "a")]
    features[4] |= {"geometry": line}
    slide_files.geojson(folder / "slides" / "0.geojson", *features)
    (folder / "slides" / "1.geojson").unlink()
    return (
        "SlideBoxes",
        {"table": str(file), "split": "train", "classes": ["a", "b"], "tiles": {"size": 32, "tissue": None}},
        {
            "0.geojson|1": "feature 1: its class is 'ink'",
            "0.geojson|3": "feature 3: its class is 'pen'",
            "0.geojson|4": "feature 4 is a LineString",
            "1.geojson": "there is no such file",
        },
    )


def arrays(folder: Path) -> tuple[str, dict[str, Any], Named]:
    file = medmnist(folder / "a.npz")
    what = r"label \[2\] lies outside 0 to 1"
    options = {"file": str(file), "split": "train", "classes": ["x", "y"]}
    return "MedMNIST", options, {"a.npz[train 2]": what, "a.npz[train 5]": what}


def pairs(folder: Path) -> tuple[str, dict[str, Any], Named]:
    for name in "abc":
        image(folder / "i" / f"{name}.png")
    for name in "ad":
        mask(folder / "m" / f"{name}.png")
    options = {"images": str(folder / "i"), "masks": str(folder / "m"), "classes": ["x", "y"]}
    lone = "it has no mask in "
    return "MaskFolders", options, {"b.png": lone, "c.png": lone, "d.png": "it has no image in "}


PLANTED: list[Planted] = [
    *(classes, numbers, labels, masks, rows, leaks),
    *(boxes, outlines, objects, elements, cubes, regions, arrays, pairs),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
def test_each_fault_is_named_with_its_mend_and_only_those(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    reader, options, named = planted(tmp_path / "data")
    for seed, kind in enumerate("ab"):  # another task without faults
        image(tmp_path / "good" / kind / "x.png", seed)
    good = {"class_path": "ClassFolders", "init_args": {"folder": str(tmp_path / "good")}}
    tasks = {"bad": {"train": {"class_path": reader, "init_args": options}}, "good": {"train": good}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": {"tasks": tasks}}))
    arguments = ["--config", tmp_path / "c.yaml", "--json", tmp_path / "c.json", "--workers", 1]
    with pytest.raises(SystemExit) as end:
        main(["data", "check", *map(str, arguments)])
    assert end.value.code == 1

    report = json.loads((tmp_path / "c.json").read_text())
    assert list(report["tasks"]) == ["good"]
    assert {(p["task"], p["part"], p["severity"]) for p in report["problems"]} == {("bad", "train", "error")}
    assert len(report["problems"]) == report["errors"] == len(named)
    for name, what in named.items():
        found = [p for p in report["problems"] if p["name"].endswith(name.split("|")[0]) and re.search(what, p["what"])]
        assert len(found) == 1, (name, report["problems"])
        assert not found[0]["mend"].startswith("Correct data.tasks"), "the mend is that of the reader"
    shown = capsys.readouterr().out
    assert all(f"{p['name']}: {p['what']}." in shown and p["mend"] in shown for p in report["problems"])


def test_training_is_told_the_number_and_the_first_few(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    with pytest.raises(ValueError, match=r"^6 faults; `umedpt data check` names all:\n(.*line \d: label is .*\n?){3}$"):
        ManifestNumbers(file, "train", {"label": ""})
