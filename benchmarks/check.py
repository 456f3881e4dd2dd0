"""How fast `umedpt data check` reads JPEGs, against a loop that only decodes them with as many processes."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import seconds
from umedpt_lightning.data.check import check
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData


def measure(quick: bool = False) -> dict[str, float]:
    """How fast the data check reads."""
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 300, classes=1)
        return rate(Path(folder) / "class0", **({"images": 600, "runs": 2} if quick else {}))


def rate(jpegs: Path, images: int = 3000, runs: int = 5, processes: int | None = None) -> dict[str, float]:
    """Images a second of the check over those of the bare loop, interleaved, the median of several runs.

    Args:
        jpegs: A folder of JPEGs; where there are fewer than `images`, shifted copies are made of them, since
            copies with equal pixels would be reported.
        images: How many are read.
        runs: Pairs of runs.
        processes: Processes of each side; None for the number of cores.

    Returns:
        By CPU time (which other programs on the machine do not disturb) and by the clock.
    """
    processes = processes or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        files = _make(jpegs, images, Path(folder) / "image")
        task = TaskData(train=ClassFolders(folder))
        sides: list[Callable[[], object]] = [
            lambda: check({"jpegs": task}, processes),
            lambda: _decode_all(files, processes),
        ]
        ratios = []
        for run in range(runs + 1):
            took = [seconds(side) for side in sides]
            if run:  # the first fills the file cache
                ratios.append([bare / checked for checked, bare in zip(*took, strict=True)])
    by_cpu, by_clock = (statistics.median(column) for column in zip(*ratios, strict=True))
    return {"check.rate_over_bare_decode": round(by_cpu, 3), "check.rate_over_bare_decode_clock": round(by_clock, 3)}


def _make(jpegs: Path, images: int, folder: Path) -> list[Path]:
    folder.mkdir()
    sources = sorted(jpegs.glob("*.jpg"))
    files = [folder / f"{i}.jpg" for i in range(images)]
    for i, file in enumerate(files):
        shift, source = divmod(i, len(sources))
        if not shift:
            file.write_bytes(sources[source].read_bytes())
            continue
        with Image.open(sources[source]) as image:
            Image.fromarray(np.roll(np.asarray(image), 8 * shift, axis=1)).save(file, quality=90)
    return files


def _decode_all(files: Sequence[Path], processes: int) -> None:
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for _ in pool.imap_unordered(_decode, files, chunksize=64):
            pass


def _decode(file: Path) -> None:
    with Image.open(file) as image:
        np.array(image)  # writable, as a training needs it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jpegs", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(rate(options.jpegs, options.images, options.runs)))


if __name__ == "__main__":
    main()
