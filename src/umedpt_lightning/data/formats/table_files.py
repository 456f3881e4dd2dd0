"""CSV and Parquet as columns of text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.missing import no_such_file
from umedpt_lightning.data.formats.text_files import read_text
from umedpt_lightning.labels.wording import shorten

_PARQUET = (".parquet", ".pq")


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
