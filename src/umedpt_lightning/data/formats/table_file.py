"""Files of tables, CSV and Parquet, as columns of text."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.data.formats.missing import no_such_file
from umedpt_lightning.data.formats.text_files import open_lines
from umedpt_lightning.data.formats.texts import GrowingTexts, Texts
from umedpt_lightning.labels.wording import shorten

_PARQUET = (".parquet", ".pq")
_ROWS = 1 << 14  # of a table that are lists of strings at a time
#: What tables have between their columns where it is no comma.
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class RowNames(Sequence[str]):
    """What a message calls each row: the file, what its rows are counted in, and the number ``(N,)`` of each."""

    def __init__(self, file: Path, unit: str, numbers: NDArray[np.int64]) -> None:
        self._file, self._unit, self._numbers = file, unit, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """The name of a row, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return f"{self._file} {self._unit} {self._numbers[index]}"

    def take(self, rows: NDArray[np.int64]) -> RowNames:
        """Those of some rows."""
        return RowNames(self._file, self._unit, self._numbers[rows])


def read_columns(file: Path, wanted: Sequence[str]) -> tuple[dict[str, Texts], RowNames]:
    """Cells of columns of a CSV file with a header or of Parquet, stripped, and what a message calls each row.

    Raises FileNotFoundError where there is no such file, ImportError where it is Parquet and pyarrow is missing, and
    ValueError where a column is missing or comes twice, or a row has too many or too few cells.
    """
    return (_parquet if file.suffix.lower() in _PARQUET else _csv)(file, wanted)


def _csv(file: Path, wanted: Sequence[str]) -> tuple[dict[str, Texts], RowNames]:
    with open_lines(file) as lines:
        reader = csv.reader(lines, skipinitialspace=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            places = [_place(column, header, file) for column in wanted]
            columns, numbers = _Columns(places), array("q")
            faults: list[ValueError] = []
            count = 1
            for count, found in enumerate(reader, 2):  # noqa: B007  # of the last row
                if not any(found):
                    continue  # a blank line
                if len(found) != len(header):
                    what = f"{len(found)} cells, but the header has {len(header)}"
                    faults.append(ValueError(f"{file} line {reader.line_num}: {what}. Quote cells with commas."))
                    continue
                numbers.append(reader.line_num)
                columns.add(found)
        except csv.Error as error:
            raise ValueError(f"{file} line {reader.line_num}: not CSV ({error}). Write the table again.") from error
    if reader.line_num > count:
        _check_quotes(file)
    raise_all(faults)
    names = RowNames(file, "line", np.frombuffer(numbers, np.int64))
    return dict(zip(wanted, columns.texts(), strict=True)), names


def _check_quotes(file: Path) -> None:
    """Raises ValueError where a quote that is not closed takes the rows up to the next quote into its cell."""
    row: list[str] = []  # its lines
    begin = 1

    def kept(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            row.append(line)
            yield line

    with open_lines(file) as lines:
        try:
            for _ in csv.reader(kept(lines), skipinitialspace=True):
                if len(row) > 1:
                    next(csv.reader(row, skipinitialspace=True, strict=True))
                begin += len(row)
                row.clear()
        except csv.Error as error:
            raise ValueError(
                f"{file} line {begin}: a quote of the row that begins here is not closed, so that rows are lost "
                f"({error}). Close it, or double quotes within a cell."
            ) from error


def _parquet(file: Path, wanted: Sequence[str]) -> tuple[dict[str, Texts], RowNames]:
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
    cells = {
        column: Texts.of(_text(value) for batch in table.column(column).chunks for value in batch.to_pylist())
        for column in wanted
    }
    return cells, RowNames(file, "row", np.arange(1, table.num_rows + 1))


class _Columns:
    """Columns, by their places in a row, that grow row by row; every so many rows they become texts."""

    def __init__(self, places: Sequence[int]) -> None:
        self._cells: list[tuple[int, list[str]]] = [(place, []) for place in places]
        self._grown = [GrowingTexts() for _ in places]
        self._rows = 0

    def add(self, row: list[str]) -> None:
        for place, cells in self._cells:  # a list a row would keep the garbage collector busy
            cells.append(row[place].strip())
        self._rows += 1
        if self._rows == _ROWS:
            self._flush()

    def texts(self) -> list[Texts]:
        self._flush()
        return [grown.texts() for grown in self._grown]

    def _flush(self) -> None:
        for grown, (_, cells) in zip(self._grown, self._cells, strict=True):
            grown.add(cells)
            cells.clear()
        self._rows = 0


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float() if np.isnan(value):
            return ""
        case bytes():  # a text whose writer did not say so
            return value.decode(errors="surrogateescape").strip()
    return str(value).strip()


def _place(column: str, header: list[str], file: Path) -> int:
    if header.count(column) != 1:
        mend = "Correct its name in the configuration or in the file"
        if len(header) == 1 and (others := [name for sign, name in _SEPARATORS.items() if sign in header[0]]):
            mend = f"It seems to have {' and '.join(others)} between its columns. Save it with commas"
        raise ValueError(
            f"{file}: the column {column!r} comes {header.count(column)} times, the header is {shorten(header, 20)}. "
            f"{mend} (CSV: comma separated, with a header)."
        )
    return header.index(column)
