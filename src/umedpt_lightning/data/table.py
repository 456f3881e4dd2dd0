"""CSV tables of samples, as text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.labels import shorten


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
        cells = self.columns[column]
        if "" in cells:
            raise ValueError(f"{self.rows[cells.index('')]}: {column} is empty. Name the file, or remove the row.")
        return [self.root / cell for cell in cells]

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


def read_table(
    file: Path | str, split: str, columns: Sequence[str], path: str, split_column: str, root: Path | str | None
) -> Table:
    """Reads the rows of one part.

    Args:
        file: CSV with a header.
        split: The text that marks the part.
        columns: Columns to keep, besides that of the paths.
        path: Column of image paths.
        split_column: Column that says the part.
        root: Where relative paths start; None the file's folder.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing or comes twice, a row has too many or too few cells, no row is of the part, or
            an image is in two parts.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such file. Correct the path in the configuration.")
    wanted = [path, *columns]
    table = Table({c: [] for c in wanted}, [], {c: set() for c in wanted}, file.parent if root is None else Path(root))
    split_of: dict[str, str] = {}
    with file.open(newline="", encoding="utf-8-sig") as stream:  # -sig: spreadsheets put a byte order mark in front
        reader = csv.reader(stream)
        header = [cell.strip() for cell in next(reader, [])]
        place = {column: _place(column, header, file) for column in [*wanted, split_column]}
        for cells in reader:
            if not any(cells):
                continue  # a blank line
            row = f"{file} line {reader.line_num}"
            if len(cells) != len(header):
                raise ValueError(
                    f"{row}: {len(cells)} cells, but the header has {len(header)}. Quote cells with commas."
                )
            part, image = cells[place[split_column]].strip(), cells[place[path]].strip()
            if split_of.setdefault(image, part) != part:
                raise ValueError(
                    f"{row}: {image} is in the parts {split_of[image]!r} and {part!r}. An image that is trained on "
                    "cannot measure: keep it in one part."
                )
            for column in wanted:
                cell = cells[place[column]].strip()
                table.everywhere[column].add(cell)
                if part == split:
                    table.columns[column].append(cell)
            if part == split:
                table.rows.append(row)
    if not table.rows:
        raise ValueError(
            f"{file}: no row has {split!r} in the column {split_column}, only "
            f"{shorten(sorted(set(split_of.values())))}. Correct `split`, or leave this part out."
        )
    return table


def _place(column: str, header: list[str], file: Path) -> int:
    if header.count(column) != 1:
        raise ValueError(
            f"{file}: the column {column!r} comes {header.count(column)} times, the header is {shorten(header, 20)}. "
            "Correct its name in the configuration or in the file (comma separated, with a header)."
        )
    return header.index(column)
