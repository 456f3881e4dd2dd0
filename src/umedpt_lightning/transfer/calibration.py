"""How often answers of which probability are right, as a figure."""

from __future__ import annotations

from collections.abc import Mapping

from umedpt_lightning.labels.calibration import Stated, reliability
from umedpt_lightning.transfer.curve import COLOURS
from umedpt_lightning.transfer.shapes import Area, Dot, Figure, Polyline, Segment, Shape, Text

_SIDE, _LEFT, _TOP = 300, 60, 24


def draw_reliability(answers: Mapping[str, Stated]) -> Figure:
    """Frequency over stated probability; on the dashed line they are equal.

    DeGroot & Fienberg, The Comparison and Evaluation of Forecasters, The Statistician 32, 1983.

    Args:
        answers: Of each curve, by its name: probabilities ``(N,)`` of what was answered, and whether it was so.
    """

    def at(stated: float, frequency: float) -> tuple[float, float]:
        return _LEFT + _SIDE * stated, _TOP + _SIDE * (1 - frequency)

    shapes: list[Shape] = [Text((_LEFT, 12), "how often it is right"), Segment(at(0, 0), at(1, 1), "#888888", True)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        shapes.append(Segment(at(0, tick), at(1, tick), "#dddddd"))
        (left, y), (x, bottom) = at(0, tick), at(tick, 0)
        shapes += [Text((left - 6, y + 4), f"{tick:g}", "end"), Text((x, bottom + 16), f"{tick:g}", "middle")]
    shapes.append(Text((_LEFT + _SIDE / 2, _TOP + _SIDE + 34), "stated probability of the answer", "middle"))
    row = _TOP + _SIDE + 56
    for index, (name, (probabilities, correct)) in enumerate(answers.items()):
        colour = COLOURS[index % len(COLOURS)]
        stated, frequency, _ = reliability(probabilities, correct)
        points = [at(*pair) for pair in zip(stated.tolist(), frequency.tolist(), strict=True)]
        shapes += [Polyline(points, colour), *(Dot(point, colour) for point in points)]
        corners = [(_LEFT + dx, row + dy) for dx, dy in ((0, -9), (14, -9), (14, 1), (0, 1))]
        shapes += [Area(corners, colour), Text((_LEFT + 20, row), name)]
        row += 16
    return Figure(shapes, (_LEFT + _SIDE + 30, row), "how often answers are right over their stated probability")
