"""Whole slides by tiles, at the resolution that a task was trained with."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.slide.slide import Slide
from umedpt_lightning.data.slide.tiles import TileImages, Tiles
from umedpt_lightning.data.slide.tissue import tissue_mask, tissue_shares
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.labels import TableRow
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.predict import overlays
from umedpt_lightning.predict.grid import Tile
from umedpt_lightning.predict.journal import Record
from umedpt_lightning.predict.look import TILE, Look
from umedpt_lightning.predict.masks import write_tiff
from umedpt_lightning.predict.output import TaskOutput
from umedpt_lightning.predict.tiled import TiledTask
from umedpt_lightning.predict.watch import Watch
from umedpt_lightning.types import to_numpy

_ENLARGED = 1.25


class SlidePixels:
    """A slide at another resolution, read by pieces.

    Args:
        slide: The slide.
        mpp: µm from pixel to pixel.
        channels: 1 or 3.

    Raises:
        ValueError: The slide is coarser.
    """

    def __init__(self, slide: Slide, mpp: float, channels: int) -> None:
        if max(slide.mpp) > _ENLARGED * mpp:
            raise ValueError(
                f"{slide.path}: its finest pixels are {max(slide.mpp):.3g} µm, but the task sees pixels of {mpp:g} µm. "
                f"Give --mpp {max(slide.mpp):.3g} or more, if that is near enough."
            )
        self._slide, self._channels, self._level = slide, channels, slide.level(mpp)
        #: Pixels of the finest level a pixel here, along x and y.
        self.scale = mpp / np.array(slide.mpp)
        width, height = (max(1, int(side / scale)) for side, scale in zip(slide.size, self.scale, strict=True))
        self.size = (height, width)

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A piece ``(h, w, C)``, from the coarsest level that is as fine, shrunk by area."""
        scale = self.scale / self._slide.downsamples[self._level]
        limits = self._slide.sizes[self._level]
        x1, y1 = (int(v) for v in np.rint([columns.start, rows.start] * scale).clip(0, limits - 1))
        x2, y2 = (int(v) for v in np.rint([columns.stop, rows.stop] * scale).clip([x1 + 1, y1 + 1], limits))
        piece = self._slide.read(self._level, x1, y1, x2 - x1, y2 - y1)
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if (piece.shape[1], piece.shape[0]) != size:
            grows = piece.shape[1] < size[0] or piece.shape[0] < size[1]
            piece = cv2.resize(piece, size, interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)
            piece = piece[..., None] if piece.ndim == 2 else piece  # OpenCV drops a single channel
        return to_channels(piece, self._channels, str(self._slide.path))


