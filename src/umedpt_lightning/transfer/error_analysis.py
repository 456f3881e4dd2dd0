"""Error analysis of a class task: confusion matrices, and how often answers of which probability are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.drawing.figures import PALE, add_legend, as_svg, house_style, line_style, new_axes
from umedpt_lightning.labels import TaskSpec
from umedpt_lightning.labels.calibration import Stated, reliability
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result, in_words, largest
from umedpt_lightning.transfer.report import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 4.4  # inches


def error_analysis(results: Mapping[Cell, Result], cells: CellFolder, spec: TaskSpec) -> str:
    """HTML for a task whose answer is one class an image, of all cells and their answers; nothing for others."""
    whole = largest(results)
    labels = in_words(whole[0].share) + ("" if whole[0].shots else " of the labels")
    parts = []
    stated: dict[str, Stated] = {}
    for method, mode in dict.fromkeys((cell.method, cell.mode) for cell in whole):
        kept = [cells.answers(cell) for cell in whole if (cell.method, cell.mode) == (method, mode)]
        found = [answers for answers in kept if answers is not None and {"predictions", "targets"} <= answers.keys()]
        if not found:
            continue
        predictions, targets = (np.concatenate([one[key] for one in found]) for key in ("predictions", "targets"))
        if (matrix := spec.confusion(predictions, targets)) is not None:
            parts.append(f"<div><p>{escape(method)}, {mode}</p>{_matrix(matrix, spec.names)}</div>")
            (stated[f"{method}, {mode}"],) = spec.stated(predictions, targets)
    if not parts:
        return ""
    figure = as_svg(draw_reliability(stated), "how often answers are right over their stated probability")
    return (
        f"<h2>Confusion at {labels}</h2><p>All seeds together; rows are the truth.</p>"
        f'<div class="row">{"".join(parts)}</div>'
        f"<h2>Reliability at {labels}</h2>{figure}"
    )


@house_style()
def draw_reliability(answers: Mapping[str, Stated]) -> Figure:
    """Frequency over stated probability, a curve for each name; on the dashed line they are equal.

    DeGroot & Fienberg, The Comparison and Evaluation of Forecasters, The Statistician 32, 1983.
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


def _matrix(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    rows = []
    for name, counts, row in zip(classes, matrix, shares, strict=True):
        cells = (
            f'<td style="background:rgba(0,114,178,{0.6 * share:.2f})" title="{share:.1%}">{count}</td>'
            for count, share in zip(counts, row, strict=True)
        )
        rows.append([escape(name), *cells])
    return html_table(["", *map(escape, classes)], rows)
