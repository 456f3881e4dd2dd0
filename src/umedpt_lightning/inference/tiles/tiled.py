"""One task's prediction for an image that is too large for the memory: tile by tile, as if it were seen whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from umedpt_lightning.blocks.whole_image_layers import Own
from umedpt_lightning.inference.progress import Advance, ProgressCallback, no_progress
from umedpt_lightning.inference.tiles.grid import Grid, Tile, TileBlender, Tiling, aligned_tiling
from umedpt_lightning.inference.tiles.shared_statistics import SharedStatistics
from umedpt_lightning.io.arrays import as_image, as_tensor
from umedpt_lightning.io.resize import resize
from umedpt_lightning.labels.masks import mask_dtype
from umedpt_lightning.model import NOT_FINITE, MultiTaskModel
from umedpt_lightning.tasks import Detections
from umedpt_lightning.types import finite_rows

#: Pixels that are in memory at once as a network's maps; an image that has no more need not be cut.
MOST_PIXELS = 2**22
#: What is looked at, no more than that many pixels together, to learn the statistics of an image that has more.
_SAMPLE_TILE, _SAMPLE_OVERLAP = 512, 256
TileImages: TypeAlias = Iterator[tuple[Tile, Tensor | None]]


class Pixels(Protocol):
    """An image that is read by pieces."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A piece ``(h, w, C)``."""


