"""What the readers of tables have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from umedpt_lightning.data.formats.columns import Columns
from umedpt_lightning.data.formats.faults import Collector
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import Images, TargetReader


class RowReader(TargetReader[Images]):
    """A class, labels or numbers of each row of a table, which all images of the row have."""

    def _read(
        self,
        table: Table | Path | str,
        split: str | None,
        columns: Columns,
        images: Callable[[Sequence[Path], Path], Images],
    ) -> None:
        """Sets everything, or raises all faults of the table at once.

        Args:
            table: The table.
            split: Which part.
            columns: What is known of each row.
            images: Makes the images of the files that the table names; its second argument is the table's file.
        """
        rows = read_rows(table, split, columns.columns)
        faults = Collector()
        with faults:
            self._of_rows = rows.groups()
        with faults:
            targets = columns.targets(rows)
        with faults:
            self._images = images(rows.paths(), rows.file)
        faults.raise_found()
        self.targets = targets if self._images.owners is None else targets[self._images.owners]
        read = self._images
        spec = columns.spec(rows, channels=read.channels, value_range=read.value_range, cut=read.cut)
        self.spec = spec.with_statistics(self.targets)
