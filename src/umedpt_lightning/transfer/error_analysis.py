"""Error analysis of a class task: confusion matrices and a reliability figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.drawing.figures import as_svg
from umedpt_lightning.labels import TaskSpec
from umedpt_lightning.labels.calibration import Stated
from umedpt_lightning.transfer.calibration import draw_reliability
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result
from umedpt_lightning.transfer.summary import percent


def error_analysis(results: Mapping[Cell, Result], cells: CellFolder, spec: TaskSpec) -> str:
    """HTML for a task whose answer is one class an image; nothing for others.

    Args:
        results: Of all cells.
        cells: Where their answers are.
        spec: Of the test part.
    """
    largest = max(cell.fraction for cell in results)
    whole = [cell for cell in results if cell.fraction == largest]
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
        f"<h2>Confusion at {percent(largest)} of the labels</h2><p>All seeds together; rows are the truth.</p>"
        f'<div class="row">{"".join(parts)}</div>'
        f"<h2>Reliability at {percent(largest)} of the labels</h2>{figure}"
    )


def _matrix(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    rows = []
    for name, counts, row in zip(classes, matrix, shares, strict=True):
        cells = "".join(
            f'<td style="background:rgba(0,114,178,{0.6 * share:.2f})" title="{share:.1%}">{count}</td>'
            for count, share in zip(counts, row, strict=True)
        )
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
