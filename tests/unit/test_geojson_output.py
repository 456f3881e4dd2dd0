"""Masks and boxes as GeoJSON, read again by the reader of annotations."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from umedpt_lightning.data.slide.annotations import read_geojson
from umedpt_lightning.drawing.pictures import colour
from umedpt_lightning.inference.output import geojson
from umedpt_lightning.inference.output.geojson import box_features, mask_features, tile_features, write_geojson

CLASSES = ("background", "tumour", "stroma")


def again(file: Path, shape: tuple[int, int], scale: tuple[float, float] = (1, 1)) -> NDArray[np.int16]:
    """The mask that the reader of annotations draws of a file."""
    regions = read_geojson(file, CLASSES)
    box = (0.0, 0.0, shape[1] * scale[0], shape[0] * scale[1])
    return regions.draw(box, *shape, np.arange(len(CLASSES), dtype=np.int16))


def ring_with_an_island() -> NDArray[np.uint8]:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:16, 3:20] = 1
    mask[5:12, 6:15] = 0  # a hole
    mask[7:9, 8:12] = 2  # an island of another class in it
    mask[17:19, 22:25] = 1  # another part
    mask[19, 25] = 1  # and one that touches it at a corner
    mask[0, 0] = 2  # a single pixel at the border
    return mask


@pytest.mark.parametrize("scale", [(1.0, 1.0), (4.0, 4.0), (2.5, 1.25), (0.5, 0.5)])
def test_holes_parts_and_single_pixels_are_read_again_as_they_were(tmp_path: Path, scale: tuple[float, float]) -> None:
    mask = ring_with_an_island()
    write_geojson(mask_features(mask, CLASSES, scale), tmp_path / "x.geojson")
    assert np.array_equal(again(tmp_path / "x.geojson", mask.shape, scale), mask)


@pytest.mark.parametrize("rows", [3, 1024])
def test_any_mask_is_read_again_however_many_rows_are_looked_at(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geojson, "_ROWS", rows)
    mask = np.random.default_rng(0).choice(3, (25, 31), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    write_geojson(mask_features(mask, CLASSES), tmp_path / "x.geojson")
    assert np.array_equal(again(tmp_path / "x.geojson", mask.shape), mask)


def test_a_part_is_an_annotation_with_the_class_the_colour_and_no_more_corners_than_it_has() -> None:
    features = list(mask_features(ring_with_an_island(), CLASSES))
    assert [f["properties"]["classification"]["name"] for f in features].count("tumour") == 3
    first = max(features, key=lambda f: len(f["geometry"]["coordinates"]))
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "tumour", "color": list(colour(1))},
    }
    assert [len(ring) for ring in first["geometry"]["coordinates"]] == [5, 5], "an outline and a hole of four corners"
    assert all(0 <= part <= 255 for f in features for part in f["properties"]["classification"]["color"])


def test_a_mask_of_background_has_no_features(tmp_path: Path) -> None:
    write_geojson(mask_features(np.zeros((5, 5), np.uint8), CLASSES), tmp_path / "x.geojson")
    assert json.loads((tmp_path / "x.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_boxes_and_tiles_are_rectangles_with_their_numbers(tmp_path: Path) -> None:
    found: Any = SimpleNamespace(
        boxes=np.array([[1, 2, 4, 6.0]]), scores=np.array([0.75]), labels=np.array([1]), form="objects"
    )
    (box,) = box_features(found, CLASSES)
    assert box["geometry"]["coordinates"] == [[[1, 2], [4, 2], [4, 6], [1, 6], [1, 2]]]
    assert box["properties"]["measurements"] == {"score": 0.75}
    assert box["properties"]["classification"] == {"name": "tumour", "color": list(colour(1))}
    (tile,) = tile_features([{"x": 10.0, "y": 0.0, "width": 5.0, "height": 4.0, "class": "a", "p_a": 0.9}])
    assert tile["geometry"]["coordinates"][0][2] == [15, 4]
    assert tile["properties"] == {"objectType": "tile", "measurements": {"p_a": 0.9}}
