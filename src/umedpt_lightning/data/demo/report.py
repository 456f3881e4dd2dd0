"""What a demo folder holds."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from umedpt_lightning.data.demo.brain import STRUCTURES, TISSUES

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Part:
    """One part of one task.

    Attributes:
        task: The task's name, which is its folder's.
        kind: The kind of label.
        split: ``train``, ``val`` or ``test``.
        images: Number of images.
        counts: Images of each class or with each label, pixels of each class, boxes of each class; for a regression
            its smallest and largest value, rounded.
    """

    task: str
    kind: str
    split: str
    images: int
    counts: dict[str, int]


def describe(folder: Path) -> list[Part]:
    """The parts of all tasks in a demo folder.

    Raises:
        FileNotFoundError: `folder` was not made by `prepare`.
    """
    parts = []
    for split in SPLITS:
        parts += [
            _tissue(folder, split),
            _plane(folder, split),
            _structures(folder, split),
            _position(folder, split),
            _nuclei(folder, split),
        ]
    return sorted(parts, key=lambda part: (part.task, SPLITS.index(part.split)))


def _tissue(folder: Path, split: str) -> Part:
    masks = sorted((folder / "brain_tissue" / split / "masks").glob("*.png"))
    if not masks:
        raise FileNotFoundError(f"There are no masks of brain_tissue in {folder}. Make the demo data with prepare().")
    values = np.concatenate([np.asarray(Image.open(mask)).ravel() for mask in masks])
    pixels = np.bincount(values, minlength=len(TISSUES)).tolist()
    return Part("brain_tissue", "segmentation", split, len(masks), dict(zip(TISSUES, pixels, strict=True)))


def _plane(folder: Path, split: str) -> Part:
    rows = _rows(folder / "slice_plane", split)
    counts = Counter(row["label"] for row in rows)
    return Part("slice_plane", "classification", split, len(rows), dict(sorted(counts.items())))


def _structures(folder: Path, split: str) -> Part:
    rows = _rows(folder / "brain_structures", split)
    counts = {name: sum(row[name] == "1" for row in rows) for name in STRUCTURES}
    return Part("brain_structures", "multilabel", split, len(rows), counts)


def _position(folder: Path, split: str) -> Part:
    rows = _rows(folder / "axial_position", split)
    heights = [float(row["z"]) for row in rows]
    counts = {"z_min_mm": round(min(heights)), "z_max_mm": round(max(heights))}
    return Part("axial_position", "regression", split, len(rows), counts)


def _nuclei(folder: Path, split: str) -> Part:
    content = json.loads((folder / "nuclei" / f"{split}.json").read_text(encoding="utf-8"))
    counts = {"nucleus": len(content["annotations"])}
    return Part("nuclei", "detection", split, len(content["images"]), counts)


def _rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]
