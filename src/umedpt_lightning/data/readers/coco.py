"""Boxes and masks in the JSON layout of COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.box_table import BoxTable, check_size, clip_boxes
from umedpt_lightning.data.formats.coco_file import CocoFile, Outlines, is_crowd, outline_fault
from umedpt_lightning.data.formats.faults import Collector
from umedpt_lightning.data.formats.files import ImageFiles
from umedpt_lightning.data.formats.labels import check_names
from umedpt_lightning.data.readers.base import ListedReader
from umedpt_lightning.types import IGNORE_INDEX, BoxSpec, MaskSpec, SampleTarget


class CocoBoxes(ListedReader):
    """Any number of boxes an image, from a COCO JSON file; images without annotations have none.

    Crowd regions are dropped: they are not one object.

    Args:
        images: Folder that the file names of the JSON are relative to.
        annotations: The JSON file, with ``images``, ``annotations`` and ``categories``.
        classes: Category names in the order of the indices; None for all in the order of their ids.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.

    Raises:
        FileNotFoundError: The JSON or images are missing.
        ValueError: The JSON cannot be used; the message names the annotations.
    """

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str,
        classes: list[str | int] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._file = file = Path(annotations)
        faults = Collector()
        coco = CocoFile(file, "bbox", _fault, classes, crowds=False, faults=faults)
        with faults:
            self._images = ImageFiles(coco.paths(images), channels, value_range, file)
        xywh = np.array([a["bbox"] for a in coco.annotations], np.float64).reshape(-1, 4)

        def tell(i: int) -> tuple[str, str]:
            box = f"the box x, y, width, height = {xywh[i].tolist()} of annotation {coco.annotations[i]['id']}"
            return f"{file}: {box}", coco.images[coco.owners[i]]["file_name"]

        with faults:
            corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            boxes = clip_boxes(corners, coco.owners, coco.sizes, tell)
        faults.raise_found()
        self._boxes = BoxTable(boxes, coco.labels, coco.owners, coco.sizes)
        self.spec = BoxSpec(**self._images.facts, classes=coco.names, category_ids=coco.category_ids)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return self._boxes.read(index, image, name)


class CocoMasks(ListedReader):
    """One class a pixel, painted from the outlines (polygons or run lengths) of objects in a COCO JSON file.

    Where objects overlap, the smaller one is on top: a nucleus is not hidden by its cell. Crowd regions are unlabelled
    where no object lies on them. What no outline covers is background, all of an image without annotations too.

    Args:
        images: As for `CocoBoxes`.
        annotations: As for `CocoBoxes`.
        classes: Category names in the order of the indices, which follow the background's; None for all in the order of
            their ids.
        background: Name of the first class.
        channels: As for `CocoBoxes`.
        value_range: As for `CocoBoxes`.

    Raises what `CocoBoxes` does.
    """

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str,
        classes: list[str | int] | None = None,
        background: str = "background",
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self._file = file = Path(annotations)
        faults = Collector()
        coco = CocoFile(file, "segmentation", outline_fault, classes, crowds=True, faults=faults)
        names = check_names((background, *coco.names), "background and classes", file)
        with faults:
            self._images = ImageFiles(coco.paths(images), channels, value_range, file)
        faults.raise_found()
        self._outlines = Outlines(coco.annotations, file)
        self._crowd = np.array([is_crowd(a) for a in coco.annotations], bool)
        self._values = np.where(self._crowd, IGNORE_INDEX, coco.labels + 1).astype(np.int16)  # (N,)
        self._owners = coco.owners
        self._sizes = coco.sizes
        self.spec = MaskSpec(**self._images.facts, classes=names)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        check_size(image, self._sizes[index], name)
        mask = np.zeros(image.shape[:2], np.int16)
        for crowd in (True, False):  # objects on top of crowds
            chosen = np.flatnonzero((self._owners == index) & (self._crowd == crowd))
            self._outlines.paint(mask, chosen, self._values[chosen])
        return mask


def _fault(bbox: Any, width: int, height: int) -> str:
    try:
        sound = np.array(bbox, np.float64).shape == (4,) and None not in bbox  # which would become NaN
    except (TypeError, ValueError):
        sound = False
    return "" if sound else f"is {bbox}, but a box is four numbers: x, y, width, height. Correct or remove it."
