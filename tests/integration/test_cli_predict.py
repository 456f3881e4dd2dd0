"""`umedpt predict`: files in, files out, the same as Python says."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_convnext, small_encoder, spec_of
from PIL import Image
from slide_files import slide, stained
from volume_files import PLANES, dicom, nifti, series, whole_series

from umedpt_lightning.blocks import DetectionDecoder
from umedpt_lightning.cli import main
from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.data.formats.masks import read_mask
from umedpt_lightning.data.readers.coco import CocoBoxes
from umedpt_lightning.data.readers.folders import ClassFolders
from umedpt_lightning.data.readers.volumes import VolumeMasks
from umedpt_lightning.data.slide.annotations import read_geojson
from umedpt_lightning.data.volume.intensity import Window
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.export import select_boxes
from umedpt_lightning.inference.dataset import InputDataset, Wanted
from umedpt_lightning.model import MultiTaskModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiTaskModel]:
    """A folder of a model with a task of every label type, and the model."""
    torch.manual_seed(0)
    specs = {f"a_{kind}": spec_of(kind) for kind in KINDS}
    made = MultiTaskModel(
        small_convnext(),
        specs,
        pixel_decoder=SMALL_PIXELS,
        detection_decoder=partial(DetectionDecoder, channels=64, convolutions=1),
        sizes={"a_class": (64, 48)},
    ).eval()
    with torch.no_grad():
        made.task("a_mask").head.weight *= 5  # type: ignore[operator,union-attr]
    folder = tmp_path_factory.mktemp("model")
    made.save_pretrained(folder)
    return folder, made


def pictures(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (70 + i, 90, 3), np.uint8)
        Image.fromarray(pixels).resize((90, 70 + i)).save(folder / f"{i}.png")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def predict(model: tuple[Path, MultiTaskModel], inputs: Path, out: Path, *more: str) -> None:
    main(["predict", "--model", str(model[0]), "--inputs", str(inputs), "--out", str(out), "--device", "cpu", *more])


def test_files_say_what_python_says(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in")
    predict(model, folder, tmp_path / "out", "--min_score", "0.05")
    coco = json.loads((tmp_path / "out" / "a_box.json").read_text())
    for i, path in enumerate(sorted(folder.iterdir())):
        image = read_image(path)
        found = {task: model[1].predict([image], task)[0] for task in model[1].tasks}
        rows = {task: table(tmp_path / "out" / f"{task}.csv")[i] for task in found}
        assert {row["id"] for row in rows.values()} == {path.name}
        for task, names in (("a_class", "p_n{}"), ("a_multilabel", "p_n{}"), ("a_regression", "n{} (mm)")):
            written = [float(rows[task][names.format(k)]) for k in range(3)]
            assert written == pytest.approx(found[task].tolist(), abs=1e-4)
        mask = read_mask(tmp_path / "out" / rows["a_mask"]["mask"])
        assert np.array_equal(mask, found["a_mask"].numpy())
        assert [int(rows["a_mask"][f"pixels_n{k}"]) for k in range(3)] == np.bincount(
            mask.ravel(), minlength=3
        ).tolist()
        (entry,) = (e for e in coco["images"] if e["file_name"] == path.name)
        assert (entry["height"], entry["width"]) == image.shape[:2]
        boxes = [a for a in coco["annotations"] if a["image_id"] == entry["id"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in boxes)]
        assert np.allclose(corners, found["a_box"].boxes.numpy().reshape(-1, 4), atol=2e-3)
        assert [a["score"] for a in boxes] == pytest.approx(found["a_box"].scores.tolist(), abs=1e-4)
        assert [a["category_id"] - 1 for a in boxes] == found["a_box"].labels.tolist()
        assert sum(int(rows["a_box"][f"n_n{k}"]) for k in range(3)) == len(boxes)
    assert [c["name"] for c in coco["categories"]] == ["n0", "n1", "n2"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_says_what_the_files_say(tmp_path: Path, kind: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from umedpt_lightning.export.onnx import export_onnx
    from umedpt_lightning.export.program import TaskGraph

    task = f"a_{kind}"
    alone = MultiTaskModel(
        small_encoder(), {task: spec_of(kind)}, pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION
    )
    file = next(f for f, _ in export_onnx(alone, tmp_path / "onnx") if f.name.startswith("task"))
    session = onnxruntime.InferenceSession(file)
    assert TaskGraph(alone, task).channels == 3
    folder = tmp_path / "model"
    alone.save_pretrained(folder)
    inputs = pictures(tmp_path / "in", 1)
    predict((folder, alone), inputs, tmp_path / "out", "--min_score", "0.05")
    image = read_image(inputs / "0.png")
    names = [output.name for output in session.get_outputs()]
    feed = {"images": image.transpose(2, 0, 1)[None].astype(np.float32)}
    there = dict(zip(names, session.run(None, feed), strict=True))
    (row,) = table(tmp_path / "out" / f"{task}.csv")
    match kind:
        case "mask":
            classes, sure = there["probabilities"][0].argmax(0), np.sort(there["probabilities"][0], axis=0)
            differs = classes != read_mask(tmp_path / "out" / row["mask"])
            assert not (differs & (sure[-1] - sure[-2] > 2e-4)).any()
        case "box":
            boxes, scores, labels = select_boxes(there["boxes"][0], there["scores"][0])
            coco = json.loads((tmp_path / "out" / "a_box.json").read_text())["annotations"]
            assert [a["score"] for a in coco] == pytest.approx(scores.tolist(), abs=1e-4)
            found = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in coco)])
            same = np.abs(found[:, None] - boxes).max(axis=2) < 2e-3
            same &= np.array([a["category_id"] - 1 for a in coco])[:, None] == labels
            assert len(found) == len(boxes) > 0
            assert same.any(axis=0).all()  # in another order where scores are equal but for rounding
            assert same.any(axis=1).all()
        case _:
            written = [float(value) for value in list(row.values())[-3:]]
            assert written == pytest.approx(there["predictions"][0].tolist(), rel=1e-4, abs=1e-4)


def test_a_large_image_is_cut_and_the_file_is_that_of_the_whole(
    model: tuple[Path, MultiTaskModel], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    Image.fromarray(noise).resize((720, 640), Image.Resampling.BICUBIC).save(tmp_path / "in" / "large.png")
    (whole,) = model[1].predict([read_image(tmp_path / "in" / "large.png")], "a_mask")
    options = ["--tasks", "a_mask", "--tile", "512", "--overlap", "256"]
    predict(model, tmp_path / "in", tmp_path / "out", *options)
    assert (read_mask(tmp_path / "out" / "a_mask" / "large.png") != whole.numpy()).mean() < 1e-3


@pytest.mark.parametrize(("axes", "turn"), [("RAS", 0), ("LPI", 25), ("SRA", 0), ("PIR", 15)])
def test_masks_of_volumes_have_their_grid_and_are_that_of_every_slice(
    model: tuple[Path, MultiTaskModel], tmp_path: Path, axes: str, turn: float
) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 500, (20, 24, 5)).astype(np.int16)
    path = nifti(tmp_path / "in" / "ct.nii.gz", voxels, (1, 1.5, 3), axes, turn)
    predict(model, path, tmp_path / "out", "--tasks", "a_mask", "a_class", "--window", "-900", "400")
    there, mask = nibabel.load(path), nibabel.load(tmp_path / "out" / "a_mask" / "ct.nii.gz")
    assert mask.shape == there.shape
    assert np.array_equal(mask.affine, there.affine)
    assert (mask.get_sform(coded=True)[1], mask.get_qform(coded=True)[1]) == (
        there.get_sform(coded=True)[1],
        there.get_qform(coded=True)[1],
    )
    assert mask.get_data_dtype() == np.uint8
    upright = nibabel.as_closest_canonical(mask).get_fdata().astype(np.uint8)  # RAS
    rows = table(tmp_path / "out" / "a_class.csv")
    assert len(rows) == voxels.shape[2]
    for k in range(voxels.shape[2]):
        plane = voxels[::-1, ::-1, k].T[..., None].repeat(3, -1)
        shown = ((plane + 900.0) / 1300).clip(0, 1).astype(np.float32) * 255
        (expected,) = model[1].predict([shown], "a_mask")
        assert (expected.numpy() != upright[::-1, ::-1, k].T).mean() < 0.01, "rounding apart"
        (expected,) = model[1].predict([shown], "a_class")
        assert [float(rows[k][f"p_n{i}"]) for i in range(3)] == pytest.approx(expected.tolist(), abs=1e-4)
    # the rows say where their slice is in the file
    axis = axes.replace("I", "S").index("S")
    assert sorted(int(row["slice"]) for row in rows) == list(range(there.shape[axis]))
    assert int(rows[0]["slice"]) == (0 if "S" in axes else there.shape[axis] - 1)


def test_a_dicom_series_gets_a_mask_that_lies_where_it_does(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 500, (20, 24, 6)).astype(np.int16)
    spacing = (1, 1.5, 3)
    same = nifti(tmp_path / "same.nii.gz", voxels, spacing)
    options = ["--tasks", "a_mask", "--window", "0", "500", "--axis", "coronal", "--overlays"]
    predict(model, series(tmp_path / "ct", voxels, spacing), tmp_path / "out", *options)
    predict(model, same, tmp_path / "out2", *options)
    mask, expected = (
        nibabel.as_closest_canonical(nibabel.load(tmp_path / out / "a_mask" / f"{name}.nii.gz"))
        for out, name in (("out", "ct"), ("out2", "same"))
    )
    assert np.allclose(mask.affine, expected.affine, atol=1e-4)
    assert np.array_equal(mask.get_fdata(), expected.get_fdata())
    assert (tmp_path / "out" / "overlays" / "a_mask" / "ct.png").is_file()


def test_a_task_of_volumes_needs_no_options(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 500, (20, 24, 5)).astype(np.int16)
    nifti(tmp_path / "in" / "ct.nii.gz", voxels, (1, 1, 1))
    nifti(tmp_path / "labels.nii.gz", (voxels > 0).astype(np.uint8), (1, 1, 1))
    (tmp_path / "table.csv").write_text("path,mask\nin/ct.nii.gz,labels.nii.gz\n")
    reader = VolumeMasks(
        tmp_path / "table.csv", None, ["rest", "dense"], slices=Slices(spacing=2), intensity=Window(-900, 400)
    )
    model = MultiTaskModel(small_encoder(), {"dense": reader.spec}, pixel_decoder=SMALL_PIXELS).eval()
    model.save_pretrained(tmp_path / "model")
    predict((tmp_path / "model", model), tmp_path / "in", tmp_path / "out")
    mask = nibabel.load(tmp_path / "out" / "dense" / "ct.nii.gz").get_fdata()
    (seen,) = model.predict([reader[3].image], "dense")  # 10 x 12 pixels of 2 mm
    assert np.array_equal(mask[::-1, ::-1, 3].T, seen.numpy().repeat(2, 0).repeat(2, 1))


def test_slides_by_tiles_at_the_resolution_that_is_asked_for(
    model: tuple[Path, MultiTaskModel], tmp_path: Path
) -> None:
    path = slide(tmp_path / "in" / "s.tif", stained(600, 900, (100, 100, 500, 400)), mpp=0.25)
    options = ["--mpp", "0.5", "--tile", "128", "--overlays", "--min_score", "0.05"]
    with pytest.warns(UserWarning, match="Tiles of 128 pixels are small"):
        predict(model, path, tmp_path / "out", "--tasks", "a_mask", "a_box", "a_class", *options)
    (row,) = table(tmp_path / "out" / "a_mask.csv")
    with tifffile.TiffFile(tmp_path / "out" / row["mask"]) as tiff:
        assert tiff.pages[0].shape == (300, 450)
        assert tiff.pages[0].is_tiled
        assert tiff.pages[0].tags["XResolution"].value[0] / tiff.pages[0].tags["XResolution"].value[1] == 20_000
    # a box is where it would be found in the slide's own pixels
    coco = json.loads((tmp_path / "out" / "a_box.json").read_text())
    assert (coco["images"][0]["height"], coco["images"][0]["width"]) == (600, 900)
    geojson = json.loads((tmp_path / "out" / "a_box" / "s.tif.geojson").read_text())
    corners = [f["geometry"]["coordinates"][0] for f in geojson["features"]]
    for ring, annotation in zip(corners, coco["annotations"], strict=True):
        assert [*ring[0], ring[2][0] - ring[0][0], ring[2][1] - ring[0][1]] == pytest.approx(
            annotation["bbox"], abs=0.02
        )
    (row,) = table(tmp_path / "out" / "a_box.csv")
    area = float(row["area_mm2"])
    assert 0 < area <= 600 * 900 * 0.25**2 * 1e-6
    assert float(row["n_n0_per_mm2"]) == pytest.approx(int(row["n_n0"]) / area, rel=1e-4)
    tiles = table(tmp_path / "out" / "a_class" / "s.tif.csv")
    (row,) = table(tmp_path / "out" / "a_class.csv")
    assert int(row["tiles"]) == len(tiles) > 0
    assert float(row["p_n1"]) == pytest.approx(np.mean([float(tile["p_n1"]) for tile in tiles]), abs=1e-5)
    assert {tile["width"] for tile in tiles} == {"256.0"}
    for task in ("a_mask", "a_box", "a_class"):
        with Image.open(tmp_path / "out" / "overlays" / task / "s.tif.png") as shown:
            assert max(shown.size) >= 900


def test_what_is_there_is_not_done_again(
    model: tuple[Path, MultiTaskModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    predict(model, folder, out, "--tasks", "a_mask")
    before = (out / "a_mask" / "0.png").stat().st_mtime_ns
    pictures(tmp_path / "more", 3)
    (tmp_path / "more" / "2.png").rename(folder / "2.png")
    journal = out / ".progress" / "a_mask.jsonl"
    journal.write_text(journal.read_text() + '{"id": "2.png", "ro')  # it was killed while it wrote
    (out / "a_mask" / "1.png").unlink()  # and somebody took this away
    capsys.readouterr()
    predict(model, folder, out, "--tasks", "a_mask")
    assert "1 of 3 inputs were there already; --overwrite" in capsys.readouterr().out
    assert (out / "a_mask" / "0.png").stat().st_mtime_ns == before
    assert (out / "a_mask" / "1.png").is_file()
    assert sorted(row["id"] for row in table(out / "a_mask.csv")) == ["0.png", "1.png", "2.png"]
    predict(model, folder, out, "--tasks", "a_mask", "--overwrite")
    assert (out / "a_mask" / "0.png").stat().st_mtime_ns > before
    with pytest.raises(SystemExit, match=r"made with another min_score. Give another folder, or --overwrite"):
        predict(model, folder, out, "--tasks", "a_mask", "--min_score", "0.9")


def test_an_input_that_has_changed_is_done_again(
    model: tuple[Path, MultiTaskModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other, out = pictures(tmp_path / "in", 2), pictures(tmp_path / "other", 2), tmp_path / "out"
    predict(model, folder, out, "--tasks", "a_mask")
    (other / "0.png").replace(folder / "1.png")  # another picture by the same name
    capsys.readouterr()
    predict(model, folder, out, "--tasks", "a_mask")
    assert "1 of 2 inputs were there already; --overwrite" in capsys.readouterr().out
    expected = model[1].predict([read_image(folder / "1.png")], "a_mask")[0].numpy()
    np.testing.assert_array_equal(read_mask(out / "a_mask" / "1.png"), expected)
    assert [row["id"] for row in table(out / "a_mask.csv")] == ["0.png", "1.png"]
    lines = (out / ".progress" / "a_mask.jsonl").read_text().splitlines()
    without = [json.dumps({k: v for k, v in json.loads(line).items() if k != "stamp"}) for line in lines]
    (out / ".progress" / "a_mask.jsonl").write_text("\n".join(without) + "\n")  # as earlier releases wrote them
    predict(model, folder, out, "--tasks", "a_mask")
    assert "2 of 2 inputs were there already" in capsys.readouterr().out


def test_a_broken_image_is_named_and_the_others_are_done(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 3)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])
    with pytest.raises(SystemExit, match=r"1 input could not be predicted, the others are done:\n.*1\.png"):
        predict(model, folder, tmp_path / "out", "--tasks", "a_class", "a_mask")
    for task in ("a_class", "a_mask"):
        assert [row["id"] for row in table(tmp_path / "out" / f"{task}.csv")] == ["0.png", "2.png"]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_does_not_depend_on_who_reads(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 7)
    for i in range(3):  # neighbours of one size are predicted together
        (folder / f"x{i}.png").write_bytes((folder / "0.png").read_bytes())
    nifti(folder / "v.nii.gz", np.random.default_rng(0).integers(0, 500, (20, 24, 5)).astype(np.int16))
    options = ["--window", "0", "500", "--overlays", "--batch_size", "3"]
    for workers in ("0", "2"):
        predict(model, folder, tmp_path / workers, *options, "--num_workers", workers)
    assert files_in(tmp_path / "0") == files_in(tmp_path / "2")
    rows = table(tmp_path / "0" / "a_class.csv")
    assert [row["id"] for row in rows] == [
        *(f"{i}.png" for i in range(7)),
        *["v.nii.gz"] * 5,
        *(f"x{i}.png" for i in range(3)),
    ]


def huge(path: Path, side: int = 64) -> Path:
    """An image of numbers so large that every network overflows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((side, side), 3e38, np.float32))
    return path


