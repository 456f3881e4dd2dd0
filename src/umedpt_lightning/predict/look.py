"""How inputs are looked at: as the task was trained, unless something else is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from umedpt_lightning.data.inputs.trained import trained_intensity, trained_slices, trained_tiles
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.predict.grid import Tiling, aligned_tiling
from umedpt_lightning.predict.receptive_field import default_overlap, needed_overlap
from umedpt_lightning.predict.tiled import MOST_PIXELS
from umedpt_lightning.types import TaskSpec

#: Side of the tiles of large images, pixels: whole windows of Swin, and no more memory than an image that is not cut.
TILE = 1792


@dataclass(frozen=True)
class Look:
    """What was asked for; None as the task was trained, or as is usual.

    Attributes:
        batch_size: Images of one size at a time.
        tile: Side of the tiles that images and slides are cut into, pixels.
        overlap: Pixels that neighbouring tiles share; None what the network needs to give what the whole image would.
        exact: GroupNorm, squeeze-and-excitation and the like go by all of an image, however large.
        mpp: µm from pixel to pixel of a slide's tiles.
        pixel_size: µm from pixel to pixel of images, and of slides whose file does not say.
        axis: The planes of volumes: axial, coronal or sagittal.
        spacing: Size of their pixels, mm.
        intensity: What becomes 0 and 1 of volumes.
    """

    batch_size: int = 8
    tile: int | None = None
    overlap: int | None = None
    exact: bool = False
    mpp: float | None = None
    pixel_size: float | None = None
    axis: Any = None
    spacing: float | None = None
    intensity: Intensity | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "tile", "mpp", "pixel_size", "spacing"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, but it must be above 0.")
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}, but it must be 0 or more pixels.")

    def slices(self, spec: TaskSpec) -> Slices:
        """How volumes are cut: every slice."""
        asked: dict[str, Any] = {"axis": self.axis, "spacing": self.spacing}
        return replace(trained_slices(spec), **{key: value for key, value in asked.items() if value is not None})

    def intensities(self, spec: TaskSpec) -> Intensity | None:
        """What becomes 0 and 1 of volumes; None keeps the stored intensities."""
        return self.intensity if self.intensity is not None else trained_intensity(spec)

    def tiles(self, spec: TaskSpec, task: str) -> Tiles:
        """How slides are cut.

        Raises:
            ValueError: It is not known.
        """
        if not spec.cut.get("tiles") and self.mpp is None:
            raise ValueError(
                f"Task {task!r} was not trained on slides, so that it is not known how large its pixels are. Say it "
                "with --mpp, in µm."
            )
        return trained_tiles(spec, mpp=self.mpp, size=self.tile, slide_mpp=self.pixel_size)

    def tiling(self, model: MultiTaskModel, task: str, size: tuple[int, int]) -> Tiling | None:
        """How an image of that height and width is cut; None where it is seen whole.

        A task that resizes its images sees the whole image so, as in training, unless tiles are asked for; but classes
        and numbers are always those of the whole image.
        """
        shown = model.sizes.get(task)
        if shown is not None and (self.tile is None or model.task(task).needs == "embedding"):
            return None
        if shown is None and self.tile is None and size[0] * size[1] <= MOST_PIXELS:
            return None
        return self.tiling_of(model, task, self.tile or TILE)

    def tiling_of(self, model: MultiTaskModel, task: str, tile: int) -> Tiling:
        """Tiles of about that height and width, pixels; of the shape that the task resizes images to."""
        shown = model.sizes.get(task)
        if shown is None:
            overlap = needed_overlap(model, task, tile) if self.overlap is None else self.overlap
            return aligned_tiling(model.encoder, tile, overlap)
        overlap = default_overlap(tile) if self.overlap is None else self.overlap
        return Tiling((tile, max(1, round(tile * shown[1] / shown[0]))), overlap, whole=True)
