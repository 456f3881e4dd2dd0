"""A metric over the fraction of labels as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from umedpt_lightning.transfer.summary import Row, percent

# Told apart by colour-blind people too: Okabe & Ito, 2008.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
#: From a value to a place in pixels.
Scale = Callable[[float], float]
_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 50


def draw_curves(rows: Sequence[Row], metric: str, trivial: float) -> str:
    """One line a method and mode with its 95 % interval over seeds as a band, over a logarithmic fraction.

    Args:
        rows: Of the sweep.
        metric: Its name.
        trivial: What an answer without an image reaches, a dashed line; NaN for none.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if metric in row.metrics and not math.isnan(row.metrics[metric].mean):
            lines.setdefault(row.line, []).append(row)
    fractions = sorted({row.fraction for row in rows})
    values = [v for r in rows if metric in r.metrics for v in (r.metrics[metric].mean, trivial) if not math.isnan(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.05
    low, high = low - margin, high + margin
    first, last = math.log(fractions[0]), math.log(fractions[-1])

    def x(fraction: float) -> float:
        share = (math.log(fraction) - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_axes(fractions, _ticks(low, high), x, y), _text(_LEFT, 12, metric, "start")]
    if not math.isnan(trivial):
        ends = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(trivial):.1f}" y2="{y(trivial):.1f}"'
        parts.append(f'<line {ends} stroke="#888" stroke-dasharray="6 4"/>')
        parts.append(_text(_WIDTH - _RIGHT, y(trivial) - 4, "without an image", "end"))
    for index, (name, line) in enumerate(lines.items()):
        colour, place = COLOURS[index % len(COLOURS)], _HEIGHT + 16 * index
        parts += _line(line, metric, colour, x, y)
        parts.append(f'<rect x="{_LEFT}" y="{place - 9}" width="14" height="10" fill="{colour}"/>')
        parts.append(_text(_LEFT + 20, place, name, "start"))
    height = _HEIGHT + 16 * len(lines) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(metric)} over the fraction of labels">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _line(rows: Sequence[Row], metric: str, colour: str, x: Scale, y: Scale) -> list[str]:
    intervals = [(row.fraction, row.metrics[metric]) for row in rows]
    banded = [(f, i) for f, i in intervals if not math.isnan(i.low)]
    points = " ".join(f"{x(f):.1f},{y(i.mean):.1f}" for f, i in intervals)
    edge = [(f, i.high) for f, i in banded] + [(f, i.low) for f, i in reversed(banded)]
    band = " ".join(f"{x(f):.1f},{y(value):.1f}" for f, value in edge)
    dots = [f'<circle cx="{x(f):.1f}" cy="{y(i.mean):.1f}" r="3" fill="{colour}"/>' for f, i in intervals]
    return [
        f'<polygon points="{band}" fill="{colour}" fill-opacity="0.15"/>' if banded else "",
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *dots,
    ]


def _axes(fractions: Sequence[float], ticks: Sequence[float], x: Scale, y: Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in ticks:
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:.3g}", "end"))
    parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#333"/>')
    parts += [_text(x(fraction), bottom + 16, percent(fraction), "middle") for fraction in fractions]
    parts.append(_text((_LEFT + right) / 2, bottom + 36, "labels", "middle"))
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between both."""
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
