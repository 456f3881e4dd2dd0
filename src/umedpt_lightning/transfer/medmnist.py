"""The twelve 2-D sets of MedMNIST at each size: accuracy and AUC as the sets' own evaluator defines them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.readers import MedMNIST, MedMNISTMultilabel
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.transfer.cells import CellFolder, Mode
from umedpt_lightning.transfer.evaluation import Interval, seed_interval
from umedpt_lightning.transfer.finetune import FineTuning
from umedpt_lightning.transfer.protocol import Protocol
from umedpt_lightning.transfer.sources import WeightSource
from umedpt_lightning.transfer.sweep import Sweep

_PREFIXES = "path chest derma oct pneumonia retina breast blood tissue organa organc organs"
SETS = tuple(f"{prefix}mnist" for prefix in _PREFIXES.split())
_MULTILABEL = ("chestmnist",)
Size = Literal[28, 64, 128, 224]

#: Mean accuracy and AUC over the twelve sets, per cent: Doerrich et al., Rethinking model prototyping through the
#: MedMNIST+ dataset collection, Scientific Reports 2025, arXiv:2404.15786.
PUBLISHED = {
    ("ResNet-18, end to end", 28): (79.66, 90.92),
    ("ResNet-18, end to end", 224): (86.22, 94.51),
    ("DINO ViT-B, linear probe", 224): (85.11, 94.99),
}


@dataclass
class MedMNISTProtocol:
    """What is measured.

    Attributes:
        methods: Where weights come from, by a name for the table.
        folder: Holds the sets' files, such as ``pathmnist.npz`` (28 pixels) and ``pathmnist_224.npz``.
        sizes: Of the images, pixels: 28, 64, 128 or 224.
        modes: ``frozen`` (a linear probe), ``knn`` or ``finetune``.
        seeds: How many repetitions. Only random weights and fine-tuning differ from one to the next.
        batch_size: Images at a time.
        finetuning: How models are trained.
    """

    methods: dict[str, WeightSource]
    folder: Path
    sizes: list[Size] = field(default_factory=lambda: list[Size]((28, 64, 128, 224)))
    modes: list[Mode] = field(default_factory=lambda: list[Mode](("frozen",)))
    seeds: int = 1
    batch_size: int = 64
    finetuning: FineTuning = field(default_factory=FineTuning)


@dataclass(frozen=True)
class Entry:
    """A method in a mode on the set of a name at a size in pixels; accuracy and AUC are shares, over the seeds."""

    method: str
    mode: str
    size: int
    name: str
    accuracy: Interval
    auc: Interval


def file_of(folder: Path, name: str, size: int) -> Path:
    """The file of a set at a size, as MedMNIST names it."""
    return folder / (f"{name}.npz" if size == 28 else f"{name}_{size}.npz")


def measure(protocol: MedMNISTProtocol, cells: Path, compute: ComputeOptions, missing: list[str]) -> Iterator[Entry]:
    """Every method on every set that is there, all labels of its train part used.

    What is finished in the folder `cells` is not run again; `missing` takes the names of the files that are not there.
    """
    for size in protocol.sizes:
        for name in SETS:
            file = file_of(protocol.folder, name, size)
            if file.is_file():
                yield from _measure(protocol, file, name, size, cells / f"{name}_{size}", compute)
            else:
                missing.append(file.name)


def _measure(
    protocol: MedMNISTProtocol, file: Path, name: str, size: int, folder: Path, compute: ComputeOptions
) -> Iterator[Entry]:
    reader = MedMNISTMultilabel if name in _MULTILABEL else MedMNIST
    train, val, test = reader(file, "train"), reader(file, "val"), reader(file, "test")
    one = Protocol(
        data=TaskData(train, val, test, batch_size=protocol.batch_size),
        methods=protocol.methods,
        name=name,
        fractions=[1.0],
        seeds=protocol.seeds,
        modes=protocol.modes,
        finetuning=protocol.finetuning,
    )
    kept = CellFolder(folder)
    results = Sweep(one, kept, compute, training=repr((protocol.batch_size, protocol.finetuning))).run()
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for cell, result in results.items():
        answers = kept.answers(cell)
        if answers is None or "predictions" not in answers:  # those of earlier releases have other arrays
            raise ValueError(f"{cell}: its answers are gone from the run's folder. Delete the cell's .json file too.")
        # the area is that of the metrics, for which probabilities of 1 in float32 do not tie
        found = accuracy(answers["predictions"], answers["targets"]), result.test["auroc"]
        scores.setdefault((cell.method, cell.mode), []).append(found)
    for (method, mode), pairs in scores.items():
        accuracies, areas = zip(*pairs, strict=True)
        yield Entry(method, mode, size, name, seed_interval(accuracies), seed_interval(areas))


def accuracy(stated: NDArray[np.floating], targets: NDArray[Any]) -> float:
    """As the class ``Evaluator`` of the package `medmnist` defines it.

    Args:
        stated: Probabilities ``(N, K)`` of classes, or ``(N, L)`` of labels.
        targets: ``(N,)`` classes or ``(N, L)`` labels of 0 and 1.

    Returns:
        The share of right answers: of the largest probability; with labels, of those on the right side of one half, all
        labels together.
    """
    right = stated.argmax(1) == targets if targets.ndim == 1 else (stated > 0.5) == (targets == 1)
    return float(right.mean())


def table(entries: Sequence[Entry]) -> str:
    """Markdown: accuracy and AUC in per cent, a row a method and size, a column a set, and the mean over the sets.

    Where sets are missing the mean is over those that are there, and says so; published ones are over all twelve.
    """
    names = [name for name in SETS if any(entry.name == name for entry in entries)]
    rows = ["| method | pixels | " + " | ".join([*names, "mean"]) + " |", "| --- " * (len(names) + 3) + "|"]
    lines: dict[tuple[str, str, int], dict[str, Entry]] = {}
    for entry in entries:
        lines.setdefault((entry.method, entry.mode, entry.size), {})[entry.name] = entry
    for (method, mode, size), found in lines.items():
        scores = {name: (100 * e.accuracy.mean, 100 * e.auc.mean) for name, e in found.items()}
        means = tuple(float(np.mean([score[i] for score in scores.values()])) for i in range(2))
        over = "" if len(found) == len(SETS) else f" ({len(found)} of {len(SETS)} sets)"
        cells = [_pair(*scores[name]) if name in scores else "" for name in names]
        rows.append(f"| {method}, {mode} | {size} | {' | '.join(cells)} | {_pair(*means)}{over} |")
    sizes = {entry.size for entry in entries}
    for (method, size), pair in PUBLISHED.items():
        if size in sizes:
            rows.append(f"| published: {method} | {size} |{' |' * len(names)} {_pair(*pair)} |")
    return "\n".join(rows) + "\n"


def _pair(accuracy: float, auc: float) -> str:
    return f"{accuracy:.2f} / {auc:.2f}"


def as_csv(entries: Sequence[Entry]) -> str:
    """A line an entry."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "mode", "size", "set", "accuracy", "auc", "seeds"])
    for e in entries:
        numbers = [f"{e.accuracy.mean:.6g}", f"{e.auc.mean:.6g}", e.auc.count]
        writer.writerow([e.method, e.mode, e.size, e.name, *numbers])
    return text.getvalue()
