"""Tile blending: class probabilities of overlapping tiles become one mask."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.inference.tiles.grid import Grid, Tile


class TileBlender:
    """Blends tiles that come row by row, and writes the classes of what is finished.

    Only the blended strips are kept: that on the right of the last tile, and that below the row. So the memory does
    not grow with the height of the image.

    Args:
        grid: All tiles.
        classes: Channels of the probabilities.
        out: ``(H, W)`` unsigned integers, filled piece by piece; may be a file that is mapped.
    """

    def __init__(self, grid: Grid, classes: int, out: NDArray[Any]) -> None:
        self._out = out
        deepest = 2 * max(span.after for span in grid.rows)
        self._below = torch.zeros(classes, deepest, out.shape[1])
        self._right = torch.zeros(0)

    def add(self, tile: Tile, probabilities: Tensor) -> None:
        """Takes the next tile.

        Args:
            tile: Where it is.
            probabilities: ``(K, h, w)`` of what is `shown` of it; overwritten.
        """
        down, across = tile.down, tile.across
        block = probabilities.mul_(down.weights()[:, None]).mul_(across.weights())
        if across.before:
            block[:, :, : 2 * across.before] += self._right
        if across.after:
            self._right = block[:, :, -2 * across.after :].clone()
            block = block[:, :, : -2 * across.after]
        x = across.shown.start
        columns = slice(x, x + block.shape[2])
        if down.before:
            block[:, : 2 * down.before] += self._below[:, :, columns]
        if down.after:
            self._below[:, :, columns] = block[:, -2 * down.after :]
            block = block[:, : -2 * down.after]
        y = down.shown.start
        self._out[y : y + block.shape[1], columns] = block.argmax(dim=0).numpy()
