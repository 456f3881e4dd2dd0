"""A sweep as one HTML page that needs no other file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from umedpt_lightning.drawing.figures import as_svg
from umedpt_lightning.transfer.curve import draw_curves
from umedpt_lightning.transfer.statistics import Interval
from umedpt_lightning.transfer.summary import Row, conclusions, percent

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
    figure = draw_curves(rows, main, baseline.get(main, math.nan))
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in conclusions(rows, main))
    notes = dict.fromkeys(f"{row.line}, {percent(row.fraction)}: {note}" for row in rows for note in row.notes)
    noted = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: labels needed</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(name)}: how many labels are needed</h1>"
        f"<ul>{sentences}</ul>{as_svg(figure, f'{main} over the fraction of labels')}"
        f"<p>Test part. Lines are means over the seeds, bands their 95 % intervals (Student's t). Everything that is "
        f"free was chosen on the val part. Where all seeds have the same labels, as at 100 %, a frozen encoder has no "
        f"spread over the seeds; the interval over patients tells how sure the figure is.</p>"
        f"{_table(rows, main, baseline)}{_centres(rows, main)}{details}"
        + (f"<h2>Notes</h2><ul>{noted}</ul>" if noted else "")
        + "</body></html>\n"
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
        body.append([escape(row.line), percent(row.fraction), f"{row.labels:.0f}", *metrics, patients])
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
        body.append([escape(row.line), percent(row.fraction), _interval(row.metrics.get(main)), *both])
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
