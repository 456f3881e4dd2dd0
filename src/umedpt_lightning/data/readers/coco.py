"""Boxes in the JSON layout of COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.files import ImageFiles
from umedpt_lightning.data.labels import check_names
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.types import BoxArrays, BoxSpec, Sample

# Annotation tools round: a box may stick out this far (pixels) before it is an error; it is clipped.
_TOLERANCE = 1.0


class CocoBoxes(Reader):
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
        ValueError: The JSON cannot be used; the message names the annotation.
    """

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str,
        classes: list[str] | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        file = Path(annotations)
        content = _load(file)
        categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        names = check_names(categories.values() if classes is None else classes, "classes", file)
        records = content["images"]
        paths = [Path(images) / record["file_name"] for record in records]
        self._images = ImageFiles(paths, channels, value_range, file)
        self._sizes = np.array([(r["width"], r["height"]) for r in records], np.int64)  # (M, 2)

        owners, labels = _owners_and_labels(content, categories, names, file)
        boxes = _boxes(content["annotations"], self._sizes[owners], [records[i]["file_name"] for i in owners], file)
        order = np.argsort(owners, kind="stable")
        self._boxes, self._labels = boxes[order], labels[order]
        # boxes of image i are rows self._first[i] to self._first[i + 1]
        self._first = np.searchsorted(owners[order], np.arange(len(records) + 1))
        self.spec = BoxSpec(channels=self._images.channels, value_range=self._images.value_range, classes=names)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with its `BoxArrays`."""
        index = self._at(index)
        image, name = self._images.read(index)
        width, height = self._sizes[index].tolist()
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{name}: the image is {image.shape[1]}x{image.shape[0]} (WxH), but its annotations were made for "
                f"{width}x{height}. Correct the JSON, or save the image at that size and orientation."
            )
        rows = slice(self._first[index], self._first[index + 1])
        return Sample(image, BoxArrays(self._boxes[rows].copy(), self._labels[rows].copy()), name)


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The content of the file without crowd regions, checked to have the fields that are used."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file. Correct the path in the configuration.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON file ({error}). Export it again.") from error
    needed = {
        "categories": ("id", "name"),
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
    }
    for key, fields in needed.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{file}: COCO files have a list of {key}, but this one has none. Export it as COCO.")
        ids = set()
        for place, record in enumerate(content[key]):
            lacking = [field for field in fields if field not in record]
            if lacking:
                raise ValueError(f"{file}: {key}[{place}] (id {record.get('id')}) has no {lacking}. Export it as COCO.")
            ids.add(record["id"])
        if len(ids) < len(content[key]):
            raise ValueError(f"{file}: {key} share ids, so that it is not clear what belongs where. Export it again.")
    content["annotations"] = [a for a in content["annotations"] if not a.get("iscrowd")]
    return dict(content)


def _owners_and_labels(
    content: dict[str, list[dict[str, Any]]], categories: dict[int, str], names: tuple[str, ...], file: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the image ``(N,)`` and class index ``(N,)`` of each annotation."""
    row_of = {record["id"]: row for row, record in enumerate(content["images"])}
    index_of = {number: names.index(name) for number, name in categories.items() if name in names}
    annotations = content["annotations"]
    for a in annotations:
        if a["image_id"] not in row_of:
            raise ValueError(
                f"{file}: annotation {a['id']} is of image_id {a['image_id']}, which is not among the images. "
                "Remove it, or add the image."
            )
        if a["category_id"] not in index_of:
            found = categories.get(a["category_id"], "which is not among the categories")
            raise ValueError(
                f"{file}: annotation {a['id']} has category_id {a['category_id']} ({found}), but the classes are "
                f"{list(names)}. Remove it, or name its class."
            )
    owners = np.fromiter((row_of[a["image_id"]] for a in annotations), np.int64, len(annotations))
    labels = np.fromiter((index_of[a["category_id"]] for a in annotations), np.int64, len(annotations))
    return owners, labels


def _boxes(
    annotations: list[dict[str, Any]], sizes: NDArray[np.int64], names: list[str], file: Path
) -> NDArray[np.float32]:
    """``(N, 4)`` x1, y1, x2, y2, inside the images of those sizes (width, height)."""
    try:
        xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(len(annotations), 4)
    except (TypeError, ValueError) as error:
        bad = next((a for a in annotations if not isinstance(a["bbox"], list) or len(a["bbox"]) != 4), annotations[0])
        raise ValueError(
            f"{file}: the bbox of annotation {bad['id']} is {bad['bbox']}, but a box is four numbers: x, y, width, "
            "height. Correct or remove it."
        ) from error
    raw = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    limits = np.tile(sizes, 2)  # (N, 4) W, H, W, H
    boxes: NDArray[np.float32] = np.clip(raw, 0, limits).astype(np.float32)
    # NaN fails these comparisons, hence the negations
    faults = {
        "has no area inside": ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1),
        "lies outside": ~((raw >= -_TOLERANCE) & (raw <= limits + _TOLERANCE)).all(axis=1),
    }
    for what, rows in faults.items():
        for i in np.flatnonzero(rows)[:1]:
            raise ValueError(
                f"{file}: the box x, y, width, height = {xywh[i].tolist()} of annotation {annotations[i]['id']} {what} "
                f"its image {names[i]} of {sizes[i, 0]}x{sizes[i, 1]} (WxH), one of {int(rows.sum())} such boxes. "
                "Correct or remove them."
            )
    return boxes
