"""Tables of samples, one part at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.paths import Paths
from umedpt_lightning.data.formats.patterns import columns_of, fill
from umedpt_lightning.data.formats.table_file import RowNames, read_columns
from umedpt_lightning.data.formats.texts import Coded, Texts
from umedpt_lightning.labels.wording import shorten

#: How programs write that nothing is known, in lower case. "none" is not among them: it is the name of many a class.
_UNKNOWN = frozenset(
    {"", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "1.#qnan", "-1.#ind"}
)
_MOST_SEEN = 1 << 16  # different cells that are remembered


def is_unknown(cell: str) -> bool:
    """Whether a cell says that nothing is known: it is empty, or NA, nan, null and the like."""
    return cell.lower() in _UNKNOWN


@dataclass(frozen=True)
class Table:
    """A table with one row an image, volume or slide, and what its columns are called.

    Attributes:
        file: CSV with a header or Parquet (``.parquet``, with the extra ``parquet``).
        path: Column of the files. Or a path with columns in braces, such as ``images/{patient}.png``, where ``*`` (and
            ``**/`` for folders) stands for what no column says.
        split_column: Column that says the part; it need not be there where all rows are read.
        root: Folder that relative paths start from; None the table's own.
        group: Column of patients, centres or whatever else must not be parted by a split; None if there is none.
        unknown: Cells that say that nothing is known, besides those that are empty, NA, nan or null, such as ``-1.0``.
    """

    file: Path | str
    path: str = "path"
    split_column: str = "split"
    root: Path | str | None = None
    group: str | None = None
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rows:
    """The rows of one part of a table.

    Attributes:
        table: Where they are from.
        columns: Cells by column name, stripped.
        names: What a message calls each row.
        whole: All cells of each column, those of other parts included.
    """

    table: Table
    columns: Mapping[str, Texts]
    names: RowNames
    whole: Mapping[str, Texts]

    @property
    def file(self) -> Path:
        """The table's file."""
        return Path(self.table.file)

    def everywhere(self, column: str) -> set[str]:
        """The different cells of a column, those of other parts included."""
        return set(self.whole[column])

    def paths(self, column: str | None = None) -> Paths:
        """The files that a column names, or that of the images; raises ValueError where cells are empty."""
        root = self.file.parent if self.table.root is None else Path(self.table.root)
        return Paths.below(root, self._filled(column or self.table.path, "Name the file, or remove the row."))

    def groups(self) -> Coded | None:
        """The cells of the column of groups, None without one; raises ValueError where cells are empty."""
        if self.table.group is None:
            return None
        return self._filled(self.table.group, "Name the group, one of its own if nothing shares it.").coded()

    def numbers(
        self,
        columns: Sequence[str],
        meaning: str,
        only: Sequence[float] = (),
        least: float = -np.inf,
        known: bool = False,
    ) -> NDArray[np.float32]:
        """``(N, len(columns))`` numbers, NaN where a cell is empty.

        Raises ValueError, which says that a cell should be `meaning`, where one is no finite number, none of `only`,
        lower than `least`, or empty where all must be `known`.
        """
        result = np.full((len(self.names), len(columns)), np.nan, np.float32)
        most = float(np.finfo(np.float32).max)
        faults = []
        for j, column in enumerate(columns):
            seen: dict[str, float | None] = {}  # most cells are one of few
            for i, cell in enumerate(self.columns[column]):
                if cell not in seen:
                    if len(seen) > _MOST_SEEN:
                        seen.clear()
                    seen[cell] = _number(cell, known)
                number = seen[cell]
                if number is None:
                    continue
                if not max(least, -most) <= number <= most or (only and number not in only):
                    what = f"{column} is {cell!r}, but it should be {meaning}"
                    faults.append(ValueError(f"{self.names[i]}: {what}. Correct the cell."))
                else:
                    result[i, j] = number
        raise_all(faults)
        return result

    def _filled(self, column: str, mend: str) -> Texts:
        cells = self.columns[column]
        empty = np.flatnonzero(cells.lengths == 0).tolist()
        raise_all([ValueError(f"{self.names[i]}: {column} is empty. {mend}") for i in empty])
        return cells


