"""What came out of a sweep: a row a method, mode and fraction, as table, CSV and JSON, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from umedpt_lightning.io.atomic import write_csv, write_json
from umedpt_lightning.transfer.cells import Cell, Result, Share, in_words
from umedpt_lightning.transfer.evaluation import Interval, seed_interval


@dataclass(frozen=True)
class Row:
    """All seeds of a method in a mode at a fraction of the labels, or with shots, as in `Cell`.

    Attributes:
        labels: Labelled samples, mean over the seeds.
        metrics: Of the test part over the seeds, by name.
        patients: The ends of the main metric's interval over patients, means over the seeds; NaN where there is none.
        notes: Of any seed, each once.
        external: The main metric at each other centre, and how far it lies above that of the test part, over the seeds.
    """

    method: str
    mode: str
    fraction: float
    labels: float
    metrics: dict[str, Interval]
    patients: tuple[float, float]
    notes: tuple[str, ...]
    external: dict[str, tuple[Interval, Interval]]
    shots: int = 0

    @property
    def share(self) -> Share:
        """As `Cell.share`."""
        return self.shots, self.fraction

    @property
    def line(self) -> str:
        """What its curve is called."""
        return f"{self.method}, {self.mode}"


def summarise(results: Mapping[Cell, Result], main: str) -> list[Row]:
    """The rows of a sweep, methods and modes in their order, fractions ascending."""
    rows = []
    for method, mode in dict.fromkeys((cell.method, cell.mode) for cell in results):
        for share in sorted({cell.share for cell in results}):
            found = [r for c, r in results.items() if (c.method, c.mode, c.share) == (method, mode, share)]
            names = dict.fromkeys(name for result in found for name in result.test)
            metrics = {name: seed_interval([result.test.get(name, math.nan) for result in found]) for name in names}
            ends = np.array([result.intervals.get(main, (math.nan, math.nan)) for result in found]).mean(0)
            notes = tuple(dict.fromkeys(note for result in found for note in result.notes))
            labels = float(np.mean([result.labels for result in found]))
            external = {}
            for centre in found[0].external:
                there = [result.external[centre].get(main, math.nan) for result in found]
                gaps = [value - result.test.get(main, math.nan) for value, result in zip(there, found, strict=True)]
                external[centre] = seed_interval(there), seed_interval(gaps)
            patients = float(ends[0]), float(ends[1])
            rows.append(Row(method, mode, share[1], labels, metrics, patients, notes, external, share[0]))
    return rows


def conclusions(rows: Sequence[Row], main: str) -> list[str]:
    """What the curves say in words: where one reaches with few labels what another reaches with all."""
    if all(math.isnan(row.metrics[main].mean) for row in rows):
        return [f"{main} is undefined on the test part, so that nothing can be compared: it lacks a class or labels."]
    lines: dict[str, list[Row]] = {}
    for row in by_kind(rows)[0]:
        lines.setdefault(row.line, []).append(row)
    sentences = []
    for ours in lines.values():
        for theirs in lines.values():
            goal = theirs[-1].metrics[main].mean
            reached = [row for row in ours if row.metrics[main].mean >= goal]
            if ours[0].method != theirs[0].method and reached and reached[0].share < theirs[-1].share:
                first = reached[0]
                of_labels = "" if first.shots else " of the labels"
                sentences.append(
                    f"{first.line}: {in_words(first.share)}{of_labels} ({first.labels:.0f}) reach {main} "
                    f"{first.metrics[main].mean:.3f}, which is at least what {theirs[-1].line} reaches with "
                    f"{in_words(theirs[-1].share)} ({goal:.3f})."
                )
    return sentences or ["No method reaches with fewer labels what another one reaches with all."]


def by_kind(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of fractions, and rows of shots; without what there is none of."""
    kinds = [[row for row in rows if bool(row.shots) == shots] for shots in (False, True)]
    return [kind for kind in kinds if kind]


@dataclass(frozen=True)
class Difference:
    """The main metric of one method less that of a second, in one mode at a fraction of the labels, over the seeds.

    A seed gives all methods the same labels, so they are compared seed by seed: how lucky the labels were falls out.
    """

    first: str
    second: str
    mode: str
    fraction: float
    gap: Interval
    shots: int = 0


def differences(results: Mapping[Cell, Result], main: str) -> list[Difference]:
    """Of all pairs of methods that have a mode in common, the one named later less the other: baselines come first."""
    found = []
    for mode in dict.fromkeys(cell.mode for cell in results):
        methods = dict.fromkeys(cell.method for cell in results if cell.mode == mode)
        for second, first in combinations(methods, 2):
            for shots, fraction in sorted({cell.share for cell in results}):
                gaps = [
                    result.test.get(main, math.nan) - other.test.get(main, math.nan)
                    for cell, result in results.items()
                    if (cell.method, cell.mode, cell.share) == (first, mode, (shots, fraction))
                    and (other := results.get(replace(cell, method=second))) is not None
                ]
                found.append(Difference(first, second, mode, fraction, seed_interval(gaps), shots))
    return found


def write_tables(
    rows: Sequence[Row], main: str, baseline: Mapping[str, float], folder: Path, gaps: Sequence[Difference] = ()
) -> None:
    """Writes ``results.csv`` (a line a row) and ``results.json`` (with the answers in words).

    `baseline` has the metrics of an answer that has seen no image, `gaps` the differences of methods.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    centres = list(dict.fromkeys(centre for row in rows for centre in row.external))
    ends += ["patients_low", "patients_high", *(f"{main} of {c}{end}" for c in centres for end in ("", ", gap"))]
    lines = []
    for row in rows:
        intervals = [row.metrics.get(name, Interval(math.nan, math.nan, math.nan, 0)) for name in names]
        numbers = [n for i in intervals for n in (i.mean, i.low, i.high)] + list(row.patients)
        numbers += [interval.mean for centre in centres for interval in row.external[centre]]
        cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
        seeds = max((interval.count for interval in intervals), default=0)
        fraction = "" if row.shots else row.fraction
        lines.append([row.method, row.mode, fraction, f"{row.labels:g}", seeds, row.shots or "", *cells])
    write_csv(folder / "results.csv", ["method", "mode", "fraction", "labels", "seeds", "shots", *ends], lines)
    content = {
        "main_metric": main,
        "answers": conclusions(rows, main),
        "baseline": dict(baseline),
        "differences": [asdict(gap) for gap in gaps],
        "rows": [asdict(row) for row in rows],
    }
    write_json(folder / "results.json", content)
