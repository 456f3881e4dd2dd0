"""A closer look at the answers of a class task: confusion, reliability, and the best and worst test samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.transfer.calibration import draw_reliability
from umedpt_lightning.transfer.cells import Cell, CellFolder, Result
from umedpt_lightning.transfer.summary import percent
from umedpt_lightning.types import IGNORE_INDEX, ClassSpec, Sample

_SHOWN = 6
_SIDE = 96  # pixels of a picture


def closer_look(results: Mapping[Cell, Result], cells: CellFolder, test: Reader, main: str) -> str:
    """HTML for a class task; nothing for others.

    Args:
        results: Of all cells.
        cells: Where their answers are.
        test: The test part.
        main: The main metric: pictures are of the cell that is best by it on the val part.
    """
    if not isinstance(test.spec, ClassSpec):
        return ""
    largest = max(cell.fraction for cell in results)
    whole = [cell for cell in results if cell.fraction == largest]
    parts = [f"<h2>Confusion at {percent(largest)} of the labels</h2><p>All seeds together; rows are the truth.</p>"]
    parts.append('<div class="row">')
    sure: dict[str, tuple[NDArray[np.floating], NDArray[np.bool_]]] = {}
    for method, mode in dict.fromkeys((cell.method, cell.mode) for cell in whole):
        kept = [cells.answers(cell) for cell in whole if (cell.method, cell.mode) == (method, mode)]
        found = [answers for answers in kept if answers is not None]
        matrix = confusion(found, len(test.spec.classes))
        parts.append(f"<div><p>{escape(method)}, {mode}</p>{_matrix(matrix, test.spec.classes)}</div>")
        if found:
            sure[f"{method}, {mode}"] = _sureness(found)
    parts.append(f"</div><h2>Reliability at {percent(largest)} of the labels</h2>{draw_reliability(sure).svg()}")
    best = max(whole, key=lambda cell: results[cell].val.get(main, -np.inf))
    answers = cells.answers(best)
    if answers is not None:
        parts.append(_pictures(best, answers, test, test.spec.classes))
    return "".join(parts)


def confusion(answers: Iterable[Mapping[str, NDArray[np.generic]]], classes: int) -> NDArray[np.int64]:
    """``(K, K)`` counts, rows the truth, columns the answer, of all answers together."""
    counts = np.zeros((classes, classes), np.int64)
    for found in answers:
        truth, said = found["targets"], found["outputs"].argmax(1)
        known = truth != IGNORE_INDEX
        np.add.at(counts, (truth[known].astype(np.int64), said[known]), 1)
    return counts


def _sureness(
    answers: Sequence[Mapping[str, NDArray[np.generic]]],
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """The probability of every answer, and whether it is right."""
    truth = np.concatenate([found["targets"] for found in answers])
    stated, said = torch.from_numpy(np.concatenate([found["outputs"] for found in answers])).softmax(1).max(1)
    known = truth != IGNORE_INDEX
    return stated.numpy()[known], (said.numpy() == truth)[known]


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


def _pictures(cell: Cell, answers: Mapping[str, NDArray[np.generic]], test: Reader, classes: Sequence[str]) -> str:
    truth = answers["targets"].astype(np.int64)
    stated = torch.from_numpy(answers["outputs"]).softmax(1).numpy()  # (N, K)
    known = np.flatnonzero(truth != IGNORE_INDEX)
    right = stated[known, truth[known]]
    order = known[np.argsort(-right, kind="stable")]
    parts = [f"<h2>Test samples of {escape(str(cell))}</h2><p>With the probability of what is true.</p>"]
    for title, rows in (("Surest and right", order[:_SHOWN]), ("Worst", order[::-1][:_SHOWN])):
        figures = []
        for row in rows:
            sample = test[int(row)]
            caption = f"{classes[truth[row]]}: {stated[row, truth[row]]:.1%}"
            picture = (
                f'<img width="{_SIDE}" src="{_inline(sample, test.spec.value_range)}" alt="{escape(sample.name)}">'
            )
            figures.append(f'<figure title="{escape(sample.name)}">{picture}<br>{escape(caption)}</figure>')
        parts.append(f'<h3>{title}</h3><div class="row">{"".join(figures)}</div>')
    return "".join(parts)


def _inline(sample: Sample, value_range: tuple[float, float]) -> str:
    """The image in the page itself, as a data address."""
    low, high = value_range
    scaled = np.clip((sample.image.astype(np.float32) - low) / (high - low), 0, 1)
    pixels = (255 * scaled).astype(np.uint8)
    pixels = pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
    picture = Image.fromarray(pixels)
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
