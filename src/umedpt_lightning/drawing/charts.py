"""Curves of all samples of a part, as a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from umedpt_lightning.drawing.figures import COLOURS, add_legend, as_picture, house_style, new_axes
from umedpt_lightning.labels import Chart


@house_style()
def draw_chart(chart: Chart) -> Image.Image:
    """The curves with their names below."""
    figure, axes = new_axes(6, 4)
    drawn = []
    for i, curve in enumerate(chart.curves):
        style = "steps-post" if chart.steps else "default"
        colour = COLOURS[(i if curve.colour is None else curve.colour) % len(COLOURS)]
        (line,) = axes.plot(curve.x, curve.y, color=colour, drawstyle=style)
        if curve.marks is not None:
            heights = curve.y[np.searchsorted(curve.x, curve.marks, side="right") - 1]
            axes.plot(curve.marks, heights, linestyle="", marker="|", markersize=7, color=colour)
        drawn.append((line, curve.name))
    axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y, xlim=(0, None))
    if chart.y.startswith("share"):
        axes.set_ylim(0, 1.02)
    add_legend(figure, drawn)
    return as_picture(figure)
