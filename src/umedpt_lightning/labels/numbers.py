"""One or several numbers an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import Figures, TableRow, TaskSpec
from umedpt_lightning.labels.findings import CORRECT_READER, UNLABELLED, Finding
from umedpt_lightning.labels.views import MOST_LINES, Line, Number, PageView, View
from umedpt_lightning.labels.wording import found_instead, readable, short_float, statistic

_MOST_BINS = 10


@dataclass(frozen=True, kw_only=True)
class RegressionSpec(TaskSpec):
    """One or several numbers an image; a prediction is ``(Q,)`` in the units of the data.

    Attributes:
        quantities: What is measured; the target is a vector of numbers, NaN where unknown.
        units: Their units, one a quantity, empty strings for none.
        means: Mean of each quantity, in its unit.
        stds: Standard deviation of each quantity, in its unit.
    """

    kind: ClassVar[str] = "numbers"
    title: ClassVar[str] = "numbers an image"
    names_in: ClassVar[str] = "quantities"
    noun: ClassVar[str] = "value"  # `hub_type` stays "other": the Hub knows no numbers of images

    quantities: tuple[str, ...]
    units: tuple[str, ...]
    means: tuple[float, ...] = field(default=(), compare=False)
    stds: tuple[float, ...] = field(default=(), compare=False)

    @property
    def titles(self) -> tuple[str, ...]:
        """The quantities with their units in brackets."""
        return tuple(f"{q} ({u})" if u else q for q, u in zip(self.quantities, self.units, strict=True))

    @property
    def phrase(self) -> str:
        """As one says it."""
        return "numbers" if len(self.quantities) > 1 else "a number"

    def unit(self, metric: str) -> str:
        """That of a mean absolute error."""
        return dict(zip(self.quantities, self.units, strict=True)).get(metric.removeprefix("mae_"), "")

    def is_of_one_name(self, metric: str) -> bool:
        """Errors have different units, so that no mean of them can stand for all."""
        return False

    def prepared(self, target: Any, size: tuple[int, int]) -> NDArray[np.float32]:
        """In float32."""
        return as_vector(target, self.quantities)

    def with_statistics(self, targets: NDArray[Any]) -> Self:
        """With means and standard deviations of ``(N, Q)``, NaN where unknown.

        Raises:
            ValueError: A quantity is known of no sample.
        """
        empty = [name for name, none in zip(self.quantities, np.isnan(targets).all(axis=0), strict=True) if none]
        if empty:
            raise ValueError(f"No sample of this part has a value of {empty}. Leave these quantities out.")
        numbers = targets.astype(np.float64)
        means, stds = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)  # (Q,)
        return replace(self, means=tuple(means.tolist()), stds=tuple(stds.tolist()))

    def strata(self, targets: NDArray[Any], least: float) -> tuple[NDArray[np.bool_], list[str]]:
        """Each quantity in quantiles, at most so many that each part can have of all."""
        return np.hstack([quantiles(values.astype(np.float64), least) for values in targets.T]), []

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """Infinite numbers are an error."""
        return inspect_vector(target, self.quantities)

    def samples(self, rows: Figures) -> dict[str, int]:
        """Samples with a value of each quantity."""
        return dict(zip(self.quantities, (~np.isnan(rows)).sum(axis=0).tolist(), strict=True))

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """Mean, standard deviation and limits of each quantity."""
        values = {name: column[~np.isnan(column)] for name, column in zip(self.quantities, rows.T, strict=True)}
        functions: dict[str, Any] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
        return {
            "known": self.samples(rows),
            "units": dict(zip(self.quantities, self.units, strict=True)),
            **{key: {n: statistic(f, column) for n, column in values.items()} for key, f in functions.items()},
        }

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Mean, standard deviation and range of each quantity."""
        lines = {}
        for name, title in zip(self.quantities, self.titles, strict=True):
            mean, std, low, high = (readable(statistics[key][name]) for key in ("mean", "std", "min", "max"))
            unknown = samples - statistics["known"][name]
            lines[f"  {title}"] = f"{mean} ± {std}" + (f", {unknown:,} unknown" if unknown else "")
            lines[f"    range of {name}"] = f"{low} to {high}"
        return lines

    def truth_view(self, target: Any) -> View:
        """Each number with its unit."""
        texts = [f"{n}: ?" if np.isnan(v) else f"{n}: {v:.4g} {u}".strip() for n, u, v in self._with_units(target)]
        return View(tuple(map(Line, texts[:MOST_LINES])))

    def prediction_view(self, prediction: Any) -> View:
        """As the truth."""
        return self.truth_view(prediction)

    def comparison_view(self, target: Any, prediction: Any) -> View:
        """Truth, prediction and error of each number."""
        lines = []
        for (name, unit, true), predicted in zip(self._with_units(target), prediction, strict=True):
            text = f"{name}: {'?' if np.isnan(true) else f'{true:.4g} {unit}'}, predicted {predicted:.4g} {unit}"
            if not np.isnan(true):
                text += f", error {predicted - true:+.3g} {unit}"
            lines.append(Line(text.replace(" ,", ",").strip()))  # without a unit there are blanks before commas
        return View(tuple(lines[:MOST_LINES]))

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """Each number with its unit."""
        return PageView(numbers=tuple(Number(n, float(v), u) for n, u, v in self._with_units(prediction)))

    def row(self, prediction: Any, area: float | None = None) -> TableRow:
        """A column a quantity."""
        return {name: short_float(value) for name, value in zip(self.titles, prediction.tolist(), strict=True)}

    def _with_units(self, values: Any) -> list[tuple[str, str, Any]]:
        return list(zip(self.quantities, self.units, values, strict=True))


def as_vector(target: Any, names: tuple[str, ...]) -> NDArray[np.float32]:
    """A vector of a number for each name, in float32.

    Raises:
        ValueError: The target is no such vector.
    """
    if not isinstance(target, np.ndarray) or target.shape != (len(names),) or target.dtype.kind not in "fiub":
        what = f"a target is {len(names)} numbers ({', '.join(names)}), but this one is {found_instead(target)}"
        raise ValueError(f"{what}. {CORRECT_READER}")
    return target.astype(np.float32, copy=False)


def inspect_vector(
    target: Any, names: tuple[str, ...], only: tuple[float, ...] = ()
) -> tuple[list[Finding], Figures | None]:
    """What is wrong with a vector of a number for each name, and the vector in float32; see `TaskSpec.inspect`.

    Numbers are NaN where unknown; else `only` these may be there, or any that are finite.
    """
    try:
        row = as_vector(target, names)
    except ValueError as error:
        return [Finding("label", str(error).removesuffix(f". {CORRECT_READER}"), CORRECT_READER)], None
    wrong = np.isinf(row) | (~np.isnan(row) & ~np.isin(row, only) if only else False)
    if wrong.any():
        bad = ", ".join(f"{names[i]} is {row[i]:g}" for i in np.flatnonzero(wrong)[:5])
        asked = "0, 1, or NaN where it is unknown" if only else "a number, or NaN where it is unknown"
        return [Finding("label", bad, f"Write {asked}.")], None
    return [UNLABELLED] if np.isnan(row).all() else [], row


def quantiles(values: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """``(N, bins)`` in which quantile each value is, NaN in none; so many that each part of a split can have of all."""
    known = values[~np.isnan(values)]
    bins = int(np.clip(len(known) * least, 1, _MOST_BINS))
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if bins > 1 else np.empty(0)
    bin_of = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
    members: NDArray[np.bool_] = bin_of[:, None] == np.arange(len(edges) + 1)
    return members