@pytest.mark.filterwarnings("ignore:Tiles that share 32 pixels")
@pytest.mark.parametrize("options", [[], ["--tile", "64", "--overlap", "32"]])
def test_what_is_not_finite_is_named_and_not_written(
    model: tuple[Path, MultiTaskModel], tmp_path: Path, options: list[str]
) -> None:
    folder = pictures(tmp_path / "in", 2)
    huge(folder / "huge.tif", 96)
    with pytest.raises(SystemExit) as told:
        predict(model, folder, tmp_path / "out", *options)
    message = str(told.value)
    assert "1 input could not be predicted" in message
    for task in model[1].tasks:
        assert f"task {task!r}" in message
        assert [row["id"] for row in table(tmp_path / "out" / f"{task}.csv")] == ["0.png", "1.png"]
    assert message.count("huge.tif: what task") == len(model[1].tasks)
    assert [image["file_name"] for image in json.loads((tmp_path / "out" / "a_box.json").read_text())["images"]] == [
        "0.png",
        "1.png",
    ]
    assert not [path for path in files_in(tmp_path / "out") if "huge" in path]


def test_a_volume_with_a_slice_that_is_not_finite_is_not_written(
    model: tuple[Path, MultiTaskModel], tmp_path: Path
) -> None:
    voxels = np.zeros((20, 24, 5), np.float32)
    nifti(tmp_path / "in" / "good.nii.gz", voxels)
    voxels[3, 3, 2] = np.nan
    nifti(tmp_path / "in" / "bad.nii.gz", voxels)
    with pytest.raises(
        SystemExit, match=r"1 input could not be predicted.*\n.*bad.nii.gz\[axial 2\]: 3 of .* values are NaN"
    ):
        predict(
            model, tmp_path / "in", tmp_path / "out", "--tasks", "a_mask", "--window", "0", "1", "--batch_size", "2"
        )
    assert {row["id"] for row in table(tmp_path / "out" / "a_mask.csv")} == {"good.nii.gz"}
    assert not (tmp_path / "out" / "a_mask" / "bad.nii.gz").exists()


