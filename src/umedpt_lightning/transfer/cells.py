"""The cells of a sweep: one method, mode, fraction and seed each; finished ones are kept as files."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.io.atomic import atomic_write, write_json

Mode = Literal["frozen", "knn", "finetune", "lora"]
#: Those in which the encoder learns.
TRAINED: tuple[Mode, ...] = ("finetune", "lora")


#: How many labels: shots and fraction, one of which is 0.
Share = tuple[int, float]


def in_words(share: Share) -> str:
    """A share as people say it: ``10 %``, or ``16 shots``."""
    shots, fraction = share
    return f"{shots} shot{'s' * (shots > 1)}" if shots else f"{fraction * 100:g} %"


def largest(cells: Iterable[Cell]) -> list[Cell]:
    """Those with the most labels: of the largest fraction, or the most shots where there are no fractions."""
    found = list(cells)
    most = max((cell.fraction, cell.shots) for cell in found)
    return [cell for cell in found if (cell.fraction, cell.shots) == most]


@dataclass(frozen=True)
class Cell:
    """What is measured once: a method (source of weights) in a mode with a fraction of the labels, or with shots.

    The seed chooses these, and what else is random. Shots are samples, of each class where there are classes; one of
    fraction and shots is 0.
    """

    method: str
    mode: Mode
    fraction: float
    seed: int
    shots: int = 0

    @property
    def share(self) -> Share:
        """How many labels, in the order of reports: fractions before shots."""
        return self.shots, self.fraction

    def __str__(self) -> str:
        return f"{self.method} {self.mode} {in_words(self.share)} seed {self.seed}"


@dataclass
class Result:
    """What came out of a cell.

    Attributes:
        labels: Labelled samples.
        options: What was chosen on the val part.
        val: Metrics of the val part.
        test: Metrics of the test part.
        intervals: 95 % intervals of the test metrics over patients.
        notes: What is not as one might expect.
        external: Metrics of each other centre, by its name.
        seconds: How long it took, embeddings left out.
    """

    labels: int
    options: dict[str, float]
    val: dict[str, float]
    test: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    external: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0


class CellFolder:
    """Finished cells in a folder, a JSON file each; answers for the test part lie beside as ``.npz``.

    A cell belongs to a key: to the weights, the data and the options that it came from. One with another key counts as
    not finished.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, cell: Cell, key: str) -> Result | None:
        """The result of a finished cell."""
        try:
            content = json.loads(self._file(cell, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if content.pop("key", None) != key:
            return None
        del content["cell"]
        return Result(**_nan_for_null(content))

    def write(self, cell: Cell, key: str, result: Result, answers: Mapping[str, NDArray[Any]]) -> None:
        """Keeps a finished cell, with the answers for the test part; whoever finds its file finds all of it."""
        with atomic_write(self._file(cell, ".npz")) as unfinished:
            np.savez_compressed(unfinished, **dict[str, Any](answers))
        write_json(self._file(cell, ".json"), {"key": key, "cell": asdict(cell), **asdict(result)})

    @contextmanager
    def claim(self, cell: Cell, wait: bool) -> Iterator[bool]:
        """Keeps other processes that work on the same folder from a cell, as long as this one lives.

        Yields:
            Whether it is this one's now; always, after a while, where it should `wait`.
        """
        file = self._file(cell, ".lock")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as lock:  # the system takes the lock back when the file is closed, however that happens
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def answers(self, cell: Cell) -> dict[str, NDArray[Any]] | None:
        """What `Answers.arrays` gave for the test part of a finished cell; None where the file is gone."""
        try:
            with np.load(self._file(cell, ".npz"), allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            return None

    def _file(self, cell: Cell, suffix: str) -> Path:
        share = f"{cell.shots}shots" if cell.shots else f"{cell.fraction:g}"
        return self._folder / cell.method / cell.mode / f"{share}_{cell.seed}{suffix}"


def _nan_for_null(value: Any) -> Any:
    """The same value with NaN for None in it, which JSON had in its place."""
    match value:
        case dict():
            return {key: _nan_for_null(item) for key, item in value.items()}
        case list():
            return [_nan_for_null(item) for item in value]
    return math.nan if value is None else value


def grid(
    modes: Mapping[str, list[Mode]], fractions: Sequence[float], seeds: int, shots: Sequence[int] = ()
) -> Iterator[Cell]:
    """All cells, those that share a model one after the other, of each method with its modes."""
    for method in modes:
        for seed in range(seeds):
            for number, fraction in [*((0, fraction) for fraction in fractions), *((number, 0.0) for number in shots)]:
                yield from (Cell(method, mode, fraction, seed, number) for mode in modes[method])
