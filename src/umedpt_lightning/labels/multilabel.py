"""Any number of labels an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import Figures, TableRow, TaskSpec
from umedpt_lightning.labels.calibration import Stated
from umedpt_lightning.labels.findings import Finding
from umedpt_lightning.labels.numbers import as_vector, inspect_vector
from umedpt_lightning.labels.views import MOST_LINES, Bar, Line, PageView, View
from umedpt_lightning.labels.wording import percent, short_float


@dataclass(frozen=True, kw_only=True)
class MultilabelSpec(TaskSpec):
    """Any number of labels an image; a prediction is the probability of each label, ``(L,)``.

    Attributes:
        labels: Label names; the target is a vector of 0, 1 and NaN (unknown).
        counts: Samples with each label, empty where unknown.
        known: Samples whose value of each label is known, empty where unknown.
    """

    kind: ClassVar[str] = "labels"
    title: ClassVar[str] = "any number of labels an image"
    names_in: ClassVar[str] = "labels"
    hub_type: ClassVar[str] = "image-classification"

    labels: tuple[str, ...]
    counts: tuple[int, ...] = field(default=(), compare=False)
    known: tuple[int, ...] = field(default=(), compare=False)

    @property
    def phrase(self) -> str:
        """As one says it."""
        return "labels, yes or no" if len(self.labels) > 1 else "a label, yes or no"

    def prepared(self, target: Any, size: tuple[int, int]) -> NDArray[np.float32]:
        """In float32."""
        return as_vector(target, self.labels)

    def with_statistics(self, targets: NDArray[Any]) -> Self:
        """With the counts of ``(N, L)`` of 0, 1 and NaN."""
        known = (~np.isnan(targets)).sum(axis=0)  # (L,)
        return replace(self, counts=tuple((targets == 1).sum(axis=0).tolist()), known=tuple(known.tolist()))

    def lacking(self, targets: NDArray[Any]) -> tuple[str, ...]:
        """Labels that are always yes or always no."""
        one = [n for n, v in zip(self.labels, targets.T, strict=True) if len(set(v[~np.isnan(v)])) < 2]
        return (f"The labelled samples show {', '.join(one)} one way only: answered by frequency.",) if one else ()

    def strata(self, targets: NDArray[Any], least: float) -> tuple[NDArray[np.bool_], list[str]]:
        """The labels that are there, present and absent."""
        present = np.flatnonzero((targets == 1).any(axis=0)).tolist()
        return np.hstack([targets[:, present] == 1, targets == 0]), [f"label {self.labels[i]!r}" for i in present]

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """Anything but 0, 1 and NaN is an error."""
        return inspect_vector(target, self.labels, only=(0.0, 1.0))

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """Samples that have each label, and those of which it is known."""
        known = (~np.isnan(rows)).sum(axis=0).tolist()
        return {"samples": self.samples(rows), "known": dict(zip(self.labels, known, strict=True))}

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Each label with its share of the samples of which it is known."""
        lines = {}
        for name, count in statistics["samples"].items():
            known = statistics["known"][name]
            lines[f"  {name}"] = f"{count:,}{f' of {known:,}' if known < samples else ''}{percent(count, known)}"
        return lines

    def truth_view(self, target: Any) -> View:
        """Which labels there are, which not, and which are not known."""
        texts = [
            f"{title}: {', '.join(name for name, it_is in zip(self.labels, chosen, strict=True) if it_is) or 'none'}"
            for title, chosen in (("yes", target == 1), ("no", target == 0), ("not known", np.isnan(target)))
            if title == "yes" or chosen.any()
        ]
        return View(tuple(map(Line, texts)))

    def prediction_view(self, prediction: Any) -> View:
        """The likeliest labels."""
        best = np.argsort(-prediction)[:MOST_LINES]
        return View(tuple(Line(f"{self.labels[i]} {prediction[i]:.3f}") for i in best))

    def comparison_view(self, target: Any, prediction: Any) -> View:
        """A line a label; of many labels those that there are, or that are thought to be."""
        marks = {0.0: "no", 1.0: "yes"}
        lines = [
            Line(
                f"{name}: {marks.get(float(mark), '?')}, predicted {probability:.2f}",
                None if np.isnan(mark) else bool((probability >= 0.5) == mark),
            )
            for name, mark, probability in zip(self.labels, target, prediction, strict=True)
        ]
        if len(lines) <= MOST_LINES:
            return View(tuple(lines))
        order = np.argsort(-np.fmax(target, prediction), kind="stable")[:MOST_LINES]
        rest = Line(f"and {len(lines) - MOST_LINES} more labels")
        return View((*(lines[i] for i in sorted(order)), rest))

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """A bar a label."""
        pairs = zip(self.labels, prediction.tolist(), strict=True)
        return PageView(bars=tuple(Bar(name, probability, probability >= 0.5) for name, probability in pairs))

    def row(self, prediction: Any, area: float | None = None) -> TableRow:
        """All probabilities."""
        pairs = zip(self.labels, prediction.tolist(), strict=True)
        return {f"p_{name}": short_float(probability) for name, probability in pairs}

    def stated(self, predictions: NDArray[Any], targets: NDArray[Any]) -> list[Stated]:
        """Of each label, where it is known."""
        known = ~np.isnan(targets)
        pairs = zip(predictions.T, targets.T, known.T, strict=True)
        return [(stated[seen], truth[seen] == 1) for stated, truth, seen in pairs]
