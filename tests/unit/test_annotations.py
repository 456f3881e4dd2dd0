"""Objects in XML and JSON: boxes of Pascal VOC, masks painted from the outlines of COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from reader_samples import PARTS, coco, coco_content, corners, image, voc, voc_object

from umedpt_lightning.data.readers import CocoBoxes, CocoMasks, VocBoxes
from umedpt_lightning.types import IGNORE_INDEX

# Pascal VOC


def voc_reader(folder: Path, **options: Any) -> VocBoxes:
    return VocBoxes(folder / "images", folder / "xml", **options)


def test_voc_corners_are_pixels_counted_from_one(tmp_path: Path) -> None:
    voc(tmp_path, {"a": voc_object("red", (1, 1, 16, 12)) + voc_object("white", (3, 4, 3, 4))})
    reader = voc_reader(tmp_path)
    assert reader[0].target.boxes.tolist() == [[0, 0, 16, 12], [2, 3, 3, 4]]
    assert reader.spec.classes == ("red", "white")
    voc(tmp_path, {"a": voc_object("red", (0, 0, 15.5, 12))})
    assert voc_reader(tmp_path, from_one=False)[0].target.boxes.tolist() == [[0, 0, 15.5, 12]]


def test_difficult_objects_can_be_left_out(tmp_path: Path) -> None:
    part = "<part><name>nucleus</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    hard = voc_object("white", (2, 2, 5, 5), difficult=1).replace("</object>", part)
    voc(tmp_path, {"a": voc_object("red", (1, 1, 4, 4)) + hard})
    assert voc_reader(tmp_path)[0].target.labels.tolist() == [0, 1]
    reader = voc_reader(tmp_path, difficult=False)
    assert reader[0].target.labels.tolist() == [0]
    assert reader.spec == voc_reader(tmp_path).spec


def test_a_list_names_a_part_and_classes_are_those_of_the_folder(tmp_path: Path) -> None:
    kinds = {"a": "x", "b": "grade 10", "c": "grade 9"}
    voc(tmp_path, {name: voc_object(kind, (1, 1, 4, 4)) for name, kind in kinds.items()})
    (tmp_path / "train.txt").write_text("c  1\n\na -1\n")
    reader = voc_reader(tmp_path, names=tmp_path / "train.txt")
    assert [Path(reader.name(i)).stem for i in range(len(reader))] == ["c", "a"]
    assert reader.spec.classes == ("grade 9", "grade 10", "x")
    assert voc_reader(tmp_path, classes=["x", "grade 10", "grade 9"])[0].target.labels.tolist() == [0]
    (tmp_path / "xml" / "b.xml").write_text("broken, but not read")
    assert len(voc_reader(tmp_path, names=tmp_path / "train.txt", classes=["x", "grade 9"])) == 2


@pytest.mark.parametrize(
    ("objects", "match"),
    [
        (
            voc_object("red", (4, 1, 3, 4)),
            r"a\.xml: the box xmin.* = \[4\.0.*object 1 \(red\) has no area.*a\.png of 16x12",
        ),
        (voc_object("red", (1, 1, 9, 14)), r"object 1 \(red\) lies outside its image a\.png of 16x12"),
        (voc_object("red", (1, 1, 4, "")), r"a\.xml: object 1 \(red\) needs a name and a bndbox"),
        (voc_object("", (1, 1, 4, 4)), r"object 1 \(no name\) needs"),
        (voc_object("blue", (1, 1, 4, 4)), r"not among \['red'\], the first 'blue' \(.*a\.xml object 1\)"),
        (voc_object("red", (1, 1, 4, "nan")), "has no area"),
        ("<object>", "not an XML file"),
    ],
)
def test_broken_objects_are_named(tmp_path: Path, objects: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        voc_reader(voc(tmp_path, {"a": objects}), classes=["red"])


def test_broken_voc_folders_are_named(tmp_path: Path) -> None:
    voc(tmp_path, {"a": voc_object("red", (1, 1, 4, 4)), "b": ""})
    (tmp_path / "list.txt").write_text("a\nc\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing.*images/c\.\*"):
        voc_reader(tmp_path, names=tmp_path / "list.txt")
    image(tmp_path / "images" / "c.png")
    with pytest.raises(FileNotFoundError, match=r"xml/c\.xml: there is no such file"):
        voc_reader(tmp_path, names=tmp_path / "list.txt")
    with pytest.raises(ValueError, match=r"1 images have no XML file, the first: \['c'\].*`names`"):
        voc_reader(tmp_path)
    (tmp_path / "list.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match=r"list\.txt: \['a'\] are listed more than once"):
        voc_reader(tmp_path, names=tmp_path / "list.txt")
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        voc_reader(tmp_path, names=tmp_path / "none.txt")
    (tmp_path / "list.txt").write_text("b")
    with pytest.raises(ValueError, match=r"b\.xml: it does not say the size"):
        voc_reader(voc(tmp_path, {"b": ""}, size="<width>0</width>"), names=tmp_path / "list.txt")
    reader = voc_reader(voc(tmp_path, {"b": ""}), names=tmp_path / "list.txt")
    assert reader[0].target.boxes.shape == (0, 4)
    image(tmp_path / "images" / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.(png|jpg) and .*b\.(jpg|png) have one name"):
        voc_reader(tmp_path)
    (tmp_path / "images" / "b.jpg").unlink()
    image(tmp_path / "images" / "b.png", shape=(16, 12))
    with pytest.raises(ValueError, match=r"b\.png: the image is 12x16 \(WxH\)"):
        reader[0]


def test_real_boxes_are_the_same_as_xml_and_as_json(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "bccd"
    content = json.loads((folder / "instances_val.json").read_text())
    kinds = {c["id"]: c["name"] for c in content["categories"]}
    for record in content["images"]:
        objects = [
            voc_object(kinds[a["category_id"]], (x + 1, y + 1, x + w, y + h))
            for a in content["annotations"]
            if a["image_id"] == record["id"]
            for x, y, w, h in [a["bbox"]]
        ]
        size = f"<width>{record['width']}</width><height>{record['height']}</height>"
        file = tmp_path / Path(record["file_name"]).with_suffix(".xml")
        file.write_text(f"<annotation><size>{size}</size>{''.join(objects)}</annotation>")
    (tmp_path / "val.txt").write_text("\n".join(Path(record["file_name"]).stem for record in content["images"]))
    classes = ["RBC", "WBC", "Platelets"]
    ours = VocBoxes(folder / "images", tmp_path, tmp_path / "val.txt", classes)
    theirs = CocoBoxes(folder / "images", folder / "instances_val.json")
    assert ours.spec == theirs.spec
    for i in (0, 40, 86):
        for a, b in zip(ours[i].target, theirs[i].target, strict=True):
            np.testing.assert_allclose(a, b)


# masks of COCO


def annotation(number: int, kind: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 10, "category_id": kind, "segmentation": segmentation, **more}


def coco_masks(folder: Path, *annotations: dict[str, Any], **options: Any) -> CocoMasks:
    content = coco_content() | {"annotations": list(annotations)}
    return CocoMasks(folder, coco(folder, content), **options)


def run_lengths(box: tuple[int, int, int, int], text: bool) -> dict[str, Any]:
    """A box of x, y, width, height."""
    area = np.zeros((12, 16), np.uint8, order="F")
    area[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    if text:
        return {"size": [12, 16], "counts": coco_mask.encode(area)["counts"].decode()}
    flat = area.ravel(order="F")
    borders = np.flatnonzero(np.diff(np.r_[0, flat, 1 - flat[-1]]))
    return {"size": [12, 16], "counts": np.diff(np.r_[0, borders]).tolist()}


def test_polygons_and_both_kinds_of_run_lengths_paint_the_same(tmp_path: Path) -> None:
    box = (3, 2, 5, 6)
    outlines = [[corners(*box)], run_lengths(box, text=True), run_lengths(box, text=False)]
    masks = [coco_masks(tmp_path, annotation(1, 7, outline))[0].target for outline in outlines]
    expected = np.zeros((12, 16), np.int16)
    expected[2:8, 3:8] = 2  # the second category by id
    for found in masks:
        np.testing.assert_array_equal(found, expected)


def test_smaller_objects_lie_on_top_and_crowds_below(tmp_path: Path) -> None:
    cell, nucleus = annotation(1, 7, [corners(0, 0, 10, 10)]), annotation(2, 3, [corners(2, 2, 3, 3)])
    crowd = annotation(3, 3, run_lengths((6, 0, 10, 12), text=True), iscrowd=1)
    results = [coco_masks(tmp_path, *order)[0].target for order in ((cell, nucleus, crowd), (crowd, nucleus, cell))]
    expected = np.zeros((12, 16), np.int16)
    expected[:, 6:] = IGNORE_INDEX
    expected[:10, :10] = 2
    expected[2:5, 2:5] = 1
    for found in results:
        np.testing.assert_array_equal(found, expected)


def test_several_polygons_are_one_object_and_no_annotations_are_background(tmp_path: Path) -> None:
    reader = coco_masks(tmp_path, annotation(1, 3, [corners(0, 0, 2, 2), corners(8, 8, 2, 2)]), background="slide")
    assert reader[0].target.sum() == 8
    assert reader[1].target.max() == 0
    assert reader.spec.classes == ("slide", "red", "white")
    assert not any(sample.target.any() for sample in coco_masks(tmp_path))
    order = coco_masks(tmp_path, annotation(1, 3, [corners(0, 0, 2, 2)]), classes=["white", "red"])
    assert order[0].target.max() == 2
    with pytest.raises(ValueError, match="background and classes must differ"):
        coco_masks(tmp_path, background="red")


@pytest.mark.parametrize(
    ("outline", "match"),
    [
        ([], r"annotation 1 is \[\], but it should be.*CocoBoxes"),
        ([[1, 2, 3, 4]], "polygon of fewer than three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon of fewer than three points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "polygon of fewer than three points"),
        ([1, 2, 3, 4, 5, 6], "polygon of fewer than three points"),
        ([[[1, 2], [3, 4], [5, 2]]], "polygon of fewer than three points"),  # points in lists of their own
        ([corners(10, 2, 8, 4)], r"reaches from \[10\.0, 2\.0\] to \[18\.0, 6\.0\].* outside its image of 16x12"),
        ({"size": [16, 12], "counts": [192]}, r"is 12x16 \(WxH\), but its image 16x12"),
        ({"size": [12, 16], "counts": [100]}, "runs that do not fill"),
        ({"size": [12, 16], "counts": None}, "no counts"),
        (None, "is None, but it should be"),
    ],
)
def test_broken_outlines_are_named(tmp_path: Path, outline: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        coco_masks(tmp_path, annotation(1, 3, outline))
    assert "boxes.json: the segmentation of annotation 1 " in str(error.value)


def test_broken_texts_of_run_lengths_are_told_on_reading(tmp_path: Path) -> None:
    reader = coco_masks(tmp_path, annotation(1, 3, {"size": [12, 16], "counts": "garb!"}))
    with pytest.raises(ValueError, match=r"boxes\.json: the segmentation of annotation 1 cannot be read"):
        reader[0]
    content = coco_content()
    del content["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match=r"annotations\[0\] \(id 100\) has no \['segmentation'\]"):
        CocoMasks(tmp_path, coco(tmp_path, content))


def test_compressed_run_lengths_are_those_of_all_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        drawn = (rng.random((12, 16)) < share).astype(np.uint8)
        code = coco_mask.encode(np.asfortranarray(drawn))["counts"].decode()
        outline = {"size": [12, 16], "counts": code}
        np.testing.assert_array_equal(coco_masks(tmp_path, annotation(1, 3, outline))[0].target > 0, drawn > 0)
        for cut in range(len(code)):  # the library leaves the rest of the memory as it was
            broken = coco_masks(tmp_path, annotation(1, 3, {**outline, "counts": code[:cut]}))
            with pytest.raises(ValueError, match=r"annotation 1 cannot be read \(.*\)\. Export it again\."):
                broken[0]


def test_masks_enclose_the_boxes_of_the_same_file(tmp_path: Path) -> None:
    file = coco(tmp_path, coco_content())
    for boxes, masks in zip(CocoBoxes(tmp_path, file), CocoMasks(tmp_path, file), strict=True):
        drawn = np.zeros_like(masks.target)
        for x1, y1, x2, y2 in boxes.target.boxes.astype(int):
            drawn[y1:y2, x1:x2] = 1
        np.testing.assert_array_equal(drawn, masks.target > 0)
    assert len(CocoMasks(tmp_path, file)) == PARTS["train"]
