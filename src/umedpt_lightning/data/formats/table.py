"""Tables of samples, one part at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.table_files import read_columns
from umedpt_lightning.labels.wording import shorten

#: How programs write that nothing is known, in lower case. "none" is not among them: it is the name of many a class.
_UNKNOWN = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null"})
_MOST = float(np.finfo(np.float32).max)


def is_unknown(cell: str) -> bool:
    """Whether a cell says that nothing is known: it is empty, or NA, nan, null and the like."""
    return cell.lower() in _UNKNOWN


@dataclass(frozen=True)
class Table:
    """A table with one row an image, volume or slide, and what its columns are called.

    Attributes:
        file: CSV with a header or Parquet (``.parquet``, with the extra ``parquet``).
        path: Column of the files.
        split_column: Column that says the part; it need not be there where all rows are read.
        root: Folder that relative paths start from; None the table's own.
        group: Column of patients, centres or whatever else must not be parted by a split; None if there is none.
    """

    file: Path | str
    path: str = "path"
    split_column: str = "split"
    root: Path | str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of one part of a table.

    Attributes:
        table: Where they are from.
        columns: Cells by column name, stripped.
        names: What a message calls each row.
        everywhere: All cells of each column, those of other parts included.
    """

    table: Table
    columns: dict[str, list[str]]
    names: list[str]
    everywhere: dict[str, set[str]]

    @property
    def file(self) -> Path:
        """The table's file."""
        return Path(self.table.file)

    def paths(self, column: str | None = None) -> list[Path]:
        """The files that a column names; None for that of the images, volumes or slides.

        Raises:
            ValueError: Cells are empty.
        """
        root = self.file.parent if self.table.root is None else Path(self.table.root)
        return [root / cell for cell in self._filled(column or self.table.path, "Name the file, or remove the row.")]

    def groups(self) -> NDArray[np.str_] | None:
        """``(N,)`` the cells of the column of groups; None where there is none.

        Raises:
            ValueError: Cells are empty.
        """
        if self.table.group is None:
            return None
        return np.array(self._filled(self.table.group, "Name the group, one of its own if nothing shares it."))

    def numbers(
        self,
        columns: Sequence[str],
        meaning: str,
        only: Sequence[float] = (),
        least: float = -np.inf,
        known: bool = False,
    ) -> NDArray[np.float32]:
        """``(N, len(columns))`` numbers, NaN where a cell is empty.

        Args:
            columns: Column names.
            meaning: What a message says that a cell should be.
            only: The numbers there may be; empty for all.
            least: The lowest there may be.
            known: Whether no cell may be empty.

        Raises:
            ValueError: Cells are neither such a finite number nor empty.
        """
        result = np.full((len(self.names), len(columns)), np.nan, np.float32)
        faults = []
        for j, column in enumerate(columns):
            for i, cell in enumerate(self.columns[column]):
                if is_unknown(cell) and not known:
                    continue
                try:
                    number = float(cell)
                except ValueError:
                    number = np.inf
                if not max(least, -_MOST) <= number <= _MOST or (only and number not in only):
                    what = f"{column} is {cell!r}, but it should be {meaning}"
                    faults.append(ValueError(f"{self.names[i]}: {what}. Correct the cell."))
                else:
                    result[i, j] = number
        raise_all(faults)
        return result

    def _filled(self, column: str, mend: str) -> list[str]:
        cells = self.columns[column]
        raise_all([ValueError(f"{self.names[i]}: {column} is empty. {mend}") for i, c in enumerate(cells) if not c])
        return cells


def read_rows(table: Table | Path | str, split: str | None, columns: Sequence[str]) -> Rows:
    """Reads the rows of one part.

    Args:
        table: The table, or its file where its columns have the usual names.
        split: The text that marks the part; None for all rows.
        columns: Columns to keep, besides those that the table names.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is Parquet, and pyarrow is missing.
        ValueError: A column is missing or comes twice, a row has too many or too few cells, no row is of the part, or
            an image is in two parts.
    """
    if not isinstance(table, Table):
        table = Table(table)
    kept = list(dict.fromkeys([table.path, *columns, *([] if table.group is None else [table.group])]))
    wanted = list(dict.fromkeys([*kept, *([] if split is None else [table.split_column])]))
    cells, names = read_columns(Path(table.file), wanted)
    chosen = list(range(len(names)))
    if split is not None:
        chosen = _of_part(split, cells[table.split_column], cells[table.path], names)
    if not chosen:
        found = "no row at all" if split is None else f"no row has {split!r} in the column {table.split_column}, only "
        parts = "" if split is None else shorten(sorted(set(cells[table.split_column])))
        raise ValueError(f"{table.file}: {found}{parts}. Correct `split` or the table, or leave this part out.")
    return Rows(
        table,
        columns={column: [cells[column][i] for i in chosen] for column in kept},
        names=[names[i] for i in chosen],
        everywhere={column: set(cells[column]) for column in kept},
    )


def _of_part(split: str, parts: Sequence[str], images: Sequence[str], names: Sequence[str]) -> list[int]:
    """The rows of a part."""
    split_of: dict[str, str] = {}
    raise_all(
        [
            ValueError(
                f"{name}: {image} is in the parts {split_of[image]!r} and {part!r}. An image that is trained on "
                "cannot measure: keep it in one part."
            )
            for name, image, part in zip(names, images, parts, strict=True)
            if split_of.setdefault(image, part) != part
        ]
    )
    return [i for i, part in enumerate(parts) if part == split]
