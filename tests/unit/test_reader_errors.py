"""What a reader says of data that it cannot use: where, what was found, and the mend."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reader_samples import PARTS, coco, coco_content, image, manifest, mask, medmnist, table

from umedpt_lightning.data.formats.labels import natural_key
from umedpt_lightning.data.readers import (
    ClassFolders,
    CocoBoxes,
    CocoMasks,
    ManifestClasses,
    ManifestLabels,
    ManifestMasks,
    ManifestNumbers,
    MaskFolders,
    MedMNIST,
    MedMNISTMultilabel,
    Subset,
    Table,
)
from umedpt_lightning.types import IGNORE_INDEX


def edit(path: Path, old: str, new: str, count: int = 1) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))
    return path


# images, the same for all readers of files


def test_missing_images_are_counted_and_the_first_listed(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    for i in range(2):
        (tmp_path / "images" / f"train{i}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"table\.csv: 2 of 6 images are missing.*train0\.png"):
        ManifestClasses(file, "train")
    assert len(ManifestClasses(file, "val")) == PARTS["val"]


def test_construction_decodes_no_image(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    for i in range(1, 6):
        (tmp_path / "images" / f"train{i}.png").write_text("broken")
    reader = ManifestClasses(file, "train")
    with pytest.raises(ValueError, match=r"train3\.png.*not an image"):
        reader[3]


def test_another_number_of_channels_is_an_error_with_its_mend(tmp_path: Path) -> None:
    image(tmp_path / "c" / "a.png")
    image(tmp_path / "c" / "b.png", shape=(12, 16, 3))
    with pytest.raises(ValueError, match=r"b\.png: 3 channels.*a\.png\) has 1.*`channels: 3`"):
        ClassFolders(tmp_path)[1]
    for channels in (1, 3):
        assert {s.image.shape[-1] for s in ClassFolders(tmp_path, channels=channels)} == {channels}
    with pytest.raises(ValueError, match=r"a\.png: `channels: 2` was asked for, but the image has 1"):
        ClassFolders(tmp_path, channels=2)


def test_another_depth_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "c" / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "c" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: uint16, but the first image .* is uint8"):
        ClassFolders(tmp_path)[1]


def test_the_value_range_follows_the_dtype(tmp_path: Path) -> None:
    for dtype, expected in ((np.uint8, (0.0, 255.0)), (np.uint16, (0.0, 65535.0))):
        folder = tmp_path / np.dtype(dtype).name / "c"
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), dtype)).save(folder / "a.png")
        assert ClassFolders(folder.parent).spec.value_range == expected
    (tmp_path / "float" / "c").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float" / "c" / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: float32.*`value_range: \[low, high\]`"):
        ClassFolders(tmp_path / "float")
    assert ClassFolders(tmp_path / "float", value_range=(-1, 1)).spec.value_range == (-1.0, 1.0)
    with pytest.raises(ValueError, match="low < high"):
        ClassFolders(tmp_path / "float", value_range=(1, 1))


# tables


def test_classes_are_those_of_the_whole_table_in_natural_order(tmp_path: Path) -> None:
    file = edit(edit(manifest(tmp_path), ",c,", ",grade 10,", 1), ",c,", ",grade 9,", -1)
    reader = ManifestClasses(file, "val")
    assert reader.spec.classes == ("a", "b", "grade 9", "grade 10")
    assert ManifestClasses(file, "train").spec == reader.spec


def test_the_order_of_names_is_the_same_in_every_process() -> None:
    names = ["1", "01", "001", "a1", "a01", "a", "a1b", "a01b"]
    expected = ["001", "01", "1", "a", "a01", "a1", "a01b", "a1b"]
    for order in (names, names[::-1]):  # as sets and folders have them, in an order that differs
        assert sorted(order, key=natural_key) == expected


@pytest.mark.parametrize("last", ['"good\n', '"good"\n'])
def test_a_quote_that_is_not_closed_loses_no_rows_in_silence(tmp_path: Path, last: str) -> None:
    image(tmp_path / "a.png")
    rows = 'path,label,remark\na.png,x,"two\nlines"\na.png,y,"bad\na.png,x,fine\na.png,y,' + last
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(ValueError, match=r"t\.csv line 4: a quote of the row that begins here is not closed"):
        ManifestClasses(tmp_path / "t.csv", None)
    (tmp_path / "t.csv").write_text(rows.replace('"bad', '"good"').replace(last, '"a ""good"" one" \n'))
    assert ManifestClasses(tmp_path / "t.csv", None).targets.tolist() == [0, 1, 0, 1]


def test_quotes_may_follow_a_space(tmp_path: Path) -> None:
    image(tmp_path / "a, b.png")
    (tmp_path / "t.csv").write_text('label, path\n"x" , "a, b.png"\n')
    assert ManifestClasses(tmp_path / "t.csv", None).spec.classes == ("x",)


def test_given_classes_set_the_order_and_name_the_unknown(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    assert ManifestClasses(file, "train", classes=["c", "b", "a"])[0].target == 2
    with pytest.raises(ValueError, match=r"2 samples.*not among \['a', 'b'\].*'c' \(.*table\.csv line 4\).*`classes`"):
        ManifestClasses(file, "train", classes=["a", "b"])


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (",split,", ",part,", r"column 'split' comes 0 times, the header is \['path'.*'part'"),
        (",mask,", ",label,", r"column 'label' comes 2 times"),
        (",train,", ",train,x,", "line 2: 11 cells, but the header has 10"),
        ("images/train0.png", "", r"line 2: path is empty"),
        ("images/val0.png", "images/train0.png", r"line 8: images/train0\.png is in the parts 'train' and 'val'"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, old: str, new: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ManifestClasses(edit(manifest(tmp_path), old, new), "train")


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_what_a_table_has_in_the_place_of_commas_is_told(tmp_path: Path, sign: str, name: str) -> None:
    file = manifest(tmp_path)
    file.write_text(file.read_text().replace(",", sign))
    with pytest.raises(ValueError, match=rf"table\.csv: the column .* It seems to have {name} between .* with commas"):
        ManifestClasses(file, "train")


def test_an_unknown_split_lists_those_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no row has 'test' in the column split, only \['train', 'val'\]"):
        ManifestClasses(manifest(tmp_path), "test")
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        ManifestClasses(tmp_path / "none.csv", "train")


def test_columns_root_byte_order_mark_and_blank_lines_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manifest(tmp_path / "data")
    text = (tmp_path / "data" / "table.csv").read_text().replace("path,mask,split", "file,mask,part", 1)
    (tmp_path / "table.csv").write_text("\ufeff" + text.replace("\n", "\n\n", 3), encoding="utf-8")
    names = Table(tmp_path / "table.csv", path="file", split_column="part", root=tmp_path / "data")
    reader = ManifestClasses(names, "train")
    assert len(reader) == PARTS["train"]


@pytest.mark.parametrize("unknown", ["", "NA", "nan", "NaN", "N/A", "null", "<NA>", " na "])
def test_cells_that_say_nothing_are_unknown_classes_labels_and_numbers(tmp_path: Path, unknown: str) -> None:
    file = edit(edit(manifest(tmp_path), ",a,", f",{unknown},"), ",0.5,", f",{unknown},")
    classes = ManifestClasses(file, "train")
    assert classes.spec.classes == ("a", "b", "c")
    assert classes.targets.tolist() == [IGNORE_INDEX, 1, 2, 0, 1, 2]
    assert classes.spec.counts == (1, 2, 2)
    assert ManifestClasses(file, "train", classes=["c", "b", "a"]).targets.tolist() == [IGNORE_INDEX, 1, 0, 2, 1, 0]
    numbers = ManifestNumbers(file, "train", {"z": "mm"}).targets[:, 0]
    np.testing.assert_array_equal(np.isnan(numbers), [True, True, False, False, False, False])


def test_a_class_of_such_a_name_is_one_where_it_is_listed(tmp_path: Path) -> None:
    file = edit(edit(manifest(tmp_path), ",a,", ",NA,"), ",b,", ",none,")
    assert ManifestClasses(file, "train").spec.classes == ("a", "b", "c", "none")
    listed = ManifestClasses(file, "train", classes=["a", "b", "c", "none", "NA"])
    assert listed.targets.tolist() == [4, 3, 2, 0, 1, 2]


def test_classes_may_be_numbers(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    for name, number in zip("abc", "012", strict=True):
        file = edit(file, f",{name},", f",{number},", -1)
    assert ManifestClasses(file, "train", classes=[2, 1, 0]).spec.classes == ("2", "1", "0")
    assert MaskFolders.__init__.__annotations__["classes"] == "list[str | int] | dict[str, int]"


def test_labels_are_0_1_or_unknown(tmp_path: Path) -> None:
    file = manifest(tmp_path)
    reader = ManifestLabels(file, "train", ["edema", "mass"])
    np.testing.assert_array_equal(reader.targets[:3], [[1, 1], [0, 1], [np.nan, 1]])
    assert (reader.spec.counts, reader.spec.known) == ((2, 6), (4, 6))
    with pytest.raises(
        ValueError,
        match=r"4 faults; `umedpt data check` names all:\n.*table\.csv line 3: z is '0\.5', but it should be 0, 1",
    ):
        ManifestLabels(file, "train", ["z"])
    with pytest.raises(ValueError, match=r"line 2: label is 'a', but it should be 0, 1"):
        ManifestLabels(file, "train", ["label"])
    with pytest.raises(ValueError, match="more than once"):
        ManifestLabels(file, "train", ["mass", "mass"])


@pytest.mark.parametrize("cell", ["inf", "1,5", "five", "1e99", "1_5"])
def test_cells_that_are_no_numbers_are_named(tmp_path: Path, cell: str) -> None:
    file = edit(manifest(tmp_path), ",1.0,0.5", f',1.0,"{cell}"')
    with pytest.raises(ValueError, match=rf"table\.csv line 3: z is '{cell}', but it should be a number"):
        ManifestNumbers(file, "train", {"z": "mm"})


def test_rows_whose_part_is_spelt_in_another_case_are_told(tmp_path: Path) -> None:
    file = edit(manifest(tmp_path), ",train,a,", ",Train,a,")
    with pytest.warns(UserWarning, match=r"table\.csv: 1 rows are left out, whose part is \['Train'\], not 'train'"):
        assert len(ManifestNumbers(file, "train", {"z": "mm"})) == 5


def test_a_quantity_without_any_value_is_an_error(tmp_path: Path) -> None:
    rows = [{"path": image(tmp_path / "a.png").name, "split": "train", "z": ""}]
    with pytest.raises(ValueError, match=r"No sample of this part has a value of \['z'\]"):
        ManifestNumbers(table(tmp_path / "t.csv", rows), "train", {"z": ""})


# masks


def test_mask_values_are_mapped_to_classes(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png")
    mask(tmp_path / "m" / "a.png", (0, 255, 7))
    reader = MaskFolders(tmp_path / "i", tmp_path / "m", {"background": 0, "nodule": 255}, ignore=7)
    np.testing.assert_array_equal(reader[0].target.ravel()[:3], [0, 1, IGNORE_INDEX])


def test_255_is_not_silently_unlabelled(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png")
    mask(tmp_path / "m" / "a.png", (0, 255))
    with pytest.raises(ValueError, match=r"m/a\.png: the mask holds the values \[0, 255\].*`classes.*`ignore: 255`"):
        MaskFolders(tmp_path / "i", tmp_path / "m", ["background", "nodule"])[0]
    assert MaskFolders(tmp_path / "i", tmp_path / "m", ["background", "nodule"], ignore=255)[0].target.min() == -1


def test_masks_and_images_must_pair(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        image(tmp_path / "i" / f"{name}.png")
    for name in ("a", "d"):
        mask(tmp_path / "m" / f"{name}.png")
    (tmp_path / "i" / ".hidden.png").touch()
    (tmp_path / "i" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"2 images have no mask \[.*b\.png.*c\.png.*1 masks no image \[.*d\.png"):
        MaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])
    image(tmp_path / "i" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.(png|jpg) and .*a\.(png|jpg) have one name"):
        MaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        MaskFolders(tmp_path / "none", tmp_path / "m", ["x", "y"])


def test_a_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png")
    mask(tmp_path / "m" / "a.png", shape=(16, 12))
    with pytest.raises(ValueError, match=r"m/a\.png: the mask is 16x12 \(HxW\), but its image .*i/a\.png is 12x16"):
        MaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])[0]


@pytest.mark.parametrize(
    ("classes", "ignore"),
    [({"a": 0, "b": 0}, None), (["a", "b"], 1), ({"a": -1}, None), (["a", "a"], None), ([], None)],
)
def test_classes_of_masks_need_values_and_names_of_their_own(
    tmp_path: Path, classes: list[str] | dict[str, int], ignore: int | None
) -> None:
    with pytest.raises(ValueError, match=r"Correct `classes`|Give each one name|Name at least one"):
        ManifestMasks(manifest(tmp_path), "train", classes, ignore=ignore)


def test_masks_come_in_natural_order(tmp_path: Path) -> None:
    for i in (10, 9, 1):
        image(tmp_path / "i" / f"{i}.png")
        mask(tmp_path / "m" / f"{i}.png")
    reader = MaskFolders(tmp_path / "i", tmp_path / "m", ["x", "y"])
    assert [Path(sample.name).stem for sample in reader] == ["1", "9", "10"]


# folders of classes


def test_class_folders_are_named_in_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ClassFolders(tmp_path / "none")
    with pytest.raises(ValueError, match="no sub-folders"):
        ClassFolders(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no images"):
        ClassFolders(tmp_path)
    image(tmp_path / "b" / "x.png")
    assert ClassFolders(tmp_path).spec.counts == (0, 1)
    with pytest.raises(ValueError, match=r"not among \['a'\].*'b'.*`classes`"):
        ClassFolders(tmp_path, classes=["a"])
    assert ClassFolders(tmp_path, classes=["c", "b", "a"]).spec.counts == (0, 1, 0)


def test_folders_of_parts_are_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("Train", "val"):
        image(tmp_path / part / "a" / "x.png")
    with pytest.raises(ValueError, match=r"\['Train', 'val'\] are parts, not classes\. Write .*Train'? as `folder`"):
        ClassFolders(tmp_path)
    assert ClassFolders(tmp_path, classes=["Train", "val"]).spec.counts == (1, 1)


def test_links_in_circles_repeat_no_image(tmp_path: Path) -> None:
    image(tmp_path / "a" / "inner" / "0.png")
    image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "a" / "inner" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "a")
    reader = ClassFolders(tmp_path, ["a", "elsewhere"])
    assert [Path(reader.name(i)).name for i in range(len(reader))] == ["0.png", "1.png", "1.png", "0.png"]
    assert reader.targets.tolist() == [0, 0, 1, 1]


def test_there_may_be_any_number_of_classes(tmp_path: Path) -> None:
    for i in range(300):
        image(tmp_path / str(i) / "x.png")
    reader = ClassFolders(tmp_path)
    assert len(reader.spec.classes) == 300
    assert reader[299].target == 299
    assert reader.spec.counts == (1,) * 300


def test_masks_may_have_any_number_of_classes(tmp_path: Path) -> None:
    image(tmp_path / "i" / "a.png")
    (tmp_path / "m").mkdir()
    values = np.arange(208, 400, dtype=np.uint16).reshape(12, 16)
    Image.fromarray(values).save(tmp_path / "m" / "a.png")
    reader = MaskFolders(tmp_path / "i", tmp_path / "m", [str(i) for i in range(399)], ignore=399)
    np.testing.assert_array_equal(reader[0].target, np.where(values == 399, IGNORE_INDEX, values.astype(np.int16)))


# boxes


def test_boxes_and_classes_follow_the_ids(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["bbox"] = [-0.9, 0, 17.8, 12.5]
    reader = CocoBoxes(tmp_path, coco(tmp_path, content))
    assert reader.spec.classes == ("red", "white")
    assert reader[0].target.labels.tolist() == [0]
    assert reader[0].target.boxes.tolist() == [[5, 5, 7, 7]]
    assert reader[1].target.boxes.shape == (0, 4)
    assert reader[2].target.boxes.tolist() == [[0, 0, 16, 12]]
    given = CocoBoxes(tmp_path, tmp_path / "boxes.json", classes=["white", "red"])
    assert given[0].target.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("value", "is_crowd"), [("0", False), ("false", False), (None, False), ("1", True), (1.0, True)]
)
def test_crowds_may_be_told_in_texts(tmp_path: Path, value: object, is_crowd: bool) -> None:
    content = coco_content()
    content["annotations"][0]["iscrowd"] = value
    assert len(CocoBoxes(tmp_path, coco(tmp_path, content))[0].target.labels) == 2 - is_crowd
    found = np.unique(CocoMasks(tmp_path, tmp_path / "boxes.json")[0].target).tolist()
    assert found == ([IGNORE_INDEX, 0, 1] if is_crowd else [0, 1, 2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bbox": [1, 1, 0, 5]}, r"annotation 100 has no area.*train0\.png of 16x12"),
        ({"bbox": [1, 1, -3, 5]}, "annotation 100 has no area"),
        ({"bbox": [16.5, 1, 0.4, 5]}, "annotation 100 has no area"),
        ({"bbox": [1, 1, 17, 5]}, r"\[1\.0, 1\.0, 17\.0, 5\.0\] of annotation 100 lies outside"),
        ({"bbox": [float("nan"), 1, 1, 5]}, "annotation 100 has no area"),
        ({"bbox": [1, 2, 3]}, r"bbox of annotation 100 is \[1, 2, 3\], but a box is four numbers"),
        ({"bbox": [1, 2, 3, "x"]}, "four numbers"),
        ({"image_id": 99}, "annotation 100 is of image_id 99"),
        ({"category_id": 99}, "annotation 100 has category_id 99"),
        ({"id": 101}, "annotations share ids"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, change: dict[str, object], match: str) -> None:
    content = coco_content()
    content["annotations"][0].update(change)
    with pytest.raises(ValueError, match=match) as error:
        CocoBoxes(tmp_path, coco(tmp_path, content))
    assert "boxes.json" in str(error.value)


def test_one_file_of_two_coco_images_is_an_error(tmp_path: Path) -> None:
    content = coco_content()
    content["images"][2]["file_name"] = "./train0.png"
    for reader in (CocoBoxes, CocoMasks):
        with pytest.raises(ValueError, match=r"boxes\.json: image 12 is of the file \./train0\.png, as image 10 is\."):
            reader(tmp_path, coco(tmp_path, content))


def test_broken_coco_files_are_named(tmp_path: Path) -> None:
    content = coco_content()
    file = coco(tmp_path, content)
    with pytest.raises(ValueError, match=r"category_id 7 \(white\), but the classes are \['red'\]"):
        CocoBoxes(tmp_path, file, classes=["red"])
    del content["images"][0]["width"]
    with pytest.raises(ValueError, match=r"boxes\.json: images\[0\] \(id 10\) has no \['width'\]"):
        CocoBoxes(tmp_path, coco(tmp_path, content))
    file.write_text("{}")
    with pytest.raises(ValueError, match="have a list of categories"):
        CocoBoxes(tmp_path, file)
    file.write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        CocoBoxes(tmp_path, file)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        CocoBoxes(tmp_path, tmp_path / "none.json")


def test_an_image_of_another_size_than_annotated_is_an_error(tmp_path: Path) -> None:
    reader = CocoBoxes(tmp_path, coco(tmp_path, coco_content()))
    image(tmp_path / "train1.png", shape=(16, 12))
    with pytest.raises(ValueError, match=r"train1\.png: the image is 12x16 \(WxH\).*made for 16x12"):
        reader[1]


# MedMNIST


def test_medmnist_reads_colour_and_loads_images_only_on_use(tmp_path: Path) -> None:
    file = medmnist(tmp_path / "a.npz", colour=True)
    reader = MedMNIST(file, "val", classes=["x", "y", "z"])
    file.rename(tmp_path / "gone.npz")
    with pytest.raises(FileNotFoundError):
        reader[0]
    (tmp_path / "gone.npz").rename(file)
    with np.load(file) as arrays:
        np.testing.assert_array_equal(reader[2].image, arrays["val_images"][2])
    assert reader[2].name.endswith("a.npz[val 2]")


def test_medmnist_files_of_the_wrong_kind_are_named(tmp_path: Path) -> None:
    single, several = medmnist(tmp_path / "a.npz"), medmnist(tmp_path / "b.npz", labels=5)
    with pytest.raises(ValueError, match=r"b\.npz: 5 labels an image.*MedMNISTMultilabel"):
        MedMNIST(several, "train")
    with pytest.raises(ValueError, match=r"a\.npz\[train 2\]: label \[2\] lies outside 0 to 1"):
        MedMNISTMultilabel(single, "train")
    with pytest.raises(ValueError, match=r"2 faults:\n.*train 2\]: label \[2\] lies outside 0 to 1.*`classes`"):
        MedMNIST(single, "train", classes=["x", "y"])
    with pytest.raises(ValueError, match="5 labels an image, but `labels` names 1"):
        MedMNISTMultilabel(several, "train", labels=["x"])
    with pytest.raises(ValueError, match="there is no array test_images"):
        MedMNIST(single, "test")
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        MedMNIST(tmp_path / "none.npz", "train")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npz: not an \.npz file"):
        MedMNIST(tmp_path / "text.npz", "train")


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((2, 4, 4, 4), np.uint8), np.zeros((2, 1), int), r"2-D images.*\(2, 4, 4, 4\)"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros((0, 1), int), "is empty"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros((3, 1), int), r"integers of shape \(2, L\).*\(3, 1\)"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 1)), "float64"),
        (np.zeros((2, 4, 4), np.uint8), np.full((2, 1), -1), "outside"),
        (np.zeros((2, 4, 4), np.int64), np.zeros((2, 1), int), "uint8, uint16 or float32"),
        (np.zeros((2, 4, 4), np.uint8), np.array([[{}], [{}]]), "cannot be read"),
    ],
)
def test_broken_medmnist_arrays_are_named(tmp_path: Path, images: np.ndarray, labels: np.ndarray, match: str) -> None:
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    with pytest.raises(ValueError, match=match) as error:
        MedMNIST(tmp_path / "a.npz", "train", classes=["x"])
    assert "a.npz" in str(error.value)


# ranges


def test_ranges_cover_the_whole_once_and_have_their_own_statistics(tmp_path: Path) -> None:
    whole = MedMNIST(medmnist(tmp_path / "a.npz"), "train")
    for border in (0.0, 0.1, 0.35, 0.5, 0.77, 1.0):
        if round(border * 6) in (0, 6):
            with pytest.raises(ValueError, match="holds none of the 6 samples"):
                Subset(whole, stop=border) if border < 0.5 else Subset(whole, start=border)
            continue
        parts = [Subset(whole, stop=border), Subset(whole, start=border)]
        assert [s.name for part in parts for s in part] == [s.name for s in whole]
        assert tuple(np.sum([part.spec.counts for part in parts], axis=0)) == whole.spec.counts
    assert Subset(whole, 1, 3).spec.counts == Subset(whole, 1, 3.0).spec.counts == (0, 1, 1)  # a parser's float
    assert Subset(Subset(whole, 1), 1, 3)[0].name == whole[2].name


@pytest.mark.parametrize("border", [-1, 7, 1.5, -0.1, float("nan")])
def test_borders_outside_are_named(tmp_path: Path, border: float) -> None:
    whole = MedMNIST(medmnist(tmp_path / "a.npz"), "train")
    with pytest.raises(ValueError, match=re.escape(f"stop is {border!r}") + r".*from 0 to 6"):
        Subset(whole, stop=border)


# real data


def test_real_x_rays(shared_data: Path) -> None:
    parts = {
        s: MedMNIST(shared_data / "pneumoniamnist.npz", s, ["normal", "pneumonia"]) for s in ("train", "val", "test")
    }
    assert [len(part) for part in parts.values()] == [3400, 482, 524]
    pneumonia = {name: part.spec.counts[1] / len(part) for name, part in parts.items()}
    assert round(pneumonia["train"], 1) == round(pneumonia["val"], 1) == 0.9
    assert round(pneumonia["test"], 2) == 0.74
    assert parts["test"][0].image.shape == (28, 28, 1)


def test_real_tomography(shared_data: Path) -> None:
    folder = shared_data / "msd_lung_ct"
    reader = MaskFolders(folder / "images", folder / "masks", ["background", "nodule"])
    masks = np.stack([sample.target for sample in reader])
    assert masks.shape == (130, 48, 48)
    assert round(float(masks.mean()), 3) == 0.046
    assert round(float((masks == 0).all(axis=(1, 2)).mean()), 2) == 0.15


def test_real_microscopy(shared_data: Path) -> None:
    folder = shared_data / "bccd"
    for part, images, boxes in (("train", 205, 2804), ("val", 87, 1137)):
        reader = CocoBoxes(folder / "images", folder / f"instances_{part}.json")
        assert reader.spec.classes == ("RBC", "WBC", "Platelets")
        assert len(reader) == images
        assert len(reader._boxes) == boxes
        assert reader[0].image.shape == (480, 640, 3)
        assert sum(len(reader[i].target.boxes) for i in range(3)) > 0
