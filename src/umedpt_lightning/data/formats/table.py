"""Tables of samples, CSV or Parquet, as text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.labels import shorten

_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class Table:
    """The rows of one part of a table.

    Attributes:
        columns: Cells by column name, stripped.
        rows: What a message calls each row.
        everywhere: All cells of each column, those of other parts included.
        root: Where relative paths start.
    """

    columns: dict[str, list[str]]
    rows: list[str]
    everywhere: dict[str, set[str]]
    root: Path

    def paths(self, column: str) -> list[Path]:
        """The files that a column names.

        Raises:
            ValueError: A cell is empty.
        """
        return [self.root / cell for cell in self._filled(column, "Name the file, or remove the row.")]

    def groups(self, column: str | None) -> NDArray[np.str_] | None:
        """``(N,)`` the cells of a column of groups; None where no column is given.

        Raises:
            ValueError: A cell is empty.
        """
        if column is None:
            return None
        return np.array(self._filled(column, "Name the group, one of its own if nothing shares it."))

    def numbers(self, columns: Sequence[str], meaning: str) -> NDArray[np.float32]:
        """``(N, len(columns))`` numbers, NaN where a cell is empty.

        Raises:
            ValueError: A cell is neither a finite number nor empty.
        """
        result = np.full((len(self.rows), len(columns)), np.nan, np.float32)
        for j, column in enumerate(columns):
            for i, cell in enumerate(self.columns[column]):
                if cell.lower() in ("", "nan"):  # tables written by programs may spell it out
                    continue
                try:
                    number = float(cell)
                except ValueError:
                    number = np.inf
                if abs(number) > float(np.finfo(np.float32).max):
                    raise ValueError(f"{self.rows[i]}: {column} is {cell!r}, but it should be {meaning}.")
                result[i, j] = number
        return result

    def _filled(self, column: str, mend: str) -> list[str]:
        cells = self.columns[column]
        if "" in cells:
            raise ValueError(f"{self.rows[cells.index('')]}: {column} is empty. {mend}")
        return cells


def read_table(
    file: Path | str,
    split: str | None,
    columns: Sequence[str],
    path: str,
    split_column: str,
    root: Path | str | None,
    group: str | None = None,
) -> Table:
    """Reads the rows of one part.

    Args:
        file: CSV with a header, or Parquet.
        split: The text that marks the part; None for all rows.
        columns: Columns to keep, besides that of the paths.
        path: Column of image paths.
        split_column: Column that says the part; it need not be there where `split` is None.
        root: Where relative paths start; None the file's folder.
        group: Column of groups to keep, None if there is none.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: It is Parquet, and pyarrow is missing.
        ValueError: A column is missing or comes twice, a row has too many or too few cells, no row is of the part, or
            an image is in two parts.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file. Correct the path in the configuration.")
    kept = list(dict.fromkeys([path, *columns, *([] if group is None else [group])]))
    wanted = list(dict.fromkeys([*kept, *([] if split is None else [split_column])]))
    cells, rows = (_parquet if file.suffix.lower() in _PARQUET else _csv)(file, wanted)
    chosen = list(range(len(rows))) if split is None else _of_part(split, cells[split_column], cells[path], rows)
    if not chosen:
        found = "no row at all" if split is None else f"no row has {split!r} in the column {split_column}, only "
        parts = "" if split is None else shorten(sorted(set(cells[split_column])))
        raise ValueError(f"{file}: {found}{parts}. Correct `split` or the table, or leave this part out.")
    return Table(
        columns={column: [cells[column][i] for i in chosen] for column in kept},
        rows=[rows[i] for i in chosen],
        everywhere={column: set(cells[column]) for column in kept},
        root=file.parent if root is None else Path(root),
    )


def _of_part(split: str, parts: Sequence[str], images: Sequence[str], rows: Sequence[str]) -> list[int]:
    """The rows of a part."""
    split_of: dict[str, str] = {}
    for row, image, part in zip(rows, images, parts, strict=True):
        if split_of.setdefault(image, part) != part:
            raise ValueError(
                f"{row}: {image} is in the parts {split_of[image]!r} and {part!r}. An image that is trained on "
                "cannot measure: keep it in one part."
            )
    return [i for i, part in enumerate(parts) if part == split]


def _csv(file: Path, wanted: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Cells of the columns, and what a message calls each row."""
    cells: dict[str, list[str]] = {column: [] for column in wanted}
    rows: list[str] = []
    with file.open(newline="", encoding="utf-8-sig") as stream:  # -sig: spreadsheets put a byte order mark in front
        reader = csv.reader(stream)
        header = [cell.strip() for cell in next(reader, [])]
        place = {column: _place(column, header, file) for column in wanted}
        for found in reader:
            if not any(found):
                continue  # a blank line
            rows.append(f"{file} line {reader.line_num}")
            if len(found) != len(header):
                raise ValueError(
                    f"{rows[-1]}: {len(found)} cells, but the header has {len(header)}. Quote cells with commas."
                )
            for column in wanted:
                cells[column].append(found[place[column]].strip())
    return cells, rows


def _parquet(file: Path, wanted: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """As `_csv`; cells are as a CSV file of the same table would have them."""
    pyarrow, parquet = require("pyarrow", "parquet", file), require("pyarrow.parquet", "parquet", file)
    try:
        header = parquet.read_schema(file).names
        for column in wanted:
            _place(column, header, file)
        table = parquet.read_table(file, columns=list(wanted), partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a Parquet file that can be read ({error}). Write it again.") from error
    cells = {column: [_text(value) for value in table.column(column).to_pylist()] for column in wanted}
    return cells, [f"{file} row {i + 1}" for i in range(table.num_rows)]


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float() if np.isnan(value):
            return ""
    return str(value).strip()


def _place(column: str, header: list[str], file: Path) -> int:
    if header.count(column) != 1:
        raise ValueError(
            f"{file}: the column {column!r} comes {header.count(column)} times, the header is {shorten(header, 20)}. "
            "Correct its name in the configuration or in the file (CSV: comma separated, with a header)."
        )
    return header.index(column)
