"""How long a reader of ten million rows takes to make, and what it holds, for all processes of a machine."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.processes import in_fresh_process, memory
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import ManifestClasses, Table
from umedpt_lightning.data.task_data import TaskData

_IMAGES = 1000  # a patient
_ROWS = 10_000_000


def measure(quick: bool = False) -> dict[str, float]:
    """Of a table with classes and patients, nine tenths of it for training; what 2 workers hold counts too."""
    rows = _ROWS // 10 if quick else _ROWS
    seconds, many = in_fresh_process(_held, rows)
    _, few = in_fresh_process(_held, 10 * _IMAGES)
    return {
        "tables.seconds_10_million_rows": seconds * _ROWS / rows,
        "tables.bytes_a_row": (many - few) * 2**20 / rows,
    }


def write_table(folder: Path, rows: int) -> Path:
    """A table of so many files that exist: every patient's folder is a link to the same one."""
    study = folder / "one" / "study1"
    study.mkdir(parents=True)
    first = study / f"image{0:06d}.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(first)
    for i in range(1, _IMAGES):
        os.link(first, study / f"image{i:06d}.png")
    (folder / "hospital").mkdir()
    with (folder / "table.csv").open("w") as stream:
        stream.write("path,label,patient,split\n")
        for patient in range(rows // _IMAGES):
            name = f"patient{patient:05d}"
            os.symlink(folder / "one", folder / "hospital" / name)
            rest = f"class {patient % 7},{name},{'val' if patient % 10 == 9 else 'train'}\n"
            stream.write("".join(f"hospital/{name}/study1/image{i:06d}.png,{rest}" for i in range(_IMAGES)))
    return folder / "table.csv"


def _held(rows: int) -> tuple[float, float]:
    """Seconds of CPU time until both parts are there, and the growth of memory in MiB when two workers read them."""
    with tempfile.TemporaryDirectory() as folder:
        table = Table(write_table(Path(folder), rows), group="patient")
        before, started = memory(), time.process_time()
        parts = {part: ManifestClasses(table, part) for part in ("train", "val")}
        seconds = time.process_time() - started
        data = MultiTaskDataModule({"t": TaskData(**parts, batch_size=8)}, num_workers=2, steps_per_epoch=4)
        loader = data.train_dataloader()
        for batches in loader:
            for _ in batches:
                pass
        grown = memory() - before
        loader.close()
        return seconds, grown
