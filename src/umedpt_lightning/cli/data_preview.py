"""``umedpt data preview``: a picture a task of its samples as stored and as training sees them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from umedpt_lightning.callbacks.contact_sheet import Row, draw_contact_sheet
from umedpt_lightning.cli.data_tasks import build, read_config, read_seed
from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.sampling import TaskStream
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.drawing.pictures import save

_VERSIONS = 4  # of each sample: that of the first pass through the data, of the second, ...
_MOST_TOLD = 20  # faults that keep tasks from being drawn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options beside those that all of ``umedpt data`` have."""
    parser.add_argument("--out", type=Path, default=Path("preview"), help="folder of the pictures (%(default)s)")
    parser.add_argument("--samples", type=_count, default=6, help="of each task, spread over it (%(default)s)")
    parser.add_argument("--task", nargs="+", action="extend", help="draw these tasks only")
    parser.add_argument("--seed", type=_seed, help="in place of data.seed, to see other augmentations")


def preview(options: argparse.Namespace) -> None:
    """Draws, and prints the files that were written.

    Raises:
        SystemExit: The config cannot be used, or some sample could not be drawn.
    """
    try:
        config = read_config(options.config, options.root)
        seed = read_seed(options.config) if options.seed is None else options.seed
        _check_names(options.task or [], config)
    except (ValueError, OSError) as error:
        raise SystemExit(f"umedpt: error: {error}") from error
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
        save(draw_contact_sheet(rows, task.train.spec, _caption(name, task.train)), file)
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


def _caption(name: str, reader: Reader) -> str:
    return f"{name}: {len(reader):,} samples in train"


def _check_names(wanted: list[str], known: Mapping[str, object]) -> None:
    for name in wanted:
        if name not in known:
            raise ValueError(f"--task {name}: there is no such task. The config has {', '.join(known)}.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)
