"""Bags: all images of a patient, a slide or a study are one sample with one target."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.columns import ClassColumn, LabelColumns, NumberColumns, SurvivalColumns
from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.table import Rows, Table, read_rows
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.readers.subset import matches
from umedpt_lightning.labels.wording import shorten
from umedpt_lightning.types import Bag, Sample, TaskSpec
from umedpt_lightning.types.bags import shares

_MOST_NAMED = 5


class Bags(Reader):
    r"""Groups the samples of another reader; a sample is a bag of them, with what a table says of it.

    Args:
        reader: The images, slices or tiles.
        of: What a bag is, such as patient, slide or study.
        group: A regular expression with one group in parentheses, found in the name of each image: those whose text
            there is equal are of one bag, as in ``patient(\d+)_``. None for the groups that the reader knows: those of
            the table's column of groups, else the volume or slide that it is a piece of.
        table: A table with the bags in its column `path`, and what is known of them; None where the targets of the
            images say it, which must then be equal in a bag.
        split: The rows of that table which count; None for all. Those of bags without images do nothing.
        columns: What the table says: ``{label: grade}``, ``{columns: [edema, mass]}``, ``{quantities: {age: years}}``,
            or ``{time: months, event: died, unit: months}``.
        max_instances: In training so many images of a bag are drawn, others in each pass; None for all, as always in
            evaluation.
        position: A regular expression with one group in parentheses that finds the number of an image in its name, as
            in ``_(\d+)\.png``, for a block of bags that uses positions. None for what the reader knows: the number of
            a slice, or the place of a tile.

    Raises:
        FileNotFoundError: The table is missing.
        ValueError: The table or the expression cannot be used, images have no group, or a bag has no target or several
            that differ.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        reader: Reader,
        of: str = "bag",
        group: str | None = None,
        table: Table | Path | str | None = None,
        split: str | None = None,
        columns: ClassColumn | LabelColumns | NumberColumns | SurvivalColumns | None = None,
        max_instances: int | None = None,
        position: str | None = None,
    ) -> None:
        if max_instances is not None and max_instances < 1:
            raise ValueError(f"max_instances is {max_instances}, but at least one image is drawn; null takes all.")
        if (table is None) != (columns is None):
            raise ValueError("A table of bags needs `columns` that say what it says of them, and the other way round.")
        if reader.spec.bag:
            raise ValueError(f"The reader gives bags ({reader.spec.bag}) already. Give it that of the images.")
        self._reader, self._max, self._group = reader, max_instances, group
        found = _groups(reader, group)
        self._names, owners = np.unique(found, return_inverse=True)
        order = np.argsort(owners, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(owners))[:-1])
        self._places = reader.places if position is None else _numbers(reader, position)
        self._without: frozenset[str] = frozenset()
        if table is None or columns is None:
            spec, self.targets = reader.spec, self._targets_of_images(of)
        else:
            rows = read_rows(table if isinstance(table, Table) else Table(table), split, columns.columns)
            self.targets = self._targets_of_rows(of, rows, columns.targets(rows))
            read = reader.spec
            spec = columns.spec(rows, channels=read.channels, value_range=read.value_range, cut=read.cut)
        made = {  # how `predict` finds the bags of files, and whether it is known where their images lie
            "group": group,
            "column": reader.spec.cut.get("table", {}).get("group"),
            "position": position,
            "placed": self._places is not None,
        }
        cut = {**spec.cut, "bag": made}
        self.spec: TaskSpec = replace(spec, bag=of, cut=cut).with_statistics(self.targets)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Bag:
        """The bag with all its images, in the order of the reader."""
        index = self._at(index)
        return self._bag(index, np.arange(len(self._members[index])))

    def draw(self, index: int, seed: int) -> Bag:
        """The bag with at most `max_instances` of its images, in the order of the reader."""
        index = self._at(index)
        count = len(self._members[index])
        chosen = np.arange(count)
        if self._max is not None and self._max < count:
            chosen = np.sort(np.random.default_rng(seed).choice(count, self._max, replace=False))
        return self._bag(index, chosen)

    def cached(self, keep: Callable[[Reader], Reader]) -> Reader:
        """The images are kept, not the bags."""
        bags = copy.copy(self)
        bags._reader = keep(self._reader)
        return bags

    @property
    def without_images(self) -> frozenset[str]:
        """Bags in the table."""
        return self._without

    def name(self, index: int) -> str:
        """The bag's."""
        return str(self._names[self._at(index)])

    def found(self) -> Iterable[Path]:
        """As the reader's."""
        return self._reader.found()

    @property
    def groups(self) -> NDArray[np.str_]:
        """The bags, or the groups that the reader knows of them where they go by an expression."""
        known = self._reader.groups if self._group is not None else None
        return self._names if known is None else known[[rows[0] for rows in self._members]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Of each bag."""
        return np.array([len(rows) for rows in self._members], np.int64)

    def _bag(self, index: int, chosen: NDArray[np.int64]) -> Bag:
        rows, target = self._members[index], self.targets[index]
        self._reader.ahead(rows[chosen].tolist())
        instances: list[Sample] = [self._reader[row] for row in rows[chosen].tolist()]
        positions = None if self._places is None else shares(self._places[rows])[chosen]
        return Bag.of(instances, target.copy() if target.ndim else target.item(), self.name(index), positions)

    def _targets_of_images(self, of: str) -> NDArray[Any]:
        targets = self._reader.targets
        if targets is None:
            raise ValueError(
                f"{type(self._reader).__name__} has no `targets`, which would say what its images have. Give a `table` "
                f"of what {of}s have, or set `targets` in its constructor."
            )
        differ = []
        for name, rows in zip(self._names.tolist(), self._members, strict=True):
            others = rows[[not np.array_equal(targets[row], targets[rows[0]], equal_nan=True) for row in rows]]
            if len(others):
                one, other = self._reader.name(rows[0]), self._reader.name(others[0])
                differ.append(
                    ValueError(
                        f"{other}: its target differs from that of {one}, which is of the same {of} {name!r}. Correct "
                        "one, or give a `table` with one row for each."
                    )
                )
        raise_all(differ)
        return targets[[rows[0] for rows in self._members]]

    def _targets_of_rows(self, of: str, rows: Rows, targets: NDArray[Any]) -> NDArray[Any]:
        row_of: dict[str, int] = {}
        faults = []
        for row, name in enumerate(rows.columns[rows.table.path]):
            first = row_of.setdefault(name, row)
            if not np.array_equal(targets[row], targets[first], equal_nan=True):
                faults.append(
                    ValueError(
                        f"{rows.names[row]}: it says something else of the {of} {name!r} than {rows.names[first]}. "
                        "Keep one row for each."
                    )
                )
        lacking = [name for name in self._names.tolist() if name not in row_of]
        if lacking:
            faults.append(
                ValueError(
                    f"{rows.file}: {len(lacking)} of {len(self._names)} {of}s with images have no row: "
                    f"{shorten(lacking, _MOST_NAMED)}. Write one for each, or leave their images out."
                )
            )
        raise_all(faults)
        self._without = frozenset(row_of) - frozenset(self._names.tolist())
        return targets[[row_of[name] for name in self._names.tolist()]]


def _numbers(reader: Reader, position: str) -> NDArray[np.float32]:
    found = matches(position, [reader.name(i) for i in range(len(reader))], "position")
    return numbered(found.tolist(), position)


def numbered(texts: list[str], position: str) -> NDArray[np.float32]:
    """Places ``(N, 2)`` of what the expression of positions found in names; raises ValueError for what is no number."""
    try:
        return np.array([[float(text), 0.0] for text in texts], np.float32)
    except ValueError as error:
        raise ValueError(
            f"position is {position!r}, but what it finds in names is no number ({error}). Put the parentheses around "
            "digits."
        ) from error


def _groups(reader: Reader, group: str | None) -> NDArray[np.str_]:
    if group is not None:
        return matches(group, [reader.name(i) for i in range(len(reader))], "group")
    if reader.groups is None:
        raise ValueError(
            "The reader knows no groups of its images, so nothing tells the bags. Give its table a column of groups "
            r"(`table: {file: ..., group: patient}`), or `group`, a regular expression such as `patient(\d+)_`."
        )
    return reader.groups
