"""How often answers of which probability are right, as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from umedpt_lightning.drawing.figures import PALE, add_legend, house_style, line_style, new_axes
from umedpt_lightning.labels.calibration import Stated, reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 4.4  # inches


@house_style()
def draw_reliability(answers: Mapping[str, Stated]) -> Figure:
    """Frequency over stated probability; on the dashed line they are equal.

    DeGroot & Fienberg, The Comparison and Evaluation of Forecasters, The Statistician 32, 1983.

    Args:
        answers: Of each curve, by its name: probabilities ``(N,)`` of what was answered, and whether it was so.
    """
    figure, axes = new_axes(_SIDE, _SIDE)
    axes.plot([0, 1], [0, 1], color=PALE, linestyle="--", linewidth=1)
    entries = []
    for index, (name, (probabilities, correct)) in enumerate(answers.items()):
        stated, frequency, _ = reliability(probabilities, correct)
        (drawn,) = axes.plot(stated, frequency, **line_style(index), markersize=4.5)
        entries.append((drawn, name))
    ticks = (0, 0.25, 0.5, 0.75, 1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=ticks, yticks=ticks, box_aspect=1)
    axes.set(xlabel="stated probability of the answer", ylabel="how often it is right")
    add_legend(figure, entries)
    return figure
