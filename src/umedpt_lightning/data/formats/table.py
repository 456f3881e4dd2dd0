"""Tables of samples, CSV and Parquet, as columns of text and one part at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.missing import no_such_file
from umedpt_lightning.data.formats.patterns import columns_of, fill
from umedpt_lightning.data.formats.text_files import read_text
from umedpt_lightning.labels.wording import shorten

#: How programs write that nothing is known, in lower case. "none" is not among them: it is the name of many a class.
_UNKNOWN = frozenset(
    {"", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "1.#qnan", "-1.#ind"}
)
_PARQUET = (".parquet", ".pq")


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
        """The files that a column names, or that of the images; raises ValueError where cells are empty."""
        root = self.file.parent if self.table.root is None else Path(self.table.root)
        return [root / cell for cell in self._filled(column or self.table.path, "Name the file, or remove the row.")]

    def groups(self) -> NDArray[np.str_] | None:
        """``(N,)`` the cells of the column of groups, None without one; raises ValueError where cells are empty."""
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

        Raises ValueError, which says that a cell should be `meaning`, where one is no finite number, none of `only`,
        lower than `least`, or empty where all must be `known`.
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
                most = float(np.finfo(np.float32).max)
                if not max(least, -most) <= number <= most or (only and number not in only):
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
        cells = {column: ["" if c in table.unknown else c for c in found] for column, found in cells.items()}
    if parts:
        root = Path(table.file).parent if table.root is None else Path(table.root)
        cells[table.path] = fill(table.path, cells, names, root, table.file)
        kept.append(table.path)
    chosen = list(range(len(names)))
    if split is not None:
        chosen = _of_part(split, cells[table.split_column], cells[table.path], names)
    if not chosen:
        found = "no row at all" if split is None else f"no row has {split!r} in the column {table.split_column}, only "
        there = "" if split is None else shorten(sorted(set(cells[table.split_column])))
        raise ValueError(f"{table.file}: {found}{there}. Correct `split` or the table, or leave this part out.")
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


def read_columns(file: Path, wanted: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Cells of columns of a CSV file with a header or of Parquet, stripped, and what a message calls each row.

    Raises FileNotFoundError where there is no such file, ImportError where it is Parquet and pyarrow is missing, and
    ValueError where a column is missing or comes twice, or a row has too many or too few cells.
    """
    return (_parquet if file.suffix.lower() in _PARQUET else _csv)(file, wanted)


def _csv(file: Path, wanted: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    cells: dict[str, list[str]] = {column: [] for column in wanted}
    rows: list[str] = []
    faults: list[ValueError] = []
    reader = csv.reader(io.StringIO(read_text(file), newline=""))
    try:
        header = [cell.strip() for cell in next(reader, [])]
        place = {column: _place(column, header, file) for column in wanted}
        for found in reader:
            if not any(found):
                continue  # a blank line
            rows.append(f"{file} line {reader.line_num}")
            if len(found) != len(header):
                what = f"{len(found)} cells, but the header has {len(header)}"
                faults.append(ValueError(f"{rows[-1]}: {what}. Quote cells with commas."))
                continue
            for column in wanted:
                cells[column].append(found[place[column]].strip())
    except csv.Error as error:
        raise ValueError(f"{file} line {reader.line_num}: not CSV ({error}). Write the table again.") from error
    raise_all(faults)
    return cells, rows


def _parquet(file: Path, wanted: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """As `_csv`; cells are as a CSV file of the same table would have them."""
    if not file.is_file():
        raise no_such_file(file, "Correct the path in the configuration.")
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
