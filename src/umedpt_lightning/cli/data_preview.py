"""``umedpt data preview``: a picture a task of its samples as stored and as training sees them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from umedpt_lightning.cli.data_tasks import build, read_config, read_seed
from umedpt_lightning.cli.options import at_least, clear_errors
from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.sampling import TaskStream
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.drawing.pictures import card, panel, save, sheet, to_rgb
from umedpt_lightning.labels import Line, TaskSpec, View
from umedpt_lightning.types import Sample

_VERSIONS = 4  # of each sample: that of the first pass through the data, of the second, ...
_MOST_TOLD = 20  # faults that keep tasks from being drawn


@dataclass
class Row:
    """One sample of a contact sheet.

    Attributes:
        name: What a message calls it.
        stored: As its reader gives it; None where it cannot be read.
        versions: As training sees it, by title.
        message: What went wrong with it; empty if nothing did.
    """

    name: str
    stored: Sample | None = None
    versions: dict[str, Sample] = field(default_factory=dict)
    message: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options beside those that all of ``umedpt data`` have."""
    parser.add_argument("--out", type=Path, default=Path("preview"), help="folder of the pictures (%(default)s)")
    parser.add_argument("--samples", type=at_least(1), default=6, help="of each task, spread over it (%(default)s)")
    parser.add_argument("--task", nargs="+", action="extend", help="draw these tasks only")
    parser.add_argument("--seed", type=at_least(0), help="in place of data.seed, to see other augmentations")


def preview(options: argparse.Namespace) -> None:
    """Draws, and prints the files that were written; ends the process where some sample could not be drawn."""
    with clear_errors():
        config = read_config(options.config, options.root)
        seed = read_seed(options.config) if options.seed is None else options.seed
        for name in options.task or ():
            if name not in config:
                raise ValueError(f"--task {name}: there is no such task. The config has {', '.join(config)}.")
    if options.task:
        config = {name: config[name] for name in config if name in options.task}
    tasks, problems = build(config)
    for problem in problems[:_MOST_TOLD]:
        key = ".".join(filter(None, ["data.tasks", problem.task, problem.part]))
        where = key if problem.name.startswith(key) else f"{key}: {problem.name}"
        print(f"umedpt: {where}: {problem.what}. {problem.mend}", file=sys.stderr)
    if len(problems) > _MOST_TOLD:
        print(f"umedpt: … and {len(problems) - _MOST_TOLD} more; `umedpt data check` names all", file=sys.stderr)
    wrong = {problem.task for problem in problems}
    failed = drawn = 0
    for name, task in tasks.items():
        if task.train is None:
            if name not in wrong:
                print(f"{name}: no train part, so nothing to draw")
            continue
        if name in wrong:
            continue
        rows = _rows(name, task, task.train, options.samples, seed)
        file = options.out / (re.sub(r"[^-.\w]", "_", name) + ".png")
        save(draw_contact_sheet(rows, task.train.spec, f"{name}: {len(task.train):,} samples in train"), file)
        print(file)
        for row in rows:
            drawn += 1
            if row.message:
                failed += 1
                print(f"umedpt: {row.message}", file=sys.stderr)
    if failed or wrong:
        parts = [f"{failed} of {drawn} samples could not be drawn"] if failed else []
        parts += [f"{len(wrong)} of {len(config)} tasks could not be set up"] if wrong else []
        raise SystemExit(f"umedpt: error: {', and '.join(parts)}; see above.")


def _rows(name: str, task: TaskData, reader: Reader, samples: int, seed: int) -> list[Row]:
    """What is to be seen of some samples, spread over the reader."""
    transform = Transform(task.size, task.augment, reader.spec.value_range)
    data = MultiTaskDataset({name: reader}, {name: transform}, training=True)
    stream = TaskStream(name, len(reader), seed)
    rows = []
    for index in np.unique(np.linspace(0, len(reader) - 1, samples).round().astype(int)).tolist():
        row = Row(f"sample {index}")
        rows.append(row)
        try:
            row.stored = reader[index]
            row.name = row.stored.name
            for passed in range(_VERSIONS if task.augment else 1):
                title = f"pass {passed}" if task.augment else "resized"
                row.versions[title] = data[stream.key(passed, index)][1]
        except Exception as error:  # readers may raise anything, and the other samples are wanted too
            what = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            row.message = what if what.startswith("Task ") else f"Task {name!r}, {row.name}: {what}"
    return rows


def draw_contact_sheet(rows: Sequence[Row], spec: TaskSpec, caption: str) -> Image.Image:
    """A row a sample of one task: as stored, the same with its labels, and its versions with theirs, over a legend."""
    views: list[View] = []
    cards = [_card(row, spec, views) for row in rows]
    return sheet(cards, views, caption)


def _card(row: Row, spec: TaskSpec, views: list[View]) -> Image.Image:
    """Adds what it shows to `views`."""
    panels: dict[str, Image.Image] = {}
    lines: list[Line] = []
    if row.stored is not None:
        height, width = row.stored.image.shape[:2]
        count = f"{len(row.stored.images)} of " if len(row.stored.images) > 1 else ""
        title = f"stored: {count}{width} x {height}, {row.stored.image.dtype}"
        view = spec.truth_view(spec.prepared(row.stored.target, (height, width)))
        views.append(view)
        lines += view.lines
        if view.truth is not None:
            panels[title] = _panel(row.stored, View(), spec)
            title = "with labels"
        panels[title] = _panel(row.stored, view, spec)
    for title, sample in row.versions.items():
        view = spec.truth_view(sample.target)
        views.append(view)
        # below the row stands what is true of all; only boxes may get lost
        changed = [line.text for line in view.lines if line not in lines]
        panels[", ".join([title, *changed])] = _panel(sample, view, spec)
    if row.message:
        lines.append(Line(row.message, right=False))
    return card(panels, row.name, lines)


def _panel(sample: Sample, view: View, spec: TaskSpec) -> Image.Image:
    alike = [image for image in sample.images if image.shape == sample.image.shape]
    images = np.moveaxis(np.stack(alike), -1, 1)  # (N, C, H, W)
    pixels = to_rgb(images if len(images) > 1 else images[0], spec.value_range)
    return panel(pixels, view.truth, view.classes, filled=False)
