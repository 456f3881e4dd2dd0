"""A metric over the fraction of labels as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from umedpt_lightning.drawing.figures import PALE, add_legend, house_style, limits, line_style, new_axes, set_log_axis
from umedpt_lightning.transfer.summary import Row, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 8.0, 4.0  # inches
#: Shares of the horizontal axis: fractions nearer to each other than that have one label.
_APART = 0.075


@house_style()
def draw_curves(rows: Sequence[Row], metric: str, baseline: float) -> Figure:
    """One line a method and mode with its 95 % interval over seeds as a band, over a logarithmic fraction.

    The vertical axis fits the means. Bands and the baseline widen it to twice that at most; a baseline (what an answer
    without an image reaches, NaN for none) is a dashed line, or is told in words where it is further away.
    """
    figure, axes = new_axes(_WIDTH, _HEIGHT)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if metric in row.metrics:
            lines.setdefault(row.line, []).append(row)
    entries, means, bands = [], [], []
    for index, (name, line) in enumerate(lines.items()):
        style, fractions = line_style(index), [row.fraction for row in line]
        middle, low, high = zip(*((i.mean, i.low, i.high) for i in (row.metrics[metric] for row in line)), strict=True)
        (drawn,) = axes.plot(fractions, middle, **style, markersize=4.5)
        axes.fill_between(fractions, low, high, color=style["color"], alpha=0.12, lw=0)
        entries.append((drawn, name))
        means += filter(math.isfinite, middle)
        bands += filter(math.isfinite, (*low, *high))
    _scale_fractions(axes, sorted({row.fraction for row in rows}))
    if means:
        lowest, highest = min(means), max(means)
        least = 0.02 * max(abs(lowest), abs(highest))  # what is all but equal should look so
        reach = max((highest - lowest) / 2, least)
        below, above = min([lowest, *bands]), max([highest, *bands])
        axes.set_ylim(limits(max(below, lowest - reach), min(above, highest + reach), least))
    _draw_baseline(axes, baseline)
    axes.set(xlabel="labels", ylabel=metric)
    add_legend(figure, entries)
    return figure


def _draw_baseline(axes: Axes, baseline: float) -> None:
    """A dashed line where the axis reaches it or nearly so; else words alone."""
    if not math.isfinite(baseline):
        return
    low, high = axes.get_ylim()
    reach = (high - low) / 2
    where = "below" if baseline < low - reach else "above" if baseline > high + reach else "dashed"
    axes.set_title(f"baseline {baseline:.3g}, {where}", loc="right", color=PALE, size="medium")
    if where == "dashed":
        axes.axhline(baseline, color=PALE, linestyle="--", linewidth=1)
        if not low < baseline < high:
            axes.set_ylim(limits(min(low, baseline), max(high, baseline)))


def _scale_fractions(axes: Axes, fractions: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each fraction, and a label where there is room."""
    set_log_axis(axes, fractions[0], fractions[-1])
    axes.minorticks_off()
    first, last = math.log(fractions[0]), math.log(fractions[-1])
    labels, room = [], math.inf
    for fraction in reversed(fractions):  # the one with all labels has its name first
        place = (math.log(fraction) - first) / (last - first) if last > first else 0.5
        fits = room - place > _APART
        labels.append(percent(fraction) if fits else "")
        room = place if fits else room
    axes.set_xticks(fractions, labels[::-1])
