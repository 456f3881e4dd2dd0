"""Any number of boxes an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import Figures, Form, TableRow, TaskSpec
from umedpt_lightning.labels.findings import CORRECT_READER, Finding
from umedpt_lightning.labels.views import BoxLayer, LegendEntry, Line, PageView, View
from umedpt_lightning.labels.wording import count, readable_spread, short_float, spread

#: Of the predicted boxes those with half the best score are shown, a few more than there are true ones at the most,
#: within these limits.
FEWEST_BOXES, MOST_BOXES = 10, 50
_EPSILON = 1e-3  # pixels: float32 coordinates in images of thousands of pixels
_MM2 = 1e-6  # of a µm²


class BoxArrays(NamedTuple):
    """The boxes of one image, as a reader gives them.

    Attributes:
        boxes: ``(N, 4)`` float32, pixels.
        labels: ``(N,)`` int64, class indices.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BoxSpec(TaskSpec):
    """Any number of boxes an image; a prediction has ``boxes`` ``(N, 4)``, ``scores`` ``(N,)`` and ``labels`` ``(N,)``.

    Attributes:
        classes: Class names without a background; box labels are indices into them.
        category_ids: Their ids in the COCO file of the data, which predictions bear too; empty where there is none.
    """

    kind: ClassVar[str] = "boxes"
    title: ClassVar[str] = "any number of boxes an image"
    names_in: ClassVar[str] = "classes"
    hub_type: ClassVar[str] = "object-detection"
    form: ClassVar[Form] = "objects"

    classes: tuple[str, ...]
    category_ids: tuple[int, ...] = field(default=(), compare=False)

    @property
    def phrase(self) -> str:
        """As one says it."""
        return "boxes"

    def prepared(self, target: Any, size: tuple[int, int]) -> BoxArrays:
        """In float32 and int64."""
        if not isinstance(target, BoxArrays):
            raise ValueError(f"a target is BoxArrays, but this one is a {type(target).__name__}. {CORRECT_READER}")
        return BoxArrays(np.asarray(target.boxes, np.float32), np.asarray(target.labels, np.int64))

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """Boxes without an area or outside of the image, and labels that are no class, are errors."""
        if not isinstance(target, BoxArrays):
            what = f"a target is BoxArrays, but this one is a {type(target).__name__}"
            return [Finding("box", what, CORRECT_READER)], None
        boxes, labels = np.asarray(target.boxes), np.asarray(target.labels)
        if boxes.shape != (len(labels), 4) or labels.ndim != 1 or labels.dtype.kind not in "ui":
            what = f"boxes are (N, 4) with (N,) integers, but these are {boxes.shape} and {labels.dtype} {labels.shape}"
            return [Finding("box", what, CORRECT_READER)], None
        height, width = size
        finite = np.isfinite(boxes).all(axis=1)
        known = np.nan_to_num(boxes)  # so that comparisons say nothing of rows that are not finite
        within = (known[:, :2] >= -_EPSILON).all(1) & (known[:, 2:] <= np.array([width, height]) + _EPSILON).all(1)
        empty = ~(known[:, 2:] > known[:, :2]).all(axis=1)
        in_range = (labels >= 0) & (labels < len(self.classes))
        rules = [
            (~finite, "is not finite", "Correct or remove it."),
            (finite & empty, "has no area", "Correct or remove it: x1 < x2 and y1 < y2."),
            (finite & ~empty & ~within, f"lies outside the image of {width}x{height} (WxH)", "Clip or remove it."),
        ]
        found = []
        for wrong, what, mend in rules:
            if wrong.any():
                box = [round(float(x), 2) for x in boxes[wrong][0]]
                found.append(Finding("box", f"the box (x1, y1, x2, y2) = {box} {what}{_others(wrong)}", mend))
        if not in_range.all():
            what = f"a box has class {labels[~in_range][0]}, outside 0 to {len(self.classes) - 1}{_others(~in_range)}"
            mend = f"Correct it, or name all of its classes: {list(self.classes)}."
            found.append(Finding("label", what, mend))
        return found, self._counts(labels[in_range]).astype(np.float32)

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """Boxes of each class, images that have such, and boxes an image."""
        known = rows[~np.isnan(rows).all(axis=1)]
        boxes = dict(zip(self.classes, known.sum(axis=0, dtype=np.int64).tolist(), strict=True))
        return {"samples": self.samples(rows), "boxes": boxes, "per_image": spread(known.sum(axis=1))}

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Each class with its boxes and images."""
        boxes, images = statistics["boxes"], statistics["samples"]
        lines = {"boxes an image": readable_spread(statistics["per_image"])}
        return lines | {f"  {n}": f"{boxes[n]:,} in {count(images[n], 'image')}" for n in self.classes}

    def truth_view(self, target: Any) -> View:
        """The boxes and their number."""
        layer = BoxLayer(target.boxes, target.labels)
        return View((Line(f"boxes: {len(target.boxes)}"),), truth=layer, classes=dict(enumerate(self.classes)))

    def prediction_view(self, prediction: Any) -> View:
        """The boxes and their numbers."""
        counts = self._counts(prediction.labels)
        text = ", ".join(f"{number} {name}" for number, name in zip(counts, self.classes, strict=True))
        layer = BoxLayer(prediction.boxes, prediction.labels, prediction.scores)
        return View((Line(text),), prediction=layer, classes=dict(enumerate(self.classes)))

    def comparison_view(self, target: Any, prediction: Any) -> View:
        """True boxes, and the best of the predicted ones."""
        best = np.argsort(-prediction.scores, kind="stable")
        # an early detector finds hundreds, under which nothing could be seen; of a late one the faint ones are noise
        strong = best[prediction.scores[best] >= prediction.scores.max(initial=0) / 2]
        shown = strong[: max(FEWEST_BOXES, min(len(target.boxes) + 5, MOST_BOXES))]
        text = f"boxes: {len(target.boxes)} true, {len(best)} predicted"
        if len(best) > len(shown):
            text += f" ({len(shown)} best shown)"
        return replace(self.truth_view(target), lines=(Line(text),), prediction=_chosen(prediction, shown))

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """The boxes with a score of `min_score` at least, and how many there are of each class."""
        best = np.argsort(-prediction.scores, kind="stable")
        shown = best[prediction.scores[best] >= min_score]
        layer = _chosen(prediction, shown)
        pairs = zip(self.classes, self._counts(layer.labels), strict=True)
        legend = tuple(LegendEntry(i, name, str(number)) for i, (name, number) in enumerate(pairs))
        notes = []
        left_out = prediction.scores[best[len(shown) :]]
        if len(left_out):
            notes.append(f"{len(left_out)} fainter left out, with scores up to {left_out[0]:.2f}.")
        elif not len(shown):
            notes.append("No box was found.")
        return PageView(legend=legend, layer=layer, notes=tuple(notes))

    def row(self, prediction: Any, area: float | None = None) -> TableRow:
        """Boxes of each class, and how many there are a mm²."""
        pairs = zip(self.classes, self._counts(prediction.labels).tolist(), strict=True)
        row: TableRow = {f"n_{name}": number for name, number in pairs}
        if not area:
            return row
        mm2 = area * _MM2
        densities = {f"{name}_per_mm2": short_float(number / mm2) for name, number in row.items()}
        return row | {"area_mm2": short_float(mm2)} | densities

    def confident(self, prediction: Any, min_score: float) -> Any:
        """The boxes with such a score at least."""
        kept = prediction.scores >= min_score
        parts = {key: getattr(prediction, key)[kept] for key in ("boxes", "scores", "labels")}
        return replace(prediction, **parts)

    def resized(self, prediction: Any, size: tuple[int, int], wanted: tuple[int, int]) -> Any:
        """The boxes with other coordinates."""
        rows_y, rows_x = wanted[0] / size[0], wanted[1] / size[1]
        return replace(prediction, boxes=prediction.boxes * np.array([rows_x, rows_y] * 2, np.float32))

    def _counts(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.bincount(labels, minlength=len(self.classes))
        return counts


def _chosen(prediction: Any, rows: NDArray[np.int64]) -> BoxLayer:
    return BoxLayer(prediction.boxes[rows], prediction.labels[rows], prediction.scores[rows])


def _others(wrong: Any) -> str:
    """That there are more of a kind in one image."""
    return f", one of {int(wrong.sum())} such boxes here" if wrong.sum() > 1 else ""
