"""Making the demo folder once, whole or not at all, and what it holds."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from umedpt_lightning.data.cache.unpacked import cache_folder
from umedpt_lightning.data.demo.brain import (
    STRUCTURES,
    TISSUES,
    make_axial_position,
    make_brain_structures,
    make_brain_tissue,
    make_slice_plane,
)
from umedpt_lightning.data.demo.nuclei import make_nuclei
from umedpt_lightning.data.demo.sources import SOURCES, locate
from umedpt_lightning.data.demo.volume import load_ct, load_mri

#: The file that says which recipe made a folder. A change of what is written needs a new number.
STAMP = "RECIPE"
RECIPE = "umedpt demo data, recipe 3\n"

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


def default_folder() -> Path:
    """``$UMEDPT_CACHE/demo``, or ``umedpt/demo`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    return cache_folder("demo")


def prepare(folder: Path | None = None) -> Path:
    """The folder of the demo data, absolute, made if it is absent or of an older recipe.

    It is built beside its place and moved there when it is complete, so a folder that exists is a finished one, also
    when several processes prepare it at once. None stands for `default_folder`.

    Raises:
        FileNotFoundError: A package that ships the data is missing; the message has the command that installs it.
        ValueError: `folder` holds something else, which is not overwritten.
    """
    folder = (folder or default_folder()).expanduser().absolute()
    if _is_finished(folder):
        return folder
    if folder.exists() and not (folder / STAMP).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} exists and was not made by this function (it has no file {STAMP}), so it is left as it is. "
            "Name another folder, or remove this one."
        )
    for source in SOURCES.values():
        locate(source)  # says in an instant that a package is missing
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        built = Path(scratch) / "new"
        built.mkdir()
        _build(built)
        (built / STAMP).write_text(RECIPE, encoding="utf-8")
        _publish(built, folder, old=Path(scratch) / "old")
    return folder


def _build(folder: Path) -> None:
    mri, ct = load_mri(), load_ct()
    make_brain_tissue(folder / "brain_tissue", mri)
    make_slice_plane(folder / "slice_plane", [mri, ct])
    make_brain_structures(folder / "brain_structures", [mri, ct])
    make_axial_position(folder / "axial_position", mri)
    make_nuclei(folder / "nuclei")


def _publish(built: Path, folder: Path, old: Path) -> None:
    """Moves `built` to its place, unless another process was quicker; both have made the same."""
    if _is_finished(folder):
        return
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)  # an older recipe or an empty folder; it goes with the scratch folder
    try:
        built.rename(folder)
    except OSError:
        if not _is_finished(folder):
            raise


def _is_finished(folder: Path) -> bool:
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == RECIPE


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
