"""How files are predicted: as the task was trained, unless something else is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.tiles.grid import Tiling, aligned_tiling
from umedpt_lightning.inference.tiles.receptive_field import chosen_overlap, default_overlap
from umedpt_lightning.inference.tiles.tiled import MOST_PIXELS
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import TaskSpec

T = TypeVar("T", Slices, Tiles)
#: Side of the tiles of large images, pixels: whole windows of Swin, and no more memory than an image that is not cut.
TILE = 1792


@dataclass(frozen=True)
class PredictOptions:
    """What was asked for; None as the task was trained, or as is usual.

    Attributes:
        tile: Side of the tiles that images and slides are cut into, pixels.
        overlap: Pixels that neighbouring tiles share; None what the network needs to give what the whole image would.
        exact: GroupNorm, squeeze-and-excitation and the like go by all of an image, however large.
        mpp: µm from pixel to pixel of a slide's tiles.
        pixel_size: µm from pixel to pixel of images, and of slides whose file does not say.
        axis: The planes of volumes: axial, coronal or sagittal.
        spacing: Size of their pixels, mm.
        intensity: What becomes 0 and 1 of volumes.
        min_score: Boxes with a lower score are neither counted nor drawn.
        overlays: Whether predictions are also drawn over their images.
        geojson: Whether masks and boxes of images and slides, and the tiles of slides, are also written as GeoJSON.
        dicomseg: Whether masks of DICOM series are also written as DICOM segmentations.

    Raises:
        ValueError: A number is out of range.
    """

    tile: int | None = None
    overlap: int | None = None
    exact: bool = False
    mpp: float | None = None
    pixel_size: float | None = None
    axis: Any = None
    spacing: float | None = None
    intensity: Intensity | None = None
    min_score: float = 0.3
    overlays: bool = False
    geojson: bool = False
    dicomseg: bool = False

    def __post_init__(self) -> None:
        for name in ("tile", "mpp", "pixel_size", "spacing"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, but it must be above 0.")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score is {self.min_score}, but scores are 0 to 1.")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}, but it must be 0 or more pixels.")

    def opening(self, spec: TaskSpec, size: tuple[int, int] | None = None) -> Opening:
        """How a task opens files, and resizes images to that height and width, if to any.

        Raises:
            ValueError: What the model says of its training cannot be.
        """
        trained = Opening.as_trained(spec, size)
        slices = None
        if self.axis is not None or self.spacing is not None:
            slices = _changed(trained.slices, axis=self.axis, spacing=self.spacing)
        tiles = trained.tiles or (None if self.mpp is None else Tiles())
        if tiles is not None:
            tiles = _changed(tiles, mpp=self.mpp, size=self.tile, slide_mpp=self.pixel_size)
        return Opening.as_trained(spec, size, slices, self.intensity, tiles)

    def most_at_once(self, model: MultiTaskModel, task: str) -> int | None:
        """How many pixels an image may have that is not cut into tiles; None for any number.

        A task that resizes its images sees the whole image so, as in training, unless tiles are asked for; but classes
        and numbers are always those of the whole image.
        """
        if model.sizes.get(task) is not None and (self.tile is None or model.task(task).needs == "embedding"):
            return None
        return MOST_PIXELS if self.tile is None else 0

    def tiling(self, model: MultiTaskModel, task: str, tile: int | None = None) -> Tiling:
        """How large images are cut, into tiles with the shape that the task resizes images to.

        These have about the side `tile`, pixels; None as asked for, or as is usual.
        """
        side, shown = tile or self.tile or TILE, model.sizes.get(task)
        if shown is None:
            overlap = chosen_overlap(model, task, side, self.overlap)
            return aligned_tiling(model.encoder, side, overlap)
        overlap = default_overlap(side) if self.overlap is None else self.overlap
        return Tiling((side, max(1, round(side * shown[1] / shown[0]))), overlap, whole=True)


def _changed(options: T, **asked: Any) -> T:
    """The same options but for those that are asked for, which are not None."""
    return replace(options, **{key: value for key, value in asked.items() if value is not None})