class SlideTask:
    """One task on a whole slide.

    Args:
        model: The model.
        output: Where its predictions are written.
        look: How slides are cut.
    """

    def __init__(self, model: MultiTaskModel, output: TaskOutput, look: Look) -> None:
        self._model, self._output, self._look = model, output, look

    def predict(self, path: Path, of: dict[str, str], watch: Watch) -> None:
        """Writes what was found in a slide, and notes it.

        Args:
            path: The slide.
            of: ``id`` and ``group`` of the input.
            watch: Is told of every tile.

        Raises:
            ImportError: tiffslide is missing.
            ValueError: The slide cannot be read, or not so as the task needs it.
        """
        tiles = self._look.tiles(self._output.task.spec, self._output.name)
        if self._output.task.needs == "embedding":
            self._by_tile(path, of, tiles, watch)
        else:
            self._seamless(path, of, tiles, watch)

    def _by_tile(self, path: Path, of: dict[str, str], tiles: Tiles, watch: Watch) -> None:
        """A row a tile in a table of the slide, and their mean in that of the task."""
        model, output = self._model, self._output
        images = TileImages([path], tiles, output.task.spec.channels, output.task.spec.value_range, path)
        rows: list[TableRow] = []
        all_found = []
        with watch(f"{output.name}: tiles of {of['id']}", len(images)) as advance:
            for start in range(0, len(images), self._look.batch_size):
                numbers = range(start, min(start + self._look.batch_size, len(images)))
                found = model.predict([images.read(k) for k in numbers], output.name, self._look.batch_size)
                for k, prediction in zip(numbers, to_numpy(found), strict=True):
                    x1, y1, x2, y2 = (round(edge, 3) for edge in images.box(k))
                    place = {"x": x1, "y": y1, "width": round(x2 - x1, 3), "height": round(y2 - y1, 3)}
                    rows.append(place | output.row(prediction, None))
                    all_found.append(prediction)
                advance(len(numbers))
        table = output.file(of["id"], ".csv")
        with atomic_write(table) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        mean = output.task.spec.mean(all_found)
        row = of | {"tiles": len(rows)} | ({} if mean is None else output.row(mean, None))
        files = [output.relative(table)]
        if output.draw and mean is not None:
            files.append(output.overlay(_thumbnail(images.slides[0]), mean, of["id"]))
        output.journal.add(Record(of["id"], [row], files=files))

    def _seamless(self, path: Path, of: dict[str, str], tiles: Tiles, watch: Watch) -> None:
        """A mask or boxes from overlapping tiles."""
        output, task = self._output, self._output.task
        slide = Slide(path, tiles.slide_mpp)
        pixels = SlidePixels(slide, tiles.mpp, task.spec.channels)
        trained = bool(task.spec.cut.get("tiles")) or self._look.tile
        tile = tiles.shape[0] if output.name in self._model.sizes and trained else self._look.tile or TILE
        tiled = TiledTask(
            self._model, output.name, self._look.tiling_of(self._model, output.name, tile), self._look.exact
        )
        grid = tiled.tiling.grid(*pixels.size)
        wanted = _with_tissue(slide, tiles, pixels.scale)
        looked_at = sum(_area(t) for t in grid if wanted(t)) * tiles.mpp**2
        with tempfile.TemporaryDirectory(dir=output.out) as folder:
            mask = None
            if task.spec.form == "mask":  # a file, so that it need not be in memory
                mask = np.memmap(Path(folder) / "mask", np.uint8, "w+", shape=pixels.size)
            found = to_numpy(tiled.predict(pixels, mask, wanted, watch, of["id"]))
            row: TableRow = dict(of)
            files, pictures = [], []
            size = pixels.size
            if task.spec.form == "objects":
                found, size = _scaled(found, pixels.scale), slide.size[::-1]
                file = output.file(of["id"], ".geojson")
                write_geojson(output.certain(found), task.spec.names, file)
                pictures = output.pictures(of["id"], size, found)
            else:
                file = output.file(of["id"], ".tif")
                write_tiff(found, tiles.mpp, file)
                row |= {"mask": output.relative(file), "mpp": tiles.mpp}
            row |= output.row(found, looked_at)
            files.append(output.relative(file))
            if output.draw:
                image = _thumbnail(slide)
                found = task.spec.resized(found, size, (image.shape[0], image.shape[1]))
                files.append(output.overlay(to_channels(image, None, ""), found, of["id"]))
        output.journal.add(Record(of["id"], [row], pictures, files))


def write_geojson(found: Any, classes: tuple[str, ...], path: Path) -> None:
    """Boxes as rectangles that QuPath reads, in pixels of the finest level."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(_features(found, classes)):
            stream.write((",\n" if number else "\n") + json.dumps(feature))
        stream.write("\n]}\n")


def _features(found: Any, classes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        x1, y1, x2, y2 = (round(edge, 2) for edge in box)
        ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "detection",
                "classification": {"name": classes[label]},
                "measurements": {"score": round(score, 6)},
            },
        }


def _with_tissue(slide: Slide, tiles: Tiles, scale: NDArray[np.float64]) -> Callable[[Tile], bool]:
    """Which tiles have any tissue; all where tissue cannot be told by its colour, or was not asked for in training."""
    if tiles.tissue is None or slide.channels != 3 or slide.dtype != np.uint8:
        return lambda tile: True
    mask = tissue_mask(slide)

    def wanted(tile: Tile) -> bool:
        corners = [tile.across.start, tile.down.start, tile.across.stop, tile.down.stop]
        return bool(tissue_shares(mask, slide, np.array([corners * np.tile(scale, 2)]))[0] > 0)

    return wanted


def _scaled(found: Any, scale: NDArray[np.float64]) -> Any:
    """The boxes in other pixels, so many of them along x and y."""
    return replace(found, boxes=found.boxes * np.tile(scale, 2).astype(np.float32))


def _area(tile: Tile) -> int:
    return (tile.down.high - tile.down.low) * (tile.across.high - tile.across.low)


def _thumbnail(slide: Slide) -> NDArray[Any]:
    """The slide at most as large as it is drawn."""
    large = np.flatnonzero(slide.sizes.max(axis=1) >= overlays.LARGEST)
    level = int(large[-1]) if len(large) else 0
    width, height = slide.sizes[level].tolist()
    step = -(-max(width, height) // overlays.LARGEST)
    # rows of a level that may be large
    pieces = [
        slide.read(level, 0, y, width, min(step * 256, height - y))[::step, ::step]
        for y in range(0, height, step * 256)
    ]
    return np.concatenate(pieces)
