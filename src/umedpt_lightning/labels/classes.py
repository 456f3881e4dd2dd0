"""One class an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import (
    IGNORE_INDEX,
    OLD_IGNORE_INDEX,
    Figures,
    TableRow,
    TaskSpec,
    warn_of_255,
)
from umedpt_lightning.labels.calibration import Stated
from umedpt_lightning.labels.findings import CORRECT_READER, UNLABELLED, Finding
from umedpt_lightning.labels.views import MOST_LINES, Bar, Line, PageView, View
from umedpt_lightning.labels.wording import percent, short_float, shorten


@dataclass(frozen=True, kw_only=True)
class ClassSpec(TaskSpec):
    """One class an image; a prediction is the probability of each class, ``(K,)``.

    Attributes:
        classes: Class names; the target is an index into them.
        counts: Samples of each class, empty where unknown.
    """

    kind: ClassVar[str] = "class"
    title: ClassVar[str] = "one class an image"
    names_in: ClassVar[str] = "classes"
    hub_type: ClassVar[str] = "image-classification"

    classes: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), compare=False)

    @property
    def phrase(self) -> str:
        """With the number of classes."""
        return f"one of {len(self.classes)} classes"

    def prepared(self, target: Any, size: tuple[int, int]) -> int:
        """The index, which must be that of a class or `IGNORE_INDEX`."""
        index = self._index(target)
        if not isinstance(index, int):
            raise ValueError(f"{index.what}. {index.mend}")
        return index

    def with_statistics(self, targets: NDArray[Any]) -> Self:
        """With the counts of class indices ``(N,)``."""
        counts = np.bincount(targets[self.labelled(targets)], minlength=len(self.classes))
        return replace(self, counts=tuple(counts.tolist()))

    def labelled(self, targets: NDArray[Any]) -> NDArray[np.bool_]:
        """Those that have a class."""
        known: NDArray[np.bool_] = (targets >= 0) & (targets < len(self.classes))
        return known

    def lacking(self, targets: NDArray[Any]) -> tuple[str, ...]:
        """Classes without a sample."""
        counts = np.bincount(targets, minlength=len(self.classes))
        present = [name for name, count in zip(self.classes, counts, strict=True) if count]
        if len(present) == 1:
            return (f"All {len(targets)} labelled samples are of class {present[0]!r}: it is always the answer.",)
        absent = [name for name in self.classes if name not in present]
        return (f"No labelled sample is of class {', '.join(absent)}: never the answer.",) if absent else ()

    def strata(self, targets: NDArray[Any], least: float) -> tuple[NDArray[np.bool_], list[str]]:
        """The classes that are there."""
        present = [i for i in range(len(self.classes)) if (targets == i).any()]
        return targets[:, None] == np.array(present, np.int64), [f"class {self.classes[i]!r}" for i in present]

    @property
    def is_one_of_names(self) -> bool:
        """As `TaskSpec.is_one_of_names`."""
        return True

    @property
    def columns(self) -> int:
        """The class index."""
        return 1

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """An index that is no class is an error."""
        index = self._index(target)
        if not isinstance(index, int):
            return [index], None
        if index == IGNORE_INDEX:
            return [UNLABELLED], np.full(1, np.nan, np.float32)
        return [], np.full(1, index, np.float32)

    def samples(self, rows: Figures) -> dict[str, int]:
        """Samples of each class."""
        known = rows[~np.isnan(rows)].astype(np.int64)
        return dict(zip(self.classes, np.bincount(known, minlength=len(self.classes)).tolist(), strict=True))

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """Samples of each class, and those without one."""
        return {"samples": self.samples(rows), "unlabelled": int(np.isnan(rows).sum())}

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Each class with its share."""
        lines = {"  (unlabelled)": f"{statistics['unlabelled']:,}"} if statistics["unlabelled"] else {}
        return lines | {f"  {n}": f"{c:,}{percent(c, samples)}" for n, c in statistics["samples"].items()}

    def truth_view(self, target: Any) -> View:
        """Its name."""
        return View((Line("?" if int(target) == IGNORE_INDEX else self.classes[int(target)]),))

    def prediction_view(self, prediction: Any) -> View:
        """The likeliest classes."""
        best = np.argsort(-prediction, kind="stable")[:MOST_LINES]
        return View(tuple(Line(f"{self.classes[i]} {prediction[i]:.3f}") for i in best))

    def comparison_view(self, target: Any, prediction: Any) -> View:
        """The truth, and the three likeliest classes."""
        best = np.argsort(-prediction, kind="stable")[:3]
        probabilities = ", ".join(f"{self.classes[i]} {prediction[i]:.2f}" for i in best)
        right = None if int(target) == IGNORE_INDEX else bool(best[0] == target)
        (truth,) = self.truth_view(target).lines
        return View((Line(f"truth: {truth.text}"), Line(f"prediction: {probabilities}", right)))

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """A bar a class, likeliest first."""
        order = np.argsort(-prediction, kind="stable")
        return PageView(bars=tuple(Bar(self.classes[i], float(prediction[i]), i == order[0]) for i in order))

    def row(self, prediction: Any, area: float | None = None) -> TableRow:
        """The likeliest class, and all probabilities."""
        pairs = zip(self.classes, prediction.tolist(), strict=True)
        best = self.classes[int(prediction.argmax())]
        return {"class": best} | {f"p_{name}": short_float(probability) for name, probability in pairs}

    def confusion(self, predictions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
        """Of the likeliest class."""
        counts = np.zeros((len(self.classes),) * 2, np.int64)
        known = self.labelled(targets)
        np.add.at(counts, (targets[known].astype(np.int64), predictions[known].argmax(axis=1)), 1)
        return counts

    def stated(self, predictions: NDArray[Any], targets: NDArray[Any]) -> list[Stated]:
        """Of the likeliest class."""
        known = self.labelled(targets)
        predictions = predictions[known]
        return [(predictions.max(axis=1, initial=0), predictions.argmax(axis=1) == targets[known])]

    def _index(self, target: Any) -> int | Finding:
        """The index of a class, or `IGNORE_INDEX`, or what is wrong."""
        if isinstance(target, bool) or not isinstance(target, int | np.integer):
            what = f"a target is the index of a class, but this one is a {type(target).__name__}"
            return Finding("label", what, CORRECT_READER)
        if target == OLD_IGNORE_INDEX and len(self.classes) <= OLD_IGNORE_INDEX:
            warn_of_255()
            return IGNORE_INDEX
        if target == IGNORE_INDEX or 0 <= target < len(self.classes):
            return int(target)
        what = f"its class is {target}, outside 0 to {len(self.classes) - 1}"
        mend = f"Correct the label, or name all of its classes: {shorten(self.classes)}."
        return Finding("label", what, mend)
