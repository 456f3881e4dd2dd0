"""What is written of a slide that is seen by overlapping tiles: a mask or boxes over all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.slide.slide import Slide
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.output import overlays
from umedpt_lightning.inference.output.geojson import box_features, write_geojson
from umedpt_lightning.inference.output.journal import CocoImage
from umedpt_lightning.inference.output.masks import write_tiff
from umedpt_lightning.inference.output.task_output import TaskOutput
from umedpt_lightning.inference.tiles.large import SeenSlide


def write_slide(output: TaskOutput, file: InputFile, seen: SeenSlide, mpp: float, drawn: NDArray[Any] | None) -> None:
    """A mask with pixels of `mpp` µm as pyramidal TIFF, or boxes as GeoJSON and in the COCO file; and an overlay."""
    name, spec, found, row, images = file.id, output.task.spec, seen.found, dict[str, Any](), list[CocoImage]()
    if spec.form == "objects":
        size = (seen.slide.size[1], seen.slide.size[0])
        files = [output.file(name, ".geojson")]
        write_geojson(box_features(output.confident(found), spec.names), files[0])
        images = output.coco(name, size, found, file.coco_id)
    else:
        size = found.shape
        files = [output.file(name, ".tif")]
        write_tiff(found, mpp, files[0])
        row = {"mask": output.relative(files[0]), "mpp": mpp}
        files += output.geojson(name, found, seen.scale)
    row |= output.row(found, seen.area)
    if drawn is not None:
        files.append(output.overlay(drawn, size, found, name))
    output.done(file, [row], images, files)


def thumbnail(slide: Slide) -> NDArray[Any]:
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