def _number(cell: str, known: bool) -> float | None:
    """None where nothing is known, infinity where it is no number, though something must be `known`."""
    if is_unknown(cell) and not known:
        return None
    try:
        return np.inf if "_" in cell else float(cell)  # to Python 1_5 is 15
    except ValueError:
        return np.inf


def read_rows(table: Table | Path | str, split: str | None, columns: Sequence[str]) -> Rows:
    """Reads the rows of one part.

    Args:
        table: The table, or its file where its columns have the usual names.
        split: The text that marks the part; None for all rows.
        columns: Columns to keep, besides those that the table names.

    Raises:
        ValueError: A column is missing or comes twice, a row has too many or too few cells, no row is of the part, or
            an image is in two parts. More as for `read_columns`.
    """
    if not isinstance(table, Table):
        table = Table(table)
    parts = columns_of(table.path)
    kept = list(dict.fromkeys([*(parts or [table.path]), *columns, *([] if table.group is None else [table.group])]))
    wanted = list(dict.fromkeys([*kept, *([] if split is None else [table.split_column])]))
    cells, names = read_columns(Path(table.file), wanted)
    if table.unknown:
        unknown = frozenset(table.unknown)
        cells = {column: Texts.of("" if c in unknown else c for c in found) for column, found in cells.items()}
    if parts:
        root = Path(table.file).parent if table.root is None else Path(table.root)
        cells[table.path] = Texts.of(fill(table.path, {p: [*cells[p]] for p in parts}, names, root, table.file))
        kept.append(table.path)
    chosen = np.arange(len(names))
    if split is not None:
        chosen = _of_part(split, cells[table.split_column], cells[table.path], names, table.file)
    if not len(chosen):
        found = "no row at all" if split is None else f"no row has {split!r} in the column {table.split_column}, only "
        there = "" if split is None else shorten(sorted(set(cells[table.split_column])))
        raise ValueError(f"{table.file}: {found}{there}. Correct `split` or the table, or leave this part out.")
    return Rows(
        table,
        columns={column: cells[column].take(chosen) if split is not None else cells[column] for column in kept},
        names=names.take(chosen),
        whole={column: cells[column] for column in kept},
    )


def _of_part(split: str, parts: Texts, images: Texts, names: Sequence[str], file: object) -> NDArray[np.int64]:
    """The rows of a part; raises where an image is in several."""
    coded, hashes = parts.coded(), images.hashes()
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    twice = same & (coded.codes[order[1:]] != coded.codes[order[:-1]])
    # few images, or none: only these are compared letter by letter
    suspects = np.flatnonzero(np.isin(hashes, hashes[order[1:][twice]])).tolist() if twice.any() else []
    split_of: dict[str, str] = {}
    raise_all(
        [
            ValueError(
                f"{names[i]}: {images[i]} is in the parts {split_of[images[i]]!r} and {parts[i]!r}. An image that is "
                "trained on cannot measure: keep it in one part."
            )
            for i in suspects
            if split_of.setdefault(images[i], parts[i]) != parts[i]
        ]
    )
    if split in coded.names:
        warn_of_alike(split, dict(zip(coded.names.tolist(), np.bincount(coded.codes).tolist(), strict=True)), file)
    return np.flatnonzero(np.isin(coded.codes, np.flatnonzero(coded.names == split)))


def warn_of_alike(split: str, rows: Mapping[str, int], file: object) -> None:
    """Warns of rows that are left out since their part is spelt in another case; `rows` counts those of each part."""
    alike = sorted(part for part in rows if part != split and part.casefold() == split.casefold())
    if alike:
        left_out = sum(rows[part] for part in alike)
        what = f"{left_out} rows are left out, whose part is {shorten(alike)}, not {split!r}"
        warnings.warn(f"{file}: {what}. Write them alike.", stacklevel=4)
