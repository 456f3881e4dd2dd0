"""Which pieces of whole slides are samples, and how they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import for_all, raise_all
from umedpt_lightning.data.formats.files import Pieces, check_channels, full_range
from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.slide.slide import Slide
from umedpt_lightning.data.slide.tissue import tissue_mask, tissue_shares
from umedpt_lightning.io.resize import resized
from umedpt_lightning.types import Sample

#: A slide may be coarser than what is wanted by this factor: an objective is never exactly what it is called.
_ENLARGED = 1.25


@dataclass(frozen=True)
class Tiles:
    """How whole slides are cut into images: a grid from the top left corner, without pieces that stick out.

    Attributes:
        mpp: µm from pixel to pixel of the tiles. They are read from the coarsest level that is as fine, and shrunk by
            area.
        size: Height and width of the tiles, pixels, one number for both.
        stride: From one tile to the next, pixels of the tiles; None as the size is. A smaller one makes them overlap.
        tissue: Tiles with a smaller share of tissue (0 to 1) are left out; None takes all. See `tissue_mask`.
        slide_mpp: µm from pixel to pixel of the slides' finest level, whatever their files say; None for that.

    Raises:
        ValueError: A number is out of range.
    """

    mpp: float = 0.5
    size: int | tuple[int, int] = 256
    stride: int | None = None
    tissue: float | None = 0.5
    slide_mpp: float | None = None

    def __post_init__(self) -> None:
        for name, values in {"mpp": (self.mpp,), "size": self.shape, "stride": self.steps}.items():
            if not all(value > 0 for value in values):
                raise ValueError(f"tiles: {name} is {getattr(self, name)}, but it must be above 0.")
        if self.slide_mpp is not None and not self.slide_mpp > 0:
            raise ValueError(f"tiles: slide_mpp is {self.slide_mpp}, but it must be µm above 0.")
        if self.tissue is not None and not 0 <= self.tissue <= 1:
            raise ValueError(f"tiles: tissue is {self.tissue}, but it is a share from 0 to 1.")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def steps(self) -> tuple[int, int]:
        """From one tile to the next, down and across, pixels."""
        return self.shape if self.stride is None else (self.stride, self.stride)

    def places(self, slide: Slide) -> NDArray[np.int32]:
        """``(N, 2)`` x and y of the tiles' corners in pixels of the finest level, row by row.

        Raises ValueError where the slide is too coarse, or its tissue cannot be found.
        """
        if max(slide.mpp) > _ENLARGED * self.mpp:
            raise ValueError(
                f"{slide.path}: its finest pixels are {max(slide.mpp):.3g} µm, but tiles have {self.mpp:g} µm. "
                f"Write `mpp: {max(slide.mpp):.3g}` or more under `tiles`."
            )
        scale = self.mpp / np.array(slide.mpp)  # pixels of the finest level a pixel of a tile, along x and y
        extent = scale * self.shape[::-1]
        counts = np.floor((slide.size - extent) / (scale * self.steps[::-1]) + 1 + 1e-6).clip(min=0).astype(int)
        rows, columns = np.mgrid[: counts[1], : counts[0]]
        grid = np.stack([columns.ravel(), rows.ravel()], axis=1)  # (N, 2)
        corners = np.floor(grid * scale * self.steps[::-1] + 1e-6)
        if self.tissue is not None and len(corners):
            shares = tissue_shares(tissue_mask(slide), slide, np.hstack([corners, corners + extent]))
            corners = corners[shares >= self.tissue]
        return corners.astype(np.int32)


class TileImages(Pieces):
    """The tiles of many whole-slide images, which `source` names.

    Args:
        tiles: How they are cut.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first slide has.
        value_range: The stored intensities that become 0 and 1; None the full range of the dtype.

    Attributes:
        places: ``(N, 2)`` x and y of each tile's corner in pixels of its slide's finest level.

    Raises:
        FileNotFoundError: A slide is missing.
        ImportError: tiffslide is missing.
        ValueError: There are no tiles, a slide cannot be used, or two do not go together.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        tiles: Tiles | None,
        channels: int | None,
        value_range: tuple[float, float] | None,
        source: object,
    ) -> None:
        if not paths:
            raise ValueError(f"{source}: there are no slides here. Correct the path, or leave this part out.")
        self.tiles = tiles or Tiles()
        self.slides = for_all(lambda path: Slide(path, self.tiles.slide_mpp), paths)
        first = self.slides[0]
        raise_all(
            [
                ValueError(
                    f"{slide.path}: {slide.channels} channels of {slide.dtype}, but the first slide ({first.path}) has "
                    f"{first.channels} of {first.dtype}. Write `channels: 3` (or 1) to read all as colour (or grey); "
                    "slides of one task need one depth."
                )
                for slide in self.slides
                if slide.dtype != first.dtype or (channels is None and slide.channels != first.channels)
            ]
        )
        self.channels = first.channels if channels is None else channels
        for_all(lambda slide: check_channels(self.channels, slide.channels, str(slide.path)), self.slides)
        self.value_range = full_range(first.dtype, value_range, str(first.path))
        self.cut = {"tiles": asdict(self.tiles)}
        self._cut(self.slides, for_all(self.tiles.places, self.slides))
        if not len(self.owners):
            sizes = ", ".join(f"{w}x{h}" for w, h in (slide.size for slide in self.slides[:3]))
            raise ValueError(
                f"{source}: the {len(self.slides)} slides ({sizes} pixels, WxH) have no tile of {self.tiles.shape} "
                f"pixels (HxW) of {self.tiles.mpp:g} µm with a tissue share of {self.tiles.tissue}. Lower `tissue` or "
                "`size` under `tiles`."
            )

    def name(self, index: int) -> str:
        """As `Images.name`: its slide, and its corner in pixels of the slide's finest level."""
        x, y = self.places[index].tolist()
        return f"{self.slides[self.owners[index]].path}[{x},{y}]"

    def box(self, index: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the piece that a tile shows, in pixels of the slide's finest level."""
        slide = self.slides[self.owners[index]]
        level, x, y, width, height = self._piece(index)
        across, down = slide.downsamples[level].tolist()
        return x * across, y * down, (x + width) * across, (y + height) * down

    def read(self, index: int) -> NDArray[Any]:
        """The image ``(H, W, C)``; raises ValueError where it cannot be read."""
        slide = self.slides[self.owners[index]]
        image = slide.read(*self._piece(index))
        height, width = self.tiles.shape
        if image.shape[:2] != (height, width):
            enlarged = image.shape[0] < height or image.shape[1] < width
            interpolation = cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA
            image = resized(image, height, width, interpolation)
        return np.ascontiguousarray(to_channels(image, self.channels, self.name(index)))

    def sample(self, index: int) -> Sample:
        """As `Images.sample`."""
        return Sample(self.read(index), None, self.name(index))

    def _piece(self, index: int) -> tuple[int, int, int, int, int]:
        """Level, x, y, width and height to read, in whole pixels of the level.

        So a tile may be shifted by half a pixel of the level; annotations follow it, see `box`.
        """
        slide = self.slides[self.owners[index]]
        level = slide.level(self.tiles.mpp)
        downsample, limits = slide.downsamples[level], slide.sizes[level]
        wanted = np.array(self.tiles.shape[::-1]) * self.tiles.mpp / (np.array(slide.mpp) * downsample)
        extent = np.rint(wanted).clip(1, limits)
        corner = np.rint(self.places[index] / downsample).clip(0, limits - extent)
        x, y, width, height = (int(value) for value in (*corner, *extent))
        return level, x, y, width, height
