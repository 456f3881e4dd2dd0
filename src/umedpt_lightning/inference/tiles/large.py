"""Slides, which a task sees tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.slide.slide import Slide
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.slide.tissue import tissue_mask, tissue_shares
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.progress import ProgressCallback
from umedpt_lightning.inference.tiles.grid import Tile
from umedpt_lightning.inference.tiles.pixels import SlidePixels
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.labels.masks import mask_dtype
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import to_numpy


class SeenSlide(NamedTuple):
    """A mask at the tiles' resolution, or boxes in pixels of the finest level, of a slide, and the µm² looked at.

    `scale` is how many pixels of the finest level a pixel of the mask has, across and down.
    """

    slide: Slide
    found: Any
    area: float
    scale: tuple[float, float]


def predict_slide(
    model: MultiTaskModel,
    task: str,
    file: InputFile,
    tiles: Tiles,
    options: PredictOptions,
    progress: ProgressCallback,
    folder: Path,
) -> SeenSlide:
    """A mask or boxes from overlapping tiles, those without tissue left out.

    Tiles have the resolution of `tiles`, and overlap as the options say. A mask grows in the folder, not in memory.

    Raises:
        ImportError: tiffslide is missing.
        ValueError: The slide cannot be read, or not so as the task needs it, or what the task gives is not finite.
    """
    head, slide = model.task(task), Slide(file.path, tiles.slide_mpp)
    pixels = SlidePixels(slide, tiles.mpp, head.spec.channels)
    trained = "tiles" in head.spec.cut or options.tile
    tiling = options.tiling(model, task, tiles.shape[0] if task in model.sizes and trained else None)
    wanted = _with_tissue(slide, tiles, pixels.scale)
    looked_at = [tile for tile in tiling.grid(*pixels.size) if wanted(tile)]
    area = sum((d.high - d.low) * (a.high - a.low) for d, a in looked_at) * tiles.mpp**2
    mask = None
    if head.spec.form == "mask":
        mask = np.memmap(folder / "mask", mask_dtype(len(head.spec.names)), "w+", shape=pixels.size)
    tiled = TiledTask(model, task, tiling, options.exact)
    found = to_numpy(tiled.predict(pixels, mask, wanted, progress, file.id))
    if head.spec.form == "objects":
        found = replace(found, boxes=found.boxes * np.tile(pixels.scale, 2).astype(np.float32))
    across, down = pixels.scale.tolist()
    return SeenSlide(slide, found, area, (across, down))


def _with_tissue(slide: Slide, tiles: Tiles, scale: NDArray[np.float64]) -> Callable[[Tile], bool]:
    """Which tiles have any tissue; all where tissue cannot be told by its colour, or was not asked for in training."""
    if tiles.tissue is None or slide.channels != 3 or slide.dtype != np.uint8:
        return lambda tile: True
    mask = tissue_mask(slide)

    def wanted(tile: Tile) -> bool:
        corners = [tile.across.start, tile.down.start, tile.across.stop, tile.down.stop]
        return bool(tissue_shares(mask, slide, np.array([corners * np.tile(scale, 2)]))[0] > 0)

    return wanted
