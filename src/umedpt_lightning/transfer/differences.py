"""How far one method lies above another, with the same labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations

from umedpt_lightning.transfer.cells import Cell, Result
from umedpt_lightning.transfer.evaluation import Interval, seed_interval
from umedpt_lightning.transfer.report import html_table
from umedpt_lightning.transfer.summary import percent


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


def differences(results: Mapping[Cell, Result], main: str) -> list[Difference]:
    """Of all pairs of methods that have a mode in common, the one named later less the other: baselines come first."""
    found = []
    for mode in dict.fromkeys(cell.mode for cell in results):
        methods = dict.fromkeys(cell.method for cell in results if cell.mode == mode)
        for second, first in combinations(methods, 2):
            for fraction in sorted({cell.fraction for cell in results}):
                gaps = [
                    result.test.get(main, math.nan) - other.test.get(main, math.nan)
                    for cell, result in results.items()
                    if (cell.method, cell.mode, cell.fraction) == (first, mode, fraction)
                    and (other := results.get(Cell(second, mode, fraction, cell.seed))) is not None
                ]
                found.append(Difference(first, second, mode, fraction, seed_interval(gaps)))
    return found


def difference_table(found: Sequence[Difference], main: str) -> str:
    """HTML, a row a pair; nothing where there is none."""
    if not found:
        return ""
    fractions = sorted({difference.fraction for difference in found})
    rows: dict[tuple[str, str, str], dict[float, Interval]] = {}
    for one in found:
        rows.setdefault((one.first, one.second, one.mode), {})[one.fraction] = one.gap
    body = [
        [f"{escape(first)} &minus; {escape(second)}, {mode}", *map(_cell, gaps.values())]
        for (first, second, mode), gaps in rows.items()
    ]
    return (
        f"<h2>Differences</h2><p>{escape(main)}, seed by seed with the same labels: mean and 95 % interval (Student's "
        f"<i>t</i>). Bold where it does not hold zero.</p>{html_table(['', *map(percent, fractions)], body)}"
    )


def _cell(gap: Interval) -> str:
    if math.isnan(gap.mean):
        return ""
    if math.isnan(gap.low) or gap.low == gap.high:  # one value, whose spread over seeds is not known
        return f"{gap.mean:+.3f}"
    text = f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    return f"<b>{text}</b>" if gap.low > 0 or gap.high < 0 else text
