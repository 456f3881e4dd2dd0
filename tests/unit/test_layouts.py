"""Stacks, run lengths, tables of boxes, classes in names, and patterns of files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from reader_samples import image, mask, npy_masks, objects, table
from volume_files import nifti

from umedpt_lightning.data import readers
from umedpt_lightning.data.formats.patterns import by_wildcards


def runs(folder: Path, cells: dict[str, str], shape: tuple[int, int] = (3, 4), **options: object) -> readers.Reader:
    for name in cells:
        image(folder / f"{name}.png", shape=shape)
    rows: list[dict[str, object]] = [{"id": name, "EncodedPixels": cell} for name, cell in cells.items()]
    file = readers.Table(table(folder / "runs.csv", rows), path="{id}.png")
    return readers.RunLengthMasks(file, None, ["no", "yes"], **options)  # type: ignore[arg-type]


def test_runs_go_down_the_columns_from_one(tmp_path: Path) -> None:
    drawn = runs(tmp_path, {"a": "1 2 12 1", "b": "-1"})
    assert drawn[0].target.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    assert not drawn[1].target.any()


def test_runs_go_along_the_rows_or_count_from_the_run_before(tmp_path: Path) -> None:
    drawn = runs(tmp_path, {"a": "0 2 11 1"}, start="from_0", along="rows")
    assert drawn[0].target.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    relative = runs(tmp_path, {"a": "1 2 3 2"}, start="after_run")  # pixels 1, 2 and 6, 7
    assert relative[0].target.T.ravel().tolist() == [0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("cell", ["1 2 3", "a b", "1 0", "-3 2", "1 99999999999999999999"])
def test_cells_that_are_no_runs_are_named(cell: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"runs\.csv line 3: run lengths are pairs .*Correct it"):
        runs(tmp_path, {"a": "1 2", "b": cell})


def test_a_start_of_0_where_1_is_the_first_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"runs\.csv line 3: starts are counted from 1, but .*Write `start: from_0`"):
        runs(tmp_path, {"a": "1 2", "b": "5 2 0 3"})


def test_runs_beyond_the_image_are_told_when_it_is_read(tmp_path: Path) -> None:
    drawn = runs(tmp_path, {"a": "12 2"})
    with pytest.raises(ValueError, match=r"line 2: a run ends at pixel 13, but its image .*a\.png has 3x4"):
        drawn[0]


def test_one_class_needs_no_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a column `label` there are two classes"):
        readers.RunLengthMasks(objects(tmp_path), None, ["no", "a", "b"], runs="runs")
    with pytest.raises(ValueError, match="without a column `label` there is one class"):
        readers.TableBoxes(objects(tmp_path), None, ["a", "b"], box=("x", "y", "w", "h"))


def test_rows_of_an_image_are_its_boxes_and_empty_ones_are_none(tmp_path: Path) -> None:
    read = readers.TableBoxes(objects(tmp_path), "train", ["a", "b"], "kind", ("x", "y", "w", "h"), sized=True)
    assert read[0].target.boxes.tolist() == [[1, 2, 4, 6], [5, 2, 8, 6]]
    assert read[0].target.labels.tolist() == [0, 1]
    assert len(read[1].target.boxes) == 0
    assert read.groups is not None
    assert read.groups.tolist() == ["train0", "train0", "train1", "train1", "train2", "train2"]
    assert len(pickle.loads(pickle.dumps(read))[0].target.boxes) == 2


def test_broken_boxes_name_their_row(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    rows: list[dict[str, object]] = [{"path": "a.png", "x_min": 1, "y_min": 2, "x_max": "", "y_max": 4}]
    with pytest.raises(ValueError, match=r"line 2: only some of x_min, y_min, x_max, y_max are numbers"):
        readers.TableBoxes(table(tmp_path / "boxes.csv", rows), None, ["a"])
    outside = readers.TableBoxes(table(tmp_path / "boxes.csv", [rows[0] | {"x_max": 99}]), None, ["a"])
    with pytest.raises(ValueError, match=r"boxes\.csv line 2: the box .* lies outside its image .*a\.png"):
        outside[0]


def test_planes_become_classes_with_the_later_on_top(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((1, 2, 2, 3), np.uint8))
    masks = np.zeros((1, 2, 2, 3))
    masks[0, 0, :, 0], masks[0, 0, 0, 1], masks[0, 1, :, 2] = 7, 3, 1  # numbers of objects; the background last
    np.save(tmp_path / "masks.npy", masks)
    classes = {"background": 2, "a": 0, "b": 1}
    read = readers.NpyMasks(tmp_path / "images.npy", tmp_path / "masks.npy", classes, planes=True)
    assert read[0].target.tolist() == [[2, 1], [0, 0]]
    assert read.spec.classes == ("background", "a", "b")


def test_stacks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 4, 4, 3), np.uint8))
    np.save(tmp_path / "masks.npy", np.zeros((2, 4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match=r"the masks are \(2, 4, 4, 2\).*say which by `plane`"):
        readers.NpyMasks(tmp_path / "images.npy", tmp_path / "masks.npy", ["no", "a"])
    for options in ({"plane": 1}, {"ignore": 255}):
        with pytest.raises(ValueError, match=r"neither `plane` .* nor `ignore` .* says anything"):
            readers.NpyMasks(tmp_path / "images.npy", tmp_path / "masks.npy", ["no", "a"], planes=True, **options)
    np.save(tmp_path / "floats.npy", np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="images have no natural range"):
        readers.NpyMasks(tmp_path / "floats.npy", tmp_path / "masks.npy", ["no", "a"], plane=0)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        readers.NpyMasks(tmp_path / "no.npy", tmp_path / "masks.npy", ["no", "a"], plane=0)
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images\.npz: not a \.npy file.*save it with numpy\.save"):
        readers.NpyMasks(tmp_path / "images.npz", tmp_path / "masks.npy", ["no", "a"], plane=0)


def test_rows_name_the_images_of_a_stack_for_splits(tmp_path: Path) -> None:
    whole = npy_masks(tmp_path, "train")
    assert whole.name(3).endswith("train.npy[train1-3]")
    parts = [readers.Split(whole, part, (0.5, 0.5, 0), group=r"\[(.+)-\d+\]$") for part in ("train", "val")]
    groups = [set(part.groups.tolist()) for part in parts if part.groups is not None]
    assert not groups[0] & groups[1]


def test_rows_of_an_image_that_name_two_patients_are_told(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    rows = [{"path": "a.png", "EncodedPixels": "1 2", "patient": patient} for patient in ("x", "x", "y")]
    file = readers.Table(table(tmp_path / "t.csv", rows), group="patient")
    with pytest.raises(ValueError, match=r"t\.csv line 4: .*a\.png is of x and y"):
        readers.RunLengthMasks(file, None, ["no", "yes"])
    table(tmp_path / "t.csv", [rows[0] | {"patient": ""}])
    with pytest.raises(ValueError, match=r"t\.csv line 2: patient is empty"):
        readers.RunLengthMasks(file, None, ["no", "yes"])
    corners = dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), "")
    table(tmp_path / "t.csv", [{"path": "", "patient": "x"} | corners])
    with pytest.raises(ValueError, match=r"t\.csv line 2: path is empty"):
        readers.TableBoxes(file, None, ["a"])


def test_names_that_say_no_class_are_told(tmp_path: Path) -> None:
    image(tmp_path / "a_2.png")
    with pytest.raises(ValueError, match=r"a_2\.png"):
        readers.NamedClasses(tmp_path, r"_(\d)\.png$", {"no": "0", "yes": "1"})
    with pytest.raises(ValueError, match="there are no images here"):
        readers.NamedClasses(tmp_path, r"_(\d)\.png$", ["2"], files="*.tif")


def test_patterns_pair_images_and_masks(tmp_path: Path) -> None:
    for i in (2, 10):
        image(tmp_path / f"p{i}" / f"p{i}_image.png", i)
        mask(tmp_path / f"p{i}" / f"p{i}_mask.png")
    read = readers.MaskFolders(tmp_path / "p*/p*_image.png", tmp_path / "p*/p*_mask.png", ["no", "yes"])
    assert [Path(read.name(i)).name for i in range(2)] == ["p2_image.png", "p10_image.png"]
    (tmp_path / "p2" / "p2_mask.png").unlink()
    with pytest.raises(ValueError, match=r"1 images have no mask"):
        readers.MaskFolders(tmp_path / "p*/p*_image.png", tmp_path / "p*/p*_mask.png", ["no", "yes"])
    with pytest.raises(FileNotFoundError, match="no file is found by this pattern"):
        by_wildcards(tmp_path / "q*.png")


def test_patterns_pair_volumes_and_leave_other_files_alone(tmp_path: Path) -> None:
    voxels = np.zeros((4, 5, 3), np.uint8)
    for name in ("a_frame01", "a_frame01_gt", "a_4d", "b_frame12", "b_frame12_gt"):
        nifti(tmp_path / name[0] / f"{name}.nii.gz", voxels)
    read = readers.VolumeMaskFolders(
        tmp_path / "*/*_frame[0-9][0-9].nii.gz", tmp_path / "*/*_frame[0-9][0-9]_gt.nii.gz", ["no", "yes"]
    )
    assert read.groups is not None
    assert {Path(group).name for group in read.groups} == {"a_frame01.nii.gz", "b_frame12.nii.gz"}


def test_a_folder_with_a_name_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    image(tmp_path / "set[1]" / "images" / "a.png")
    mask(tmp_path / "set[1]" / "masks" / "a.png")
    assert len(readers.MaskFolders(tmp_path / "set[1]" / "images", tmp_path / "set[1]" / "masks", ["no", "yes"])) == 1


@pytest.mark.parametrize("path", ["x/{id}.png", "x/{id}/*/{id}_*.png", "**/{id}.png"])
@pytest.mark.parametrize("relative", [True, False])
def test_paths_are_filled_from_columns(
    path: str, relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("set[1]") if relative else tmp_path / "set[1]"
    for i in (0, 1):
        image(folder / "x" / f"{i}.png", i)
        image(folder / "x" / str(i) / "deep" / f"{i}_b.png", i)
    file = table(folder / "t.csv", [{"id": "1", "label": "b"}, {"id": "0", "label": "a"}])
    read = readers.ManifestClasses(readers.Table(file, path=path), None)
    assert [Path(read.name(i)).name[0] for i in range(2)] == ["1", "0"]
    assert read.targets.tolist() == [1, 0]


def test_paths_that_find_no_file_or_two_name_the_row(tmp_path: Path) -> None:
    image(tmp_path / "x" / "1a.png")
    image(tmp_path / "x" / "1b.png")
    for cell, count in (("1", 2), ("2", 0)):
        file = table(tmp_path / "t.csv", [{"id": cell, "label": "b"}])
        with pytest.raises(ValueError, match=rf"line 2: {count} files are .*x/{cell}\*\.png"):
            readers.ManifestClasses(readers.Table(file, path="x/{id}*.png"), None)
    file = table(tmp_path / "t.csv", [{"id": "", "label": "b"}])
    with pytest.raises(ValueError, match="line 2: one of id is empty"):
        readers.ManifestClasses(readers.Table(file, path="x/{id}.png"), None)


def test_cells_may_mean_that_nothing_is_known(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    file = readers.Table(table(tmp_path / "t.csv", [{"path": "a.png", "edema": "-1.0", "mass": "1"}]), unknown=["-1.0"])
    read = readers.ManifestLabels(file, None, ["edema", "mass"])
    np.testing.assert_array_equal(read.targets, [[np.nan, 1]])
