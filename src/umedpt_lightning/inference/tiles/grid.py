"""How an image is cut into overlapping tiles, what of it each answers for, and how class probabilities are blended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.blocks import BaseEncoder

#: Width of the strip in which neighbours are blended, pixels; what is nearer to a tile's edge does not count.
_BLENDED = 16


class Span(NamedTuple):
    """One side of a tile, pixels of the image.

    Attributes:
        start: Where the tile begins.
        stop: Where it ends.
        low: Where its own part begins; own parts of neighbours meet near the middle of their overlap.
        high: Where its own part ends.
        before: Half the width of the strip around `low` in which the tile is blended with the one before; 0 at the
            image's edge.
        after: Half the width of the strip around `high`.
    """

    start: int
    stop: int
    low: int
    high: int
    before: int
    after: int

    @property
    def shown(self) -> slice:
        """The own part and the strips in which it is blended with its neighbours, pixels of the image."""
        return slice(self.low - self.before, self.high + self.after)

    def weights(self) -> Tensor:
        """``(shown,)`` of every pixel that is shown; those of all tiles add up to 1."""
        weights = torch.ones(self.high + self.after - self.low + self.before)
        if self.before:
            weights[: 2 * self.before] = _ramp(2 * self.before)
        if self.after:
            weights[-2 * self.after :] = _ramp(2 * self.after).flip(0)
        return weights


class Tile(NamedTuple):
    """Where a tile is."""

    down: Span
    across: Span

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.down.stop - self.down.start, self.across.stop - self.across.start


@dataclass(frozen=True)
class Grid:
    """The tiles of an image, rows from top to bottom and columns from left to right; goes row by row."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return itertools.starmap(Tile, itertools.product(self.rows, self.columns))


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        tile: Height and width of the tiles, pixels.
        overlap: Pixels that neighbours share.
        whole: Whether the last tiles are moved back so that they are as large as the others, for tasks that resize
            them; else they are smaller and begin where the encoder's grid of pixels is that of the whole image.
        pixel: Own parts begin at multiples of it, pixels.

    Raises:
        ValueError: Tiles are not larger than their overlap.
    """

    tile: tuple[int, int]
    overlap: int
    whole: bool = False
    pixel: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < min(self.tile):
            raise ValueError(f"Tiles of {self.tile} pixels cannot overlap by {self.overlap}. Give a smaller overlap.")

    def grid(self, height: int, width: int) -> Grid:
        """The tiles of an image of that size, pixels."""
        down, across = (self._spans(*sides) for sides in zip((height, width), self.tile, strict=True))
        return Grid(down, across)

    def _spans(self, length: int, tile: int) -> tuple[Span, ...]:
        step = tile - self.overlap
        count = 1 if length <= tile else math.ceil((length - self.overlap) / step)
        starts = [i * step for i in range(count)]
        if self.whole and count > 1:
            starts[-1] = length - tile
        stops = [min(start + tile, length) for start in starts]
        middles = ((start + stop) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True))
        cuts = [0, *(middle // self.pixel * self.pixel for middle in middles), length]
        # the blended strips of one tile must not meet, in one that was moved back neither
        half = min(_BLENDED, self.overlap // 2, step) // 2
        # nor lead out of the tiles, where a cut had to be moved to a pixel of the encoder
        inner = [min(half, cuts[i] - starts[i], stops[i - 1] - cuts[i]) for i in range(1, count)]
        halves = [0, *inner, 0]
        return tuple(Span(starts[i], stops[i], cuts[i], cuts[i + 1], halves[i], halves[i + 1]) for i in range(count))


def aligned_tiling(encoder: BaseEncoder, tile: int, overlap: int) -> Tiling:
    """Tiles of about that side and overlap, pixels, with corners where the encoder's pixels of the whole image are."""
    step = encoder.tile_step
    own = max(step, round((tile - overlap) / step) * step)
    overlap = math.ceil(overlap / step) * step
    return Tiling((own + overlap, own + overlap), overlap, pixel=max(encoder.strides))


def overlap_for_radius(encoder: BaseEncoder, radius: int) -> int:
    """The overlap, pixels, with which all that is shown of a tile is at least `radius` pixels from its inner edges."""
    step = encoder.tile_step
    # own parts meet up to a pixel of the coarsest map beside the middle
    return math.ceil((2 * radius + max(encoder.strides) + _BLENDED) / step) * step


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
        """Takes the next tile: probabilities ``(K, h, w)`` of what is `shown` of it, which are overwritten."""
        down, across = tile
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


def _ramp(length: int) -> Tensor:
    return (torch.arange(length) + 0.5) / length