def test_dicom_slices_of_a_task_of_images_are_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        place = {"ImagePositionPatient": [i, 0, 0], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
        window = {"WindowCenter": 500, "WindowWidth": 1000, "BitsStored": 12, "HighBit": 11, "PixelSpacing": [0.5, 0.5]}
        pixels = rng.integers(0, 1200, (64, 48)).astype(np.uint16)
        dicom(tmp_path / "data" / "ab"[i % 2] / f"{i}.dcm", pixels, Modality="MR", **place, **window)
    reader = ClassFolders(tmp_path / "data")
    net = MultiTaskModel(
        small_encoder(in_channels=1),
        {
            "t": reader.spec,
            "areas": replace(spec_of("mask", 1), value_range=reader.spec.value_range, cut=reader.spec.cut),
        },
        pixel_decoder=SMALL_PIXELS,
        sizes={"t": (32, 32)},
    ).eval()
    net.save_pretrained(tmp_path / "model")
    predict((tmp_path / "model", net), tmp_path / "data", tmp_path / "out", "--overlays")
    rows = table(tmp_path / "out" / "t.csv")
    assert [row["id"] for row in rows] == ["a/0.dcm", "a/2.dcm", "b/1.dcm", "b/3.dcm"]
    for i, row in enumerate(rows):
        expected = net.predict([reader[i].image], "t")[0].tolist()
        assert [float(row["p_a"]), float(row["p_b"])] == pytest.approx(expected, abs=1e-5)
        mask = read_mask(tmp_path / "out" / "areas" / f"{row['id']}.png")
        assert np.array_equal(mask, net.predict([reader[i].image], "areas")[0].numpy())
    # a window makes no volume of an image, and that is told; an axis does
    window = ["--tasks", "t", "--window", "0", "1200"]
    with pytest.warns(UserWarning, match=r"trained on images: .*a.0\.dcm .* are read as such"):
        predict((tmp_path / "model", net), tmp_path / "data" / "a", tmp_path / "windowed", *window)
    windowed = [float(row["p_a"]) for row in table(tmp_path / "windowed" / "t.csv")]
    assert windowed == pytest.approx([float(row["p_a"]) for row in rows[:2]], abs=1e-6)  # batches of other sizes
    window = ["--axis", "sagittal", "--window", "0", "1200", "--tasks", "t"]
    predict((tmp_path / "model", net), tmp_path / "data" / "a", tmp_path / "volume", *window)
    assert [row["id"] for row in table(tmp_path / "volume" / "t.csv")] == ["a", "a"]


def test_boxes_bear_the_ids_of_the_users_own_coco_file(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", 3)
    truth = {
        "categories": [{"id": 7, "name": "b"}, {"id": 0, "name": "a"}, {"id": 3, "name": "c"}],
        "images": [
            {"id": id, "file_name": f"{i}.png", "width": 90, "height": 70 + i} for id, i in ((5, 2), (0, 0), (9, 1))
        ],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 30, 40]}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    reader = CocoBoxes(folder, tmp_path / "truth.json")
    net = MultiTaskModel(small_encoder(), {"t": reader.spec}, detection_decoder=SMALL_DETECTION).eval()
    net.save_pretrained(tmp_path / "model")
    given = tmp_path / "model", net
    predict(given, tmp_path / "truth.json", tmp_path / "out", "--root", str(folder), "--min_score", "0.05")
    written = json.loads((tmp_path / "out" / "t.json").read_text())
    assert sorted(written["categories"], key=str) == sorted(truth["categories"], key=str)
    assert [(image["id"], image["file_name"]) for image in written["images"]] == [
        (5, "2.png"),
        (0, "0.png"),
        (9, "1.png"),
    ]
    assert {a["category_id"] for a in written["annotations"]} <= {7, 0, 3}
    for id, i in ((5, 2), (0, 0), (9, 1)):
        (found,) = net.predict([read_image(folder / f"{i}.png")], "t")
        of_image = [a for a in written["annotations"] if a["image_id"] == id]
        assert [reader.spec.category_ids[label] for label in found.labels.tolist()] == [
            a["category_id"] for a in of_image
        ]
        assert len(of_image) > 0
    (tmp_path / "t.csv").write_text("path,number\nimages/1.png,9\nimages/0.png,\n")
    predict(given, tmp_path / "t.csv", tmp_path / "of_table", "--image_id", "number")
    images = json.loads((tmp_path / "of_table" / "t.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [(9, "images/1.png"), (1, "images/0.png")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", r"a COCO file has a list of images"),
        ("{", r"not a JSON file"),
        ('{"images": [{"id": 1}]}', r"images\[0\]: it has no file_name"),
        ('{"images": [{"id": 1, "file_name": "gone.png"}]}', r"images\[0\]: .*gone.png: there is no such file"),
    ],
)
def test_a_coco_file_that_cannot_be_used_is_told(
    model: tuple[Path, MultiTaskModel], tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(SystemExit, match=rf"c\.json( line 1)?: {told}"):
        predict(model, tmp_path / "c.json", tmp_path / "out")


def test_a_worker_that_dies_is_told_and_what_was_done_is_kept(
    model: tuple[Path, MultiTaskModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = pictures(tmp_path / "in", 6), os.getpid()
    reading = InputDataset.image

    def die(self: InputDataset, wanted: Wanted, task: int) -> Any:
        if wanted.file == 5 and os.getpid() != here:
            time.sleep(1)  # so that what was read before is handed over
            os.kill(os.getpid(), signal.SIGKILL)
        return reading(self, wanted, task)

    monkeypatch.setattr(InputDataset, "image", die)
    with pytest.raises(SystemExit, match="A process that reads images died"):
        predict(model, folder, tmp_path / "out", "--tasks", "a_class", "--batch_size", "1", "--num_workers", "1")
    assert 0 < len(table(tmp_path / "out" / "a_class.csv")) < 6
    monkeypatch.setattr(InputDataset, "image", reading)
    predict(model, folder, tmp_path / "out", "--tasks", "a_class")
    assert sorted(row["id"] for row in table(tmp_path / "out" / "a_class.csv")) == [f"{i}.png" for i in range(6)]


def test_a_bomb_is_named(model: tuple[Path, MultiTaskModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "in", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SystemExit, match=r"0\.png.*far too many pixels"):
        predict(model, folder, tmp_path / "out")


def test_one_pixel_is_an_image(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((1, 1, 3), 9, np.uint8)).save(tmp_path / "in" / "a.png")
    predict(model, tmp_path / "in", tmp_path / "out", "--overlays", "--microns_per_pixel", "1000")
    assert read_mask(tmp_path / "out" / "a_mask" / "a.png").shape == (1, 1)
    (row,) = table(tmp_path / "out" / "a_box.csv")
    assert float(row["area_mm2"]) == 1


def test_names_cannot_lead_out_of_the_folder(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 1)
    (folder / "tables").mkdir()
    (folder / "tables" / "t.csv").write_text("path,patient\n../0.png,p1\n")
    predict(model, folder / "tables" / "t.csv", tmp_path / "out", "--tasks", "a_mask", "--group", "patient")
    (row,) = table(tmp_path / "out" / "a_mask.csv")
    assert row["group"] == "p1"
    written = (tmp_path / "out" / row["mask"]).resolve()
    assert written.is_relative_to(tmp_path / "out" / "a_mask")
    assert written.is_file()
    assert not (tmp_path / "out" / "0.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inputs", "nowhere"], "nowhere: there is no such file"),
        (["--inputs", "empty"], "nothing in this folder"),
        (["--inputs", "in", "copy"], "its id would be '0.png'"),
        (["--inputs", "same"], "another input whose name lacks the suffix"),
        (["--inputs", "in", "--tasks", "b"], "no task 'b'"),
        (["--inputs", "in", "--tile", "0"], "tile is 0"),
        (["--inputs", "in", "--tile", "64", "--overlap", "-1"], "overlap"),
        (["--inputs", "in", "--window", "0", "1", "--percentiles", "0", "1"], "Leave one out"),
        (["--inputs", "v.nii.gz"], "not trained on volumes.*--window"),
        (["--inputs", "s.tif"], "not trained on slides.*--mpp"),
        (["--inputs", "deep.png"], r"deep.png: the image is uint16"),
        (["--inputs", "in", "--model", "nothing/there/at/all"], "nothing"),
    ],
)
def test_what_cannot_be_done_is_told(
    model: tuple[Path, MultiTaskModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "in", 1)
    pictures(tmp_path / "copy", 1)
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save("deep.png")
    if "same" in options:
        dicom(Path("in/0"), np.zeros((8, 8), np.uint8))
        options = ["--inputs", "in"]
    if "v.nii.gz" in options:
        nifti(Path("v.nii.gz"), np.zeros((8, 8, 2), np.float32))
    if "s.tif" in options:
        slide(Path("s.tif"), stained(300, 300, (0, 0, 300, 300)))
    given: list[Any] = ["--model", model[0], "--out", "out", *options]
    with pytest.raises(SystemExit, match=rf"(?s)umedpt: error: .*({message})"):
        main(["predict", *map(str, given)])


def test_masks_boxes_and_tiles_are_written_for_qupath(model: tuple[Path, MultiTaskModel], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", 1)
    tasks = ("a_mask", "a_box", "a_class")
    predict(model, folder / "0.png", tmp_path / "out", "--tasks", *tasks, "--geojson", "--min_score", "0.05")
    mask = read_mask(tmp_path / "out" / "a_mask" / "0.png")
    regions = read_geojson(tmp_path / "out" / "a_mask" / "0.png.geojson", ["n0", "n1", "n2"])
    assert np.array_equal(regions.draw((0, 0, 90, 70), 70, 90, np.arange(3, dtype=np.int16)), mask)
    boxes = json.loads((tmp_path / "out" / "a_box" / "0.png.geojson").read_text())["features"]
    assert len(boxes) == sum(int(table(tmp_path / "out" / "a_box.csv")[0][f"n_n{i}"]) for i in range(3)) > 0
    assert not (tmp_path / "out" / "a_class").exists(), "an image has no tiles"

    path = slide(tmp_path / "in" / "s.tif", stained(200, 300, (20, 20, 280, 180)), mpp=0.25)
    options = ["--mpp", "0.5", "--tile", "64", "--geojson"]
    with pytest.warns(UserWarning, match="Tiles of 64 pixels are small"):
        predict(model, path, tmp_path / "slide", "--tasks", "a_mask", "a_class", *options)
    with tifffile.TiffFile(tmp_path / "slide" / "a_mask" / "s.tif") as tiff:
        mask = tiff.pages[0].asarray()
    regions = read_geojson(tmp_path / "slide" / "a_mask" / "s.tif.geojson", ["n0", "n1", "n2"])
    assert np.array_equal(regions.draw((0, 0, 300, 200), 100, 150, np.arange(3, dtype=np.int16)), mask), "finest level"
    tiles = json.loads((tmp_path / "slide" / "a_class" / "s.tif.geojson").read_text())["features"]
    rows = table(tmp_path / "slide" / "a_class" / "s.tif.csv")
    for tile, row in zip(tiles, rows, strict=True):
        assert tile["geometry"]["coordinates"][0][0] == [float(row["x"]), float(row["y"])]
        assert tile["properties"]["measurements"]["p_n1"] == pytest.approx(float(row["p_n1"]))


def test_a_series_gets_a_segmentation_or_is_named_where_it_cannot(
    model: tuple[Path, MultiTaskModel], tmp_path: Path
) -> None:
    options = ["--tasks", "a_mask", "--window", "0", "100", "--axis", "coronal", "--dicomseg"]
    folder = whole_series(tmp_path / "in" / "ct", PLANES["oblique"])
    whole_series(tmp_path / "in" / "torso", PLANES["axial"], PatientID=None, StudyInstanceUID=None)
    with pytest.raises(SystemExit, match=r"1 input could not be predicted.*\n.*torso: no DICOM segmentation"):
        predict(model, tmp_path / "in", tmp_path / "out", *options)
    nifti_mask = nibabel.load(tmp_path / "out" / "a_mask" / "ct.nii.gz")
    seg = highdicom.seg.segread(tmp_path / "out" / "a_mask" / "ct.dcm")
    read = seg.get_volume(combine_segments=True)
    to_index = np.linalg.inv(nifti_mask.affine) @ np.diag([-1, -1, 1, 1]) @ read.affine
    places = np.argwhere(read.array)
    i, j, k = np.rint(to_index[:3, :3] @ places.T + to_index[:3, 3:]).astype(int)
    stored = np.asarray(nifti_mask.dataobj)
    assert np.array_equal(stored[i, j, k], read.array[tuple(places.T)])
    assert np.count_nonzero(stored) == len(places) > 0
    assert seg.StudyInstanceUID == pydicom.dcmread(next(folder.iterdir())).StudyInstanceUID
    with pytest.raises(SystemExit, match="dicomseg is for masks of DICOM series, but there are none"):
        predict(model, pictures(tmp_path / "png", 1), tmp_path / "other", "--tasks", "a_mask", "--dicomseg")
