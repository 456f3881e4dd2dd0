"""A sweep as one HTML page that needs no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def _table(rows: Sequence[Row], main: str, baseline: Mapping[str, float]) -> str:
    names = sorted(dict.fromkeys(name for row in rows for name in row.metrics), key=lambda name: name != main)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = []
    for row in rows:
        metrics = "".join(f"<td>{_interval(row.metrics.get(name))}</td>" for name in names)
        low, high = row.patients
        patients = "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
        cells = f"<td>{escape(row.line)}</td><td>{percent(row.fraction)}</td><td>{row.labels:.0f}</td>{metrics}"
        body.append(f"<tr>{cells}<td>{patients}</td></tr>")
    seen = "".join(f"<td>{baseline[name]:.3f}</td>" if name in baseline else "<td></td>" for name in names)
    return (
        f'<div class="wide"><table><tr><th>method</th><th>of labels</th><th>labels</th>{head}'
        f"<th>{escape(main)} over patients</th></tr>{''.join(body)}"
        f"<tr><td>baseline</td><td></td><td></td>{seen}<td></td></tr></table></div>"
    )


def _centres(rows: Sequence[Row], main: str) -> str:
    """The main metric at other centres, with the gap to the test part."""
    names = list(dict.fromkeys(name for row in rows for name in row.external))
    if not names:
        return ""
    head = "".join(f"<th>{escape(name)}</th><th>gap</th>" for name in names)
    body = []
    for row in rows:
        both = "".join(f"<td>{_interval(i)}</td>" for name in names for i in row.external[name])
        inside = _interval(row.metrics.get(main))
        body.append(f"<tr><td>{escape(row.line)}</td><td>{percent(row.fraction)}</td><td>{inside}</td>{both}</tr>")
    return (
        f"<h2>Other centres</h2><p>{escape(main)} there, and how far it lies above that of the test part.</p>"
        f'<div class="wide"><table><tr><th>method</th><th>of labels</th><th>test part</th>{head}</tr>'
        f"{''.join(body)}</table></div>"
    )


def _interval(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.mean):
        return ""
    half = "" if math.isnan(interval.low) else f" ± {interval.high - interval.mean:.3f}"
    return f"{interval.mean:.3f}{half}"
