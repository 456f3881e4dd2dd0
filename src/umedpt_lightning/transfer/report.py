"""A sweep as one HTML page that needs no other file, with a metric over the labels as a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from umedpt_lightning.drawing.figures import (
    PALE,
    add_legend,
    as_svg,
    house_style,
    limits,
    line_style,
    new_axes,
    set_log_axis,
)
from umedpt_lightning.transfer.cells import Share, in_words
from umedpt_lightning.transfer.evaluation import Interval
from umedpt_lightning.transfer.summary import Difference, Row, by_kind, conclusions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 8.0, 4.0  # inches
#: Shares of the horizontal axis: fractions nearer to each other than that have one label.
_APART = 0.075
_STYLE = """
body { font-family: sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #333; } td:first-child, th:first-child { text-align: left; }
tr:hover { background: #f3f3f3; } svg { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; font-size: 0.8rem; text-align: center; }
"""


def write_page(name: str, rows: Sequence[Row], main: str, baseline: Mapping[str, float], details: str = "") -> str:
    """The page.

    Args:
        name: The task's name.
        rows: Of the sweep.
        main: The task's main metric.
        baseline: The metrics of an answer that has seen no image.
        details: More of it, as HTML.
    """
    base = baseline.get(main, math.nan)
    figures = "".join(as_svg(draw_curves(kind, main, base), f"{main} over the labels") for kind in by_kind(rows))
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in conclusions(rows, main))
    notes = dict.fromkeys(f"{row.line}, {in_words(row.share)}: {note}" for row in rows for note in row.notes)
    noted = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: labels needed</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(name)}: how many labels are needed</h1>"
        f"<ul>{sentences}</ul>{figures}<p>Test part. Lines are means over the seeds, bands their 95 % intervals "
        f"(Student's t). Everything that is free was chosen on the val part, with as many shots of it as of the train "
        f"part. Where all seeds have the same labels, as at 100 %, a frozen encoder has no spread over the seeds; the "
        f"interval over patients tells how sure the figure is.</p>"
        f"{_table(rows, main, baseline)}{_centres(rows, main)}{details}"
        + (f"<h2>Notes</h2><ul>{noted}</ul>" if noted else "")
        + "</body></html>\n"
    )


@house_style()
def draw_curves(rows: Sequence[Row], metric: str, baseline: float) -> Figure:
    """One line a method and mode with its 95 % interval over seeds as a band, over the labels, logarithmic.

    All rows are of fractions, or all of shots.

    The vertical axis fits the means. Bands and the baseline widen it to twice that at most; a baseline (what an answer
    without an image reaches, NaN for none) is a dashed line, or is told in words where it is further away.
    """
    figure, axes = new_axes(_WIDTH, _HEIGHT)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if metric in row.metrics:
            lines.setdefault(row.line, []).append(row)
    entries, means, bands = [], list[float](), list[float]()
    for index, (name, line) in enumerate(lines.items()):
        style, fractions = line_style(index), [sum(row.share) for row in line]
        middle, low, high = zip(*((i.mean, i.low, i.high) for i in (row.metrics[metric] for row in line)), strict=True)
        (drawn,) = axes.plot(fractions, middle, **style, markersize=4.5)
        axes.fill_between(fractions, low, high, color=style["color"], alpha=0.12, lw=0)
        entries.append((drawn, name))
        means += filter(math.isfinite, middle)
        bands += filter(math.isfinite, (*low, *high))
    _scale_labels(axes, sorted({row.share for row in rows}))
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


def difference_table(found: Sequence[Difference], main: str) -> str:
    """HTML, a row a pair; nothing where there is none."""
    if not found:
        return ""
    shares = sorted({(difference.shots, difference.fraction) for difference in found})
    rows: dict[tuple[str, str, str], dict[Share, Interval]] = {}
    for one in found:
        rows.setdefault((one.first, one.second, one.mode), {})[one.shots, one.fraction] = one.gap
    body = [
        [f"{escape(first)} &minus; {escape(second)}, {mode}", *map(_cell, gaps.values())]
        for (first, second, mode), gaps in rows.items()
    ]
    return (
        f"<h2>Differences</h2><p>{escape(main)}, seed by seed with the same labels: mean and 95 % interval (Student's "
        f"<i>t</i>). Bold where it does not hold zero.</p>{html_table(['', *map(in_words, shares)], body)}"
    )


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML, with or without ``<td>``."""
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) for row in rows]
    return f'<div class="wide"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _table(rows: Sequence[Row], main: str, baseline: Mapping[str, float]) -> str:
    names = sorted(dict.fromkeys(name for row in rows for name in row.metrics), key=lambda name: name != main)
    body = []
    for row in rows:
        low, high = row.patients
        patients = "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
        metrics = [_interval(row.metrics.get(name)) for name in names]
        body.append([escape(row.line), in_words(row.share), f"{row.labels:.0f}", *metrics, patients])
    seen = [f"{baseline[name]:.3f}" if name in baseline else "" for name in names]
    head = ["method", "of labels", "labels", *map(escape, names), f"{escape(main)} over patients"]
    return html_table(head, [*body, ["baseline", "", "", *seen, ""]])


def _centres(rows: Sequence[Row], main: str) -> str:
    """The main metric at other centres, with the gap to the test part."""
    names = list(dict.fromkeys(name for row in rows for name in row.external))
    if not names:
        return ""
    body = []
    for row in rows:
        both = [_interval(interval) for name in names for interval in row.external[name]]
        body.append([escape(row.line), in_words(row.share), _interval(row.metrics.get(main)), *both])
    head = [title for name in names for title in (escape(name), "gap")]
    return (
        f"<h2>Other centres</h2><p>{escape(main)} there, and how far it lies above that of the test part.</p>"
        f"{html_table(['method', 'of labels', 'test part', *head], body)}"
    )


def _interval(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.mean):
        return ""
    half = "" if math.isnan(interval.low) else f" ± {interval.high - interval.mean:.3f}"
    return f"{interval.mean:.3f}{half}"


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


def _scale_labels(axes: Axes, shares: Sequence[Share]) -> None:
    """A logarithmic axis with a tick at each share, and a label where there is room."""
    fractions = [sum(share) for share in shares]
    set_log_axis(axes, fractions[0], fractions[-1])
    axes.minorticks_off()
    first, last = math.log(fractions[0]), math.log(fractions[-1])
    labels, room = [], math.inf
    for share in reversed(shares):  # the one with all labels has its name first
        place = (math.log(sum(share)) - first) / (last - first) if last > first else 0.5
        fits = room - place > _APART
        labels.append(in_words(share) if fits else "")
        room = place if fits else room
    axes.set_xticks(fractions, labels[::-1])


def _cell(gap: Interval) -> str:
    if math.isnan(gap.mean):
        return ""
    if math.isnan(gap.low):  # one value, whose spread over seeds is not known
        return f"{gap.mean:+.3f}"
    text = f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    return f"<b>{text}</b>" if gap.low > 0 or gap.high < 0 else text
