"""Files are predicted by the bags, in the order and at the places, that the reader of the training gives."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import small_encoder
from PIL import Image
from reader_samples import TILES, image, slides, table, volumes

from umedpt_lightning.blocks import GatedAttention
from umedpt_lightning.data.loading.dataset import collate, prepared
from umedpt_lightning.data.readers import Bags, ManifestNumbers, SlideNumbers, Table, VolumeNumbers
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.embed_files import embed_files
from umedpt_lightning.inference.find_inputs import TableColumns
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.predict import predict_files
from umedpt_lightning.model import MultiTaskModel

Found = tuple[Bags, Path, tuple[str, ...]]
SIDE = 64


def pictures(folder: Path) -> Path:
    rows: list[dict[str, object]] = [
        {"path": f"p{k % 3}_{k}.png", "patient": f"p{k % 3}", "split": "train", "z": k % 3} for k in range(8)
    ]
    for k, row in enumerate(rows):
        image(folder / str(row["path"]), k)
    return table(folder / "table.csv", rows)


def by_column(folder: Path) -> Found:
    reader = ManifestNumbers(Table(pictures(folder), group="patient"), "train", {"z": ""})
    return Bags(reader, "patient", position=r"_(\d+)\."), folder / "table.csv", ()


def by_expression(folder: Path) -> Found:
    reader = ManifestNumbers(pictures(folder / "images"), "train", {"z": ""})
    return Bags(reader, "patient", group=r"(p\d)_", position=r"_(\d+)\."), folder / "images", ()


def of_volumes(folder: Path) -> Found:
    return Bags(VolumeNumbers(volumes(folder), "train", {"z": ""}), "volume"), folder / "volumes", ("slice",)


def of_some_slices(folder: Path) -> Found:
    volume = VolumeNumbers(volumes(folder), "train", {"z": ""}, Slices(every=1.5))
    assert len(volume) < len(VolumeNumbers(volumes(folder), "train", {"z": ""}))
    return Bags(volume, "volume"), folder / "volumes", ("slice",)


def of_slides(folder: Path) -> Found:
    reader = SlideNumbers(slides(folder), "train", {"z": ""}, TILES)
    return Bags(reader, "slide"), folder / "slides", ("x", "y", "width", "height")


@pytest.mark.parametrize("kind", [by_column, by_expression, of_volumes, of_some_slices, of_slides])
def test_files_are_predicted_as_the_bags_of_the_reader(kind: Callable[[Path], Found], tmp_path: Path) -> None:
    reader, given, columns = kind(tmp_path)
    torch.manual_seed(0)
    encoder = small_encoder(in_channels=reader.spec.channels)
    block = {"bag": partial(GatedAttention, position=True)}
    model = MultiTaskModel(encoder, {"t": reader.spec}, blocks=block, sizes={"t": (SIDE, SIDE)}).eval()
    torch.nn.init.normal_(model.blocks["bag"].place.weight, std=2.0)  # type: ignore[union-attr]
    torch.nn.init.normal_(model.blocks["bag"].score.weight, std=2.0)  # type: ignore[union-attr]
    compute, out = ComputeOptions(batch_size=3), tmp_path / "out"
    predict_files(model, [str(given)], out, options=PredictOptions(overlays=True), compute=compute)
    rows = {row["id"]: row for row in csv.DictReader((out / "t.csv").open())}
    images = list(csv.DictReader((out / "t.images.csv").open()))
    assert list(images[0])[2:-1] == list(columns or ["position"])
    embed_files(model, [str(given)], tmp_path / "e.npy", compute=compute)
    vectors = np.load(tmp_path / "e.npy")
    names = [row["id"] for row in csv.DictReader((tmp_path / "e.npy.csv").open())]
    for index in range(len(reader)):
        bags = collate("t", [Transform(SIDE)(prepared(reader, index), 0)]).images
        with torch.inference_mode():
            features, (weights,) = model.weighed(bags, "t")  # type: ignore[arg-type]
            expected = model.task("t").predict(model.task("t")(features))[0]
        name = Path(reader.name(index)).name
        assert float(rows[name]["z"]) == pytest.approx(float(expected[0]), rel=1e-4, abs=1e-4)
        mine = [float(one["attention"]) for one in images if one[reader.spec.bag] == name]
        np.testing.assert_allclose(mine, weights.numpy(), atol=1e-5)
        np.testing.assert_allclose(vectors[names.index(name)], features[0].numpy(), atol=1e-4)
        assert np.asarray(Image.open(out / "overlays" / "t" / f"{name.removesuffix('.png')}.png")).std() > 0


def test_a_column_that_is_named_goes_before_the_expression_of_the_training(tmp_path: Path) -> None:
    reader, _, _ = by_expression(tmp_path)
    model = MultiTaskModel(small_encoder(in_channels=1), {"t": reader.spec}).eval()
    rows: list[dict[str, object]] = [{"path": f"images/p{k % 3}_{k}.png", "visit": f"v{k // 4}"} for k in range(8)]
    visits: list[Any] = [str(table(tmp_path / "visits.csv", rows))]
    predict_files(model, visits, tmp_path / "out", columns=TableColumns(group="visit"))
    found = {row["id"]: row["images"] for row in csv.DictReader((tmp_path / "out" / "t.csv").open())}
    assert found == {"v0": "4", "v1": "4"}


def test_a_bag_that_has_changed_is_done_again_and_the_others_are_not(tmp_path: Path) -> None:
    reader, folder, _ = by_expression(tmp_path)
    model = MultiTaskModel(small_encoder(in_channels=1), {"t": reader.spec}).eval()
    found = [predict_files(model, [str(folder)], tmp_path / "out").skipped for _ in range(2)]
    image(folder / "p0_00.png", 9)  # the first of all images
    found.append(predict_files(model, [str(folder)], tmp_path / "out").skipped)
    assert found == [0, 3, 2]
    with (tmp_path / "out" / "t.csv").open() as stream:
        assert {row["id"]: row["images"] for row in csv.DictReader(stream)} == {"p0": "4", "p1": "3", "p2": "2"}


def test_attended_tiles_are_written_for_qupath(tmp_path: Path) -> None:
    bags, folder, _ = of_slides(tmp_path)
    model = MultiTaskModel(small_encoder(in_channels=1), {"t": bags.spec}).eval()
    predict_files(model, [str(folder)], tmp_path / "out", options=PredictOptions(geojson=True))
    with (tmp_path / "out" / "t.images.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found = [json.loads(file.read_text())["features"] for file in sorted((tmp_path / "out" / "t").glob("*.geojson"))]
    assert len(found) == 4, "one a slide"
    tiles = [tile for features in found for tile in features]
    assert len(tiles) == len(rows) == 8
    for tile, row in zip(tiles, sorted(rows, key=lambda row: row["slide"]), strict=True):
        assert tile["geometry"]["coordinates"][0][0] == [float(row["x"]), float(row["y"])]
        assert tile["properties"] == {"objectType": "tile", "measurements": {"attention": float(row["attention"])}}
