"""What is written of predictions: names, records, tables, masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from builders import SMALL_DETECTION, SMALL_PIXELS, small_encoder, spec_of
from PIL import Image
from slide_files import slide, stained
from volume_files import nifti

from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.intensity import Level, Percentiles, Window
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.input_files import Preference
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.output.journal import CocoImage, Journal
from umedpt_lightning.inference.output.masks import write_png, write_tiff
from umedpt_lightning.inference.output.overlays import LARGEST, picture
from umedpt_lightning.inference.output.task_output import check_names, file_name
from umedpt_lightning.inference.predict import predict_files
from umedpt_lightning.inference.tiles.grid import aligned_tiling
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.labels.masks import mask_dtype
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import ClassSpec, MaskSpec, RegressionSpec, TaskSpec, to_numpy

OF_IMAGES = ClassSpec(channels=1, classes=("a",), cut={"images": {"windowed": True, "dtype": "uint16"}})


@pytest.mark.parametrize(
    ("name", "expected"), [("a.png", "a.png"), ("a.jpg", "a.jpg.png"), ("b c/a.PNG", "b c/a.PNG"), ("ä-1", "ä-1.png")]
)
def test_plain_names_are_kept_with_their_folders(name: str, expected: str) -> None:
    assert file_name(name, ".png") == expected


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "a/../../b", "a\0b", ".hidden", "a\\..\\b", "", "x" * 500])
def test_no_name_leads_elsewhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / file_name(name, ".png")
    assert path.resolve().parent == tmp_path.resolve()
    path.touch()
    assert file_name(name, ".png") != file_name(name + "_", ".png")


def test_inputs_whose_files_would_have_one_name_are_refused() -> None:
    check_names(["a.png", "a.jpg", "b/a.png"])
    with pytest.raises(ValueError, match=r"a\.nii\.gz would take the place"):
        check_names(["a", "a.nii.gz"])


def coco_image(name: str, **of: Any) -> CocoImage:
    return {"file_name": name, "height": 9, "width": 8, "boxes": [], "scores": [], "labels": [], "image_id": None, **of}


def test_a_journal_gives_the_last_of_every_input(tmp_path: Path) -> None:
    boxes: dict[str, Any] = {"boxes": [[1.0, 2.0, 4.0, 8.0]], "scores": [0.5], "labels": [1]}
    journal = Journal(tmp_path, "t", {"model": "m"}, overwrite=False)
    journal.add("a", [{"id": "a", "n_x": 1}], [coco_image("a", **boxes)])
    journal.add("b", [{"id": "b", "n_x": 2, "area": 3.0}], [coco_image("b")], files=["gone.png"])
    again = Journal(tmp_path, "t", {"model": "m"}, overwrite=False)
    assert again.done == {"a"}, "the file of b is not there"
    again.add("b", [{"id": "b", "n_x": 5}])
    assert again.write_table().read_text().split() == ["id,n_x", "a,1", "b,5"]
    coco = json.loads(again.write_coco(["x", "y"]).read_text())
    assert coco["images"] == [{"id": 1, "file_name": "a", "height": 9, "width": 8}]
    (annotation,) = coco["annotations"]
    assert (annotation["bbox"], annotation["category_id"], annotation["area"]) == ([1, 2, 3, 6], 2, 18)
    ids = [category["id"] for category in json.loads(again.write_coco(["x", "y"], [7, 0]).read_text())["categories"]]
    assert ids == [7, 0]
    (annotation,) = json.loads(again.write_coco(["x", "y"], [7, 0]).read_text())["annotations"]
    assert annotation["category_id"] == 0
    with pytest.raises(ValueError, match="another model"):
        Journal(tmp_path, "t", {"model": "other"}, overwrite=False)
    assert Journal(tmp_path, "t", {"model": "other"}, overwrite=True).done == set()


def test_images_keep_their_ids_and_the_others_get_what_is_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "t", {}, overwrite=False)
    for name, id in (("a", None), ("b", 2), ("c", None), ("d", 0), ("e", "x")):
        boxes: dict[str, Any] = {"boxes": [[0.0, 0.0, 1.0, 1.0]], "scores": [0.5], "labels": [0]}
        journal.add(name, [], [coco_image(name, image_id=id, **boxes)])
    coco = json.loads(journal.write_coco(["x"]).read_text())
    assert [image["id"] for image in coco["images"]] == [1, 2, 3, 0, "x"]
    assert [annotation["image_id"] for annotation in coco["annotations"]] == [1, 2, 3, 0, "x"]
    assert [annotation["id"] for annotation in coco["annotations"]] == [1, 2, 3, 4, 5]


def test_masks_are_indices_in_png_and_tiff(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 4, (700, 2100), np.uint8)
    write_png(mask, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), mask)
        assert len({tuple(c) for c in np.reshape(image.getpalette(), (-1, 3))[:4].tolist()}) == 4
    write_tiff(mask, 0.5, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert np.array_equal(tiff.pages[0].asarray(), mask)
        assert np.array_equal(tiff.pages[1].asarray(), mask[::2, ::2])


def test_volumes_are_cut_as_in_training_unless_something_else_is_asked_for() -> None:
    cut = {"slices": {"axis": "coronal", "spacing": (2, 1), "every": 3.0}, "intensity": {"level": 40, "width": 400}}
    spec = ClassSpec(channels=1, classes=("a",), cut=cut)
    trained = PredictOptions().opening(spec)
    assert (trained.slices, trained.intensity) == (
        Slices(axis="coronal", spacing=(2, 1)),
        Level(40, 400),
    )  # every slice
    asked = PredictOptions(axis="axial", spacing=1.5, intensity=Percentiles(1, 99)).opening(spec)
    assert (asked.slices, asked.intensity) == (Slices(axis="axial", spacing=1.5), Percentiles(1, 99))
    assert PredictOptions(intensity=Window(0, 1)).opening(spec_of("class")).intensity == Window(0, 1)
    assert PredictOptions().opening(spec_of("class")).intensity is None
    of_slides = ClassSpec(channels=3, classes=("a",), cut={"tiles": {"mpp": 1.0, "size": 64}})
    assert PredictOptions(tile=32).opening(of_slides).tiles == Tiles(mpp=1.0, size=32)
    assert PredictOptions(mpp=2).opening(spec_of("class")).tiles == Tiles(mpp=2)
    assert PredictOptions(tile=32).opening(spec_of("class")).tiles is None


@pytest.mark.parametrize(
    ("options", "spec", "volumes", "slides"),
    [
        ({}, spec_of("class"), False, False),
        ({"axis": "axial"}, spec_of("class"), True, False),
        ({"intensity": Window(0, 1)}, spec_of("class"), True, False),
        ({"intensity": Window(0, 1)}, OF_IMAGES, False, False),
        ({"intensity": Window(0, 1), "spacing": 1.0}, OF_IMAGES, True, False),
        ({"mpp": 0.5}, spec_of("class"), False, True),
        ({"tile": 512}, spec_of("class"), False, False),
        ({}, ClassSpec(channels=1, classes=("a",), cut={"slices": {"axis": "axial"}}), True, False),
        ({}, ClassSpec(channels=3, classes=("a",), cut={"tiles": {"mpp": 0.5}}), False, True),
    ],
)
def test_a_task_takes_files_for_what_it_was_trained_on_or_is_asked_for(
    options: dict[str, Any], spec: TaskSpec, volumes: bool, slides: bool
) -> None:
    assert PredictOptions(**options).opening(spec).preference == Preference(volumes, slides)


@pytest.mark.parametrize("cut", [{"slices": {"nonsense": 1}}, {"slices": {"spacing": "x"}}, {"intensity": {"a": 1}}])
def test_a_model_that_says_nonsense_of_its_volumes_is_told(cut: Any) -> None:
    spec = ClassSpec(channels=1, classes=("a",), cut=cut)
    with pytest.raises(ValueError, match="The model says of its"):
        PredictOptions().opening(spec)


@pytest.mark.parametrize("size", [(1, 1), (30, 40), (2000, 100)])
def test_overlays_can_be_read_and_are_not_huge(size: tuple[int, int]) -> None:
    shown = picture(np.zeros((*size, 1), np.uint8), spec_of("mask"), np.ones(size, np.uint8), "name")
    assert 400 < max(shown.size) < LARGEST + 200


@pytest.mark.parametrize("classes", [255, 256, 1000])
def test_masks_of_any_number_of_classes_are_written_whole(classes: int, tmp_path: Path) -> None:
    spec = MaskSpec(channels=1, classes=tuple(map(str, range(classes))))
    model = MultiTaskModel(small_encoder(in_channels=1), {"t": spec}, pixel_decoder=SMALL_PIXELS)
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 1), np.uint8)
    whole = to_numpy(model.predict([image], "t")[0])
    tiled = TiledTask(model, "t", aligned_tiling(model.encoder, 128, 64)).predict(ArrayPixels(image, 1))
    assert whole.max() > 0
    for number, mask in enumerate((whole, tiled, np.full((4, 6), classes - 1, whole.dtype))):
        write_png(mask, tmp_path / f"{number}.png")
        read = np.asarray(Image.open(tmp_path / f"{number}.png"))
        assert read.dtype == mask_dtype(classes) == (np.uint8 if classes <= 255 else np.uint16)
        np.testing.assert_array_equal(read, mask)
    row = spec.row(tiled)
    assert sum(row.values()) == 128 * 192


def test_images_of_one_id_in_two_coco_files_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
        images = [{"id": 1, "file_name": f"{name}.png"}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"images": images}))
    specs = {"t": spec_of("box"), "c": spec_of("class")}
    model = MultiTaskModel(small_encoder(), specs, detection_decoder=SMALL_DETECTION)
    files = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"a\.png and b\.png both have the image id 1, .* folder of its own by --out"):
        predict_files(model, files, tmp_path / "together")
    predict_files(model, files[:1], tmp_path / "out")
    with pytest.raises(ValueError, match=r"a\.png and b\.png both have the image id 1"):
        predict_files(model, files[1:], tmp_path / "out")
    assert predict_files(model, files[:1], tmp_path / "out").skipped == 1
    assert predict_files(model, files, tmp_path / "classes", ["c"]).inputs == 2, "which nothing is written of"


def test_quantities_that_are_called_as_columns_of_the_table_take_no_column_away(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    nifti(tmp_path / "v.nii.gz", np.zeros((9, 9, 4), np.int16))
    slide(tmp_path / "s.tif", stained(128, 128, (0, 0, 128, 128)), mpp=0.5)
    quantities = ("id", "slice", "tiles", "x", "width", "age")
    given: dict[str, Any] = {"units": ("",) * 6, "means": (0.0,) * 6, "stds": (1.0,) * 6}
    cut = {"tiles": {"mpp": 0.5, "size": 64}}
    spec = RegressionSpec(channels=1, quantities=quantities, cut=cut, **given)
    model = MultiTaskModel(small_encoder(), {"t": spec})
    files = [str(tmp_path / name) for name in ("a.png", "v.nii.gz", "s.tif")]
    predict_files(model, files, tmp_path / "out", options=PredictOptions(intensity=Window(0, 1)))
    with (tmp_path / "out" / "t.csv").open() as stream:
        image, *slices, whole = csv.DictReader(stream)
    assert [row["id"] for row in (image, *slices, whole)] == ["a.png", *["v.nii.gz"] * 4, "s.tif"]
    assert [row["slice"] for row in slices] == list("0123")
    assert whole["tiles"] == "4"
    (found,) = model.predict([np.zeros((9, 9), np.uint8)], "t")
    assert [float(image[name]) for name in ("predicted_id", "age")] == pytest.approx(found[[0, 5]].tolist(), abs=1e-5)
    with (tmp_path / "out" / "t" / "s.tif.csv").open() as stream:
        tiles = list(csv.DictReader(stream))
    assert [(tile["x"], tile["width"]) for tile in tiles] == [("0.0", "64.0"), ("64.0", "64.0")] * 2
    assert all(tile["predicted_x"] and tile["predicted_width"] for tile in tiles)


@pytest.mark.parametrize("score", [-0.1, 5.0, float("nan")])
def test_a_score_that_no_box_can_have_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"min_score is .*, but scores are 0 to 1"):
        PredictOptions(min_score=score)
