"""The best and the worst test samples of a task, drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from umedpt_lightning.data.loading.dataset import prepared
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.drawing.pictures import Example, draw, to_rgb
from umedpt_lightning.tasks import Task
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result

_SHOWN = 4


def draw_samples(
    results: Mapping[Cell, Result], cells: CellFolder, data: TaskData, task: Task
) -> dict[str, Image.Image]:
    """Sheets ``best`` and ``worst``; none where the answers are gone, or no predictions are kept.

    The answers are of the cell with all labels that is best on the val part by the main metric of the head `task`.
    """
    main = task.main_metric
    largest = max(cell.fraction for cell in results)
    whole = [cell for cell in results if cell.fraction == largest]
    best = max(whole, key=lambda cell: np.nan_to_num(results[cell].val.get(main, -np.inf), nan=-np.inf))
    answers = cells.answers(best)
    if answers is None or task.answers().prediction(answers, 0) is None:
        return {}
    scores = answers["score"]
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    sheets = {}
    for title, rows in (("best", order[:_SHOWN]), ("worst", order[::-1][:_SHOWN])):
        if len(rows):
            predictions = {row: task.answers().prediction(answers, row) for row in rows.tolist()}
            examples = [_example(data, row, one, float(scores[row])) for row, one in predictions.items()]
            sheets[title] = draw(examples, f"{title} test samples of {best}")
    return sheets


def _example(data: TaskData, row: int, prediction: Any, score: float) -> Example:
    """A sample at the size that the model saw, to which its answer belongs."""
    if data.test is None:
        raise ValueError("data.test: there is nothing to draw from. Give a test part.")
    spec = data.test.spec
    sample = Transform(data.size)(prepared(data.test, row), 0)
    view = spec.comparison_view(sample.target, prediction)
    pixels = to_rgb(np.moveaxis(sample.image, -1, 0), spec.value_range)
    return Example(pixels, f"{sample.name}: {score:.3f}", view)


def page_of(sheets: Mapping[str, Image.Image]) -> str:
    """The sheets for the page, in itself."""
    parts = []
    for title, picture in sheets.items():
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode()
        parts.append(
            f"<h2>{escape(title.capitalize())} test samples</h2>"
            f'<img style="max-width:100%" src="data:image/png;base64,{data}" alt="{escape(title)} test samples">'
        )
    return "".join(parts)
