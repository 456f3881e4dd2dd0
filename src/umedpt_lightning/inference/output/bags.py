"""What is written of a bag: a row of the task's table, a row an image of a second one, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.drawing.attention import draw_attention, heat, most_attended
from umedpt_lightning.drawing.layout import PALE, below, beside, pad, text_block
from umedpt_lightning.drawing.pictures import save, to_rgb
from umedpt_lightning.inference.bags import BagInputs
from umedpt_lightning.inference.dataset import Wanted, thinned
from umedpt_lightning.inference.opening import SlideTiles
from umedpt_lightning.inference.output.geojson import tile_features, write_geojson
from umedpt_lightning.inference.output.slides import thumbnail
from umedpt_lightning.inference.output.task_output import TaskOutput, row_of
from umedpt_lightning.labels import Line
from umedpt_lightning.types import TaskSpec

_WIDTH, _GAP, _TEXT_SIZE = 480, 8, 13
_MOST_SLIDES = 4


def write_bag(
    output: TaskOutput, bags: BagInputs, number: int, prediction: Any, weights: NDArray[np.floating[Any]]
) -> None:
    """Writes and notes everything of a bag; the prediction has arrays for tensors, `weights` are of its images."""
    name, spec = bags.names[number], output.task.spec
    images = [
        {spec.bag: name, "id": bags.rows.id(row), **bags.place(row), "attention": round(float(weight), 6)}
        for row, weight in zip(bags.members[number].tolist(), weights, strict=True)
    ]
    files: list[Path] = []
    if output.options.overlays:
        files.append(output.overlay_file(name))
        save(_picture(bags, number, spec, prediction, weights), files[0])
    if output.options.geojson:
        files += _attended_tiles(output, bags, number, images)
    row = row_of({"id": name, "group": name, "images": len(images)}, output.row(prediction, None))
    output.journal.add(name, [row], files=map(output.relative, files), parts=images, stamp=bags.stamp(number))


def _attended_tiles(output: TaskOutput, bags: BagInputs, number: int, images: list[dict[str, Any]]) -> list[Path]:
    """A GeoJSON file for each slide of a bag, with its tiles and their attention."""
    tiles: dict[str, list[dict[str, Any]]] = {}
    for row, image in zip(bags.members[number].tolist(), images, strict=True):
        file = bags.rows.dataset.file(bags.rows.place(row)[0])
        if file.kind == "slide":
            tiles.setdefault(file.id, []).append(image)
    paths = [output.file(slide, ".geojson") for slide in tiles]
    for path, rows in zip(paths, tiles.values(), strict=True):
        write_geojson(tile_features(rows), path)
    return paths


def _picture(
    bags: BagInputs, number: int, spec: TaskSpec, prediction: Any, weights: NDArray[np.floating[Any]]
) -> Image.Image:
    rows = bags.members[number]
    shown = []
    for row in rows[most_attended(weights)].tolist():
        image = bags.rows.dataset.image(Wanted(*bags.rows.place(row)), 0)
        if image is not None:
            shown.append(to_rgb(thinned(image, _WIDTH).transpose(2, 0, 1), spec.value_range))
    drawn = [draw_attention(shown, weights, bags.positions(number), _WIDTH), *_slides(bags, rows, spec, weights)]
    texts = [text_block([Line(bags.names[number])], _WIDTH, _TEXT_SIZE, PALE)]
    texts.append(text_block(spec.prediction_view(prediction).lines, _WIDTH, _TEXT_SIZE))
    return pad(below([beside(drawn, _GAP), *texts], _GAP), _GAP)


def _slides(
    bags: BagInputs, rows: NDArray[np.int64], spec: TaskSpec, weights: NDArray[np.floating[Any]]
) -> list[Image.Image]:
    """The slides of a bag, with their tiles the more opaque the more attended."""
    places = np.array([bags.rows.place(row) for row in rows.tolist()])  # (n, 2) file and tile
    found = []
    for file in np.unique(places[:, 0])[:_MOST_SLIDES].tolist():
        if bags.rows.dataset.openings[0].is_single(bags.rows.dataset.file(file)):
            continue
        opened = bags.rows.dataset.open(file, 0)
        if isinstance(opened, SlideTiles):
            mine = places[:, 0] == file
            image = to_rgb(thumbnail(opened.images.slides[0]).transpose(2, 0, 1), spec.value_range)
            boxes = np.array([opened.images.box(tile) for tile in places[mine, 1].tolist()])
            scale = image.shape[1] / opened.images.slides[0].size[0]
            found.append(heat(image, boxes * scale, weights[mine] / weights.max()))
    return found
