"""A metric over the fraction of labels as a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from umedpt_lightning.transfer.shapes import Area, Dot, Figure, Polyline, Segment, Shape, Text
from umedpt_lightning.transfer.summary import Row, percent

# Told apart by colour-blind people too: Okabe & Ito, 2008.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
#: From a value to a place in pixels.
Scale = Callable[[float], float]
_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 50


def draw_curves(rows: Sequence[Row], metric: str, baseline: float) -> Figure:
    """One line a method and mode with its 95 % interval over seeds as a band, over a logarithmic fraction.

    Args:
        rows: Of the sweep.
        metric: Its name.
        baseline: What an answer without an image reaches, a dashed line; NaN for none.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if metric in row.metrics and not math.isnan(row.metrics[metric].mean):
            lines.setdefault(row.line, []).append(row)
    fractions = sorted({row.fraction for row in rows})
    values = [v for r in rows if metric in r.metrics for v in (r.metrics[metric].mean, baseline) if not math.isnan(v)]
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

    shapes = [*_axes(fractions, _ticks(low, high), x, y), Text((_LEFT, 12), metric)]
    if not math.isnan(baseline):
        shapes.append(Segment((_LEFT, y(baseline)), (_WIDTH - _RIGHT, y(baseline)), "#888888", dashed=True))
        shapes.append(Text((_WIDTH - _RIGHT, y(baseline) - 4), "without an image", "end"))
    for index, (name, line) in enumerate(lines.items()):
        colour, place = COLOURS[index % len(COLOURS)], _HEIGHT + 16 * index
        shapes += _line(line, metric, colour, x, y)
        corners = [(_LEFT + dx, place + dy) for dx, dy in ((0, -9), (14, -9), (14, 1), (0, 1))]
        shapes += [Area(corners, colour), Text((_LEFT + 20, place), name)]
    height = _HEIGHT + 16 * len(lines) + 8
    return Figure(shapes, (_WIDTH, height), f"{metric} over the fraction of labels")


def _line(rows: Sequence[Row], metric: str, colour: str, x: Scale, y: Scale) -> list[Shape]:
    intervals = [(row.fraction, row.metrics[metric]) for row in rows]
    banded = [(f, i) for f, i in intervals if not math.isnan(i.low)]
    edge = [(f, i.high) for f, i in banded] + [(f, i.low) for f, i in reversed(banded)]
    points = [(x(f), y(i.mean)) for f, i in intervals]
    band = [Area([(x(f), y(value)) for f, value in edge], colour, 0.15)] if len(banded) > 1 else []
    return [*band, Polyline(points, colour), *(Dot(point, colour) for point in points)]


def _axes(fractions: Sequence[float], ticks: Sequence[float], x: Scale, y: Scale) -> list[Shape]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    shapes: list[Shape] = []
    for tick in ticks:
        shapes.append(Segment((_LEFT, y(tick)), (right, y(tick)), "#dddddd"))
        shapes.append(Text((_LEFT - 6, y(tick) + 4), f"{tick:.3g}", "end"))
    shapes.append(Segment((_LEFT, bottom), (right, bottom), "#333333"))
    shapes += [Text((x(fraction), bottom + 16), percent(fraction), "middle") for fraction in fractions]
    return [*shapes, Text(((_LEFT + right) / 2, bottom + 36), "labels", "middle")]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between both."""
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
