"""The detection task: cell nuclei, trained on slices of a volume and tested on an image of another microscope."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.demo.sources import SOURCES, read_tiff
from umedpt_lightning.data.demo.volume import enlarge, shrink, to_uint8, write_image
from umedpt_lightning.io.atomic import write_json

SIZE = 96  # px of every stored tile
#: Pixels of the source in a tile. A nucleus is 45 px wide in the volume and 24 px in the image: 38 and 36 when stored.
VOLUME_TILE = 114
IMAGE_TILE = 64
#: Slices of the volume in which the nuclei are in focus.
FIRST_SLICE, LAST_SLICE = 24, 43
#: Where tiles begin, in px of the volume. Train has the lower rows, val the upper ones: no nucleus reaches from row 113
#: to row 126, so none is in both. Slices cannot part them, since each nucleus goes through all of them.
TRAIN_ROWS = (126, 142)
VAL_ROWS = (0,)
COLUMNS = (0, 28, 57, 85, 114, 142)
#: Every so many slices give tiles.
TRAIN_STEP, VAL_STEP = 1, 2
#: Percentiles of a whole slice or image that are stored as 0 and 255.
PERCENTILES = (1, 99)
#: A box narrower than this, in stored px, is a sliver that the tile's border cut off.
MIN_BOX = 6.0

#: A tile: its name, its pixels (SIZE, SIZE), its boxes (N, 4) as x, y, width and height in stored px.
Tile = tuple[str, NDArray[np.uint8], NDArray[np.float64]]


def make_nuclei(folder: Path) -> None:
    """Detection: the nuclei in tiles of fluorescence images, as COCO files."""
    parts = {
        "train": _volume_tiles(TRAIN_ROWS, TRAIN_STEP),
        "val": _volume_tiles(VAL_ROWS, VAL_STEP),
        "test": _image_tiles(),
    }
    for part, tiles in parts.items():
        write_json(folder / f"{part}.json", _coco(folder / "images", tiles))


def _volume_tiles(rows: tuple[int, ...], step: int) -> Iterator[Tile]:
    volume = read_tiff(SOURCES["nuclei_volume"])  # (Z, Y, X)
    labels = read_tiff(SOURCES["nuclei_volume_labels"])
    for z in range(FIRST_SLICE, LAST_SLICE + 1, step):
        image = _normalise(volume[z])
        for top in rows:
            for left in COLUMNS:
                name = f"volume_z{z:02d}_y{top:03d}_x{left:03d}.png"
                yield _tile(name, image, labels[z], (top, left), VOLUME_TILE)


def _image_tiles() -> Iterator[Tile]:
    image = _normalise(read_tiff(SOURCES["nuclei_image"]))  # (Y, X)
    labels = read_tiff(SOURCES["nuclei_image_labels"])
    for top in range(0, image.shape[0], IMAGE_TILE):
        for left in range(0, image.shape[1], IMAGE_TILE):
            yield _tile(f"dsb2018_y{top:03d}_x{left:03d}.png", image, labels, (top, left), IMAGE_TILE)


def _normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """The darkest percent of the pixels becomes 0, the brightest 1."""
    low, high = np.percentile(image, PERCENTILES)
    return np.asarray(np.clip((image.astype(np.float32) - low) / (high - low), 0, 1), dtype=np.float32)


def _tile(name: str, image: NDArray[np.float32], labels: NDArray[Any], corner: tuple[int, int], side: int) -> Tile:
    top, left = corner
    window = (slice(top, top + side), slice(left, left + side))
    resize = shrink if side > SIZE else enlarge
    return name, to_uint8(resize(np.ascontiguousarray(image[window]), SIZE)), _boxes(labels[window]) * (SIZE / side)


def _boxes(labels: NDArray[Any]) -> NDArray[np.float64]:
    """The box around each label, ``(N, 4)`` as x, y, width and height in px of `labels`; slivers are left out."""
    boxes = []
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        boxes.append([columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1])
    found = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    wide_enough = found[:, 2:].min(axis=1) * SIZE / len(labels) >= MIN_BOX
    return np.asarray(found[wide_enough])


def _coco(folder: Path, tiles: Iterator[Tile]) -> dict[str, Any]:
    """Writes the images of `tiles` and returns what a COCO file says of them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, pixels, boxes) in enumerate(tiles, start=1):
        write_image(folder / name, pixels)
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        for x, y, width, height in np.round(boxes, 3).tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                    "area": round(width * height, 3),
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}
