"""What columns of a table say of each row: a class, labels, numbers or a time to an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import Collector
from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key, spellings
from umedpt_lightning.data.formats.table import Rows, is_unknown
from umedpt_lightning.types import IGNORE_INDEX, ClassSpec, MultilabelSpec, RegressionSpec, SurvivalSpec, TaskSpec

_BAD = IGNORE_INDEX - 1  # what is no class


@dataclass(frozen=True)
class ClassColumn:
    """One column of class names; a cell is empty, or NA, nan, null, where the class is unknown.

    Attributes:
        label: The column.
        classes: The names in the order of the indices, or what the column calls each, as ``{AP: ap}``; None for the
            names in the whole file in natural order.
    """

    label: str
    classes: list[str | int] | dict[str, str | list[str]] | None = None

    @property
    def columns(self) -> Sequence[str]:
        """The names of columns."""
        return [self.label]

    def targets(self, rows: Rows) -> NDArray[Any]:
        """``(N,)`` int64, `IGNORE_INDEX` where unknown; raises ValueError where cells, or the names, cannot be used."""
        names, coded = self._names(rows), rows.columns[self.label].coded()
        index = spellings(names if self.classes is None else self.classes, rows.file)
        of_cell = np.array([index.get(c, IGNORE_INDEX if is_unknown(c) else _BAD) for c in coded.names.tolist()])
        targets: NDArray[np.int64] = of_cell[coded.codes]
        bad = np.flatnonzero(targets == _BAD)
        # raises for these
        class_indices([*rows.columns[self.label].take(bad)], names, rows.names.take(bad), rows.file, mapped=True)
        return targets

    def spec(self, rows: Rows, **image: Any) -> TaskSpec:
        """What heads need to know, without statistics; `image` is what `TaskSpec` says of images."""
        return ClassSpec(**image, classes=self._names(rows))

    def _names(self, rows: Rows) -> tuple[str, ...]:
        found = sorted((cell for cell in rows.everywhere(self.label) if not is_unknown(cell)), key=natural_key)
        return check_names(found if self.classes is None else self.classes, "classes", rows.file)


@dataclass(frozen=True)
class LabelColumns:
    """One column a label: 1, 0, or empty where unknown.

    Attributes:
        columns: The names of columns and labels.
    """

    columns: Sequence[str]

    def targets(self, rows: Rows) -> NDArray[Any]:
        """``(N, L)`` float32 of 0, 1 and NaN; raises as that of `ClassColumn`."""
        names = check_names(self.columns, "labels", rows.file)
        return rows.numbers(names, "0, 1, or nothing where it is unknown", only=(0.0, 1.0))

    def spec(self, rows: Rows, **image: Any) -> TaskSpec:
        """What heads need to know, without statistics; `image` is what `TaskSpec` says of images."""
        return MultilabelSpec(**image, labels=tuple(self.columns))


@dataclass(frozen=True)
class NumberColumns:
    """One column a quantity, empty where unknown.

    Attributes:
        quantities: The units by the names of columns and quantities.
    """

    quantities: dict[str, str]

    @property
    def columns(self) -> Sequence[str]:
        """The names of columns."""
        return list(self.quantities)

    def targets(self, rows: Rows) -> NDArray[Any]:
        """``(N, Q)`` float32, NaN where unknown; raises as that of `ClassColumn`."""
        names = check_names(self.quantities, "quantities", rows.file)
        return rows.numbers(names, "a number, or nothing where it is unknown")

    def spec(self, rows: Rows, **image: Any) -> TaskSpec:
        """What heads need to know, without statistics; `image` is what `TaskSpec` says of images."""
        return RegressionSpec(**image, quantities=tuple(self.quantities), units=tuple(self.quantities.values()))


@dataclass(frozen=True)
class SurvivalColumns:
    """A column of times, and one that says of each whether the event was seen then.

    Attributes:
        time: The column of times, from 0 on.
        event: The column of 1 for an event and 0 for a censored time.
        unit: What times are in, such as months.
        times: At which predictions state the survival; empty for the quartiles of the events.
        intervals: As in `SurvivalSpec`.
    """

    time: str
    event: str
    unit: str
    times: Sequence[float] = ()
    intervals: int = 10

    @property
    def columns(self) -> Sequence[str]:
        """The names of columns."""
        return [self.time, self.event]

    def targets(self, rows: Rows) -> NDArray[Any]:
        """``(N, 2)`` float32; raises as that of `ClassColumn`."""
        check_names(self.columns, "the columns of time and event", rows.file)
        faults = Collector()
        with faults:
            meaning = f"the {self.unit} until the event or until nothing more is known, from 0 on"
            times = rows.numbers([self.time], meaning, least=0.0, known=True)
        with faults:
            events = rows.numbers([self.event], "1 where the event was seen, else 0", (0.0, 1.0), known=True)
        faults.raise_found()
        return np.hstack([times, events])

    def spec(self, rows: Rows, **image: Any) -> TaskSpec:
        """What heads need to know, without statistics; `image` is what `TaskSpec` says of images."""
        times = tuple(map(float, self.times))
        return SurvivalSpec(**image, time_unit=self.unit, times=times, intervals=self.intervals)


#: Columns that say one thing together.
Columns: TypeAlias = ClassColumn | LabelColumns | NumberColumns | SurvivalColumns