class TiledTask:
    """A task that sees images by tiles.

    The result is that of `MultiTaskModel.predict` for the whole image, but for what an encoder sees from further away
    than the overlap. Boxes are not limited to the head's `max_detections` an image, but a tile.

    Args:
        model: The whole model, which is set to evaluation mode.
        task: The task's name.
        tiling: How images are cut. Where the task has a size, each tile is resized to it, as images were in training.
        exact: GroupNorm and the like go by all of an image also where it has more than `MOST_PIXELS`. Then all tiles
            are gone through once more for every layer of the kind; without, they go by a sample.
    """

    def __init__(self, model: MultiTaskModel, task: str, tiling: Tiling, exact: bool = False) -> None:
        self._model, self._task, self._head = model.eval(), task, model.task(task)
        self._size, self.tiling, self._exact = model.sizes.get(task), tiling, exact

    def predict(
        self,
        pixels: Pixels,
        out: NDArray[np.unsignedinteger] | None = None,
        wanted: Callable[[Tile], bool] = lambda tile: True,
        progress: ProgressCallback = no_progress,
        name: str = "an image",
    ) -> Any:
        """The prediction in the image's own pixels.

        Args:
            pixels: The image.
            out: ``(H, W)`` where a mask is written; None for a new array.
            wanted: Which tiles to look at; the others are background and have no boxes.
            progress: Is told of every tile, and before them of what is learnt of the whole image.
            name: What it calls the image.

        Returns:
            An item of what `MultiTaskModel.predict` returns; a mask is `out`.

        Raises:
            ValueError: A piece is not an image of this task, or what the task gives for it is not finite.
        """
        self._name, grid = name, self.tiling.grid(*pixels.size)
        statistics = SharedStatistics(self._model)
        with torch.inference_mode():
            self._measure(statistics, pixels, grid, wanted, partial(progress, f"{self._task}: statistics of {name}"))
            with statistics.used(), progress(f"{self._task}: tiles of {name}", len(grid)) as advance:
                tiles = self._images(pixels, grid, wanted, advance)
                match self._head.spec.form:
                    case "mask":
                        dtype = mask_dtype(len(self._head.spec.names))
                        return self._mask(tiles, grid, np.zeros(pixels.size, dtype) if out is None else out)
                    case "objects":
                        return self._boxes(tiles, grid)
                    case "values":
                        return self._vector(tiles)

    def _images(
        self, pixels: Pixels, grid: Grid, wanted: Callable[[Tile], bool], advance: Advance
    ) -> Iterator[tuple[Tile, Tensor | None]]:
        """The tiles, each with its image, or None where it is not looked at; tells when one is done.

        An image is read in another thread while the one before is computed.
        """
        with ThreadPoolExecutor(1) as thread:
            tile, image = None, None
            for following in (*grid, None):
                ahead = thread.submit(self._image, pixels, following) if following and wanted(following) else None
                if tile is not None:
                    yield tile, None if image is None else image.result()
                    advance(1)
                tile, image = following, ahead

    def _mask(self, tiles: TileImages, grid: Grid, out: NDArray[np.unsignedinteger]) -> NDArray[Any]:
        classes = len(self._head.spec.names)
        blender = TileBlender(grid, classes, out)
        for tile, image in tiles:
            rows, columns = (slice(span.shown.start - span.start, span.shown.stop - span.start) for span in tile)
            if image is not None:
                found = self._head.exported(self._output(image, tile))["probabilities"]  # (1, K, h, w)
                found = F.interpolate(found, tile.sides, mode="bilinear") if self._size else found
                shown = found[0, :, rows, columns].cpu().clone()
            else:
                shown = torch.zeros(classes, rows.stop - rows.start, columns.stop - columns.start)
                shown[0] = 1
            blender.add(tile, shown)
        return out

    def _boxes(self, tiles: TileImages, grid: Grid) -> Detections:
        kept: list[Detections] = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]
        for tile, image in tiles:
            if image is not None:
                (found,) = self._head.predict(self._output(image, tile))
                kept.append(_own_boxes(self._head.resized(found, self._size or tile.sides, tile.sides), tile))
        merged = Detections(*(torch.cat([getattr(d, key) for d in kept]) for key in ("boxes", "scores", "labels")))
        return _across_tiles(merged, grid, self._head.nms_threshold)

    def _vector(self, tiles: TileImages) -> Any:
        """Of the mean of the coarsest map over all own parts, as `Pooling` takes it over the whole."""
        if self._head.needs != "embedding":
            raise ValueError(
                f"Task {self._task!r} cannot see an image by tiles: its head reads {self._head.needs}, and its "
                "predictions are neither masks nor objects. Give a smaller image, or the task a `size`."
            )
        total, places = torch.zeros(()), 0
        for tile, image in tiles:
            if image is not None:
                pyramid = self._model.pyramid(image, self._task)
                stride = pyramid.strides[-1]
                rows, columns = (slice((s.low - s.start) // stride, -(-(s.high - s.start) // stride)) for s in tile)
                own = pyramid.maps[-1][0, :, rows, columns]  # (D, h, w)
                if pyramid.embedding is not None:  # the encoder's own of the tile counts by the places of its part
                    own = pyramid.embedding[0, :, None, None].expand(-1, *own.shape[1:])
                total, places = total + own.double().sum(dim=(1, 2)).cpu(), places + own[0].numel()
        mean = (total / max(1, places)).float().to(self._head.device)
        output = self._head(self._model.pooling.norm(mean[None]))
        self._check_finite(output, "it")
        return self._head.predict(output)[0]

    def _output(self, image: Tensor, tile: Tile) -> Any:
        output = self._model(image, self._task)
        self._check_finite(output, f"its row {tile.down.start}, column {tile.across.start}")
        return output

    def _check_finite(self, output: Any, place: str) -> None:
        if not finite_rows(output, 1).all():
            raise ValueError(f"{self._name}: what task {self._task!r} gives for {place} is not finite. {NOT_FINITE}")

    def _image(self, pixels: Pixels, tile: Tile) -> Tensor:
        """``(1, C, h, w)`` as stored, resized if the task has a size."""
        down, across = tile
        piece = pixels.read(slice(down.start, down.stop), slice(across.start, across.stop))
        image = as_image(piece, self._head.spec.channels, f"the piece at row {down.start}, column {across.start}")
        return as_tensor([resize(image, self._size) if self._size else image]).to(self._head.device)

    def _measure(
        self,
        statistics: SharedStatistics,
        pixels: Pixels,
        grid: Grid,
        wanted: Callable[[Tile], bool],
        progress: Callable[[int], AbstractContextManager[Advance]],
    ) -> None:
        """Learns what the whole image is like: from all tiles if it fits, else from some, evenly spread."""
        tiles = [tile for tile in grid if wanted(tile)]
        large = int(np.prod(pixels.size)) > MOST_PIXELS
        seen = sum(h * w for h, w in (self._size or tile.sides for tile in tiles))
        if large and seen > MOST_PIXELS and not self._exact:
            sampled = self._size
            if not sampled:
                tiling = aligned_tiling(self._model.encoder, _SAMPLE_TILE, _SAMPLE_OVERLAP)
                grid, sampled = tiling.grid(*pixels.size), tiling.tile
                tiles = [tile for tile in grid if wanted(tile)]
            most = max(1, MOST_PIXELS // int(np.prod(sampled)))
            tiles = [tiles[i] for i in np.linspace(0, len(tiles) - 1, min(most, len(tiles))).round().astype(int)]
        if len(tiles) < 2:  # a single tile is the whole image
            return

        def run(tile: Tile) -> Any:
            return self._output(self._image(pixels, tile), tile)

        runs = [(self._own(tile, grid), partial(run, tile)) for tile in tiles]
        calls = statistics.calls(runs[0][1])
        if not calls:
            return
        with progress(len(runs) * calls) as advance:
            if large and self._exact:
                statistics.measure_in_turn(runs, calls, advance)
            else:
                statistics.measure(runs, advance)

    def _own(self, tile: Tile, grid: Grid) -> Own:
        """The own part in shares of the maps, whose padding at the image's end belongs to it."""
        stride = max(self._model.encoder.strides)
        shares: list[float] = []
        seen = self._size or tile.sides
        for span, spans, length, shown in zip(tile, (grid.rows, grid.columns), tile.sides, seen, strict=True):
            padded = -(-shown // stride) * stride
            shares.append((span.low - span.start) / length * shown / padded)
            shares.append(1.0 if span is spans[-1] else (span.high - span.start) / length * shown / padded)
        return Own(*shares)


def _own_boxes(found: Detections, tile: Tile) -> Detections:
    """The boxes whose middle lies in the tile's own part, in pixels of the image."""
    boxes = found.boxes.cpu() + torch.tensor([tile.across.start, tile.down.start] * 2)
    x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
    own = (tile.across.low <= x) & (x < tile.across.high) & (tile.down.low <= y) & (y < tile.down.high)
    return Detections(boxes[own], found.scores.cpu()[own], found.labels.cpu()[own])


def _across_tiles(found: Detections, grid: Grid, threshold: float) -> Detections:
    """Best first, without those that overlap a better one of another tile; only where tiles meet there can be such."""
    near = torch.zeros(len(found.boxes), dtype=torch.bool)
    if len(found.boxes):
        middles, sides = (
            (found.boxes[:, :2] + found.boxes[:, 2:]) / 2,
            (found.boxes[:, 2:] - found.boxes[:, :2]).amax(0),
        )
        for axis, spans in enumerate((grid.columns, grid.rows)):
            for span in spans[:-1]:
                near |= (middles[:, axis] - span.high).abs() <= sides[axis]
    kept = ~near
    where_tiles_meet = near.nonzero()[:, 0]
    chosen = batched_nms(found.boxes[near], found.scores[near], found.labels[near], threshold)
    kept[where_tiles_meet[chosen]] = True
    order = found.scores[kept].argsort(descending=True, stable=True)
    return Detections(found.boxes[kept][order], found.scores[kept][order], found.labels[kept][order])
