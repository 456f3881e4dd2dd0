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
        counts: Images of each class or with each label, pixels of each class, boxes of each class; for a regression
            its smallest and largest value, rounded.
    """

    task: str
    kind: str
    split: str
    images: int
    counts: dict[str, int]


def describe(folder: Path) -> list[Part]:
    """The parts of all tasks in a demo folder; raises FileNotFoundError where it was not made by `prepare`."""
    parts = []
    for split in SPLITS:
        masks = sorted((folder / "brain_tissue" / split / "masks").glob("*.png"))
        if not masks:
            raise FileNotFoundError(f"{folder}: there are no masks of brain_tissue. Make the demo data with prepare().")
        values = np.concatenate([np.asarray(Image.open(mask)).ravel() for mask in masks])
        pixels = np.bincount(values, minlength=len(TISSUES)).tolist()
        parts.append(Part("brain_tissue", "segmentation", split, len(masks), dict(zip(TISSUES, pixels, strict=True))))

        rows = _rows(folder / "slice_plane", split)
        planes = Counter(row["label"] for row in rows)
        parts.append(Part("slice_plane", "classification", split, len(rows), dict(sorted(planes.items()))))

        rows = _rows(folder / "brain_structures", split)
        shown = {name: sum(row[name] == "1" for row in rows) for name in STRUCTURES}
        parts.append(Part("brain_structures", "multilabel", split, len(rows), shown))

        rows = _rows(folder / "axial_position", split)
        heights = [float(row["z"]) for row in rows]
        ends = {"z_min_mm": round(min(heights)), "z_max_mm": round(max(heights))}
        parts.append(Part("axial_position", "regression", split, len(rows), ends))

        content = json.loads((folder / "nuclei" / f"{split}.json").read_text(encoding="utf-8"))
        boxes = {"nucleus": len(content["annotations"])}
        parts.append(Part("nuclei", "detection", split, len(content["images"]), boxes))
    return sorted(parts, key=lambda part: (part.task, SPLITS.index(part.split)))


def _rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]
