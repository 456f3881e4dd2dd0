"""``metrics.csv`` in the run's folder."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger

from umedpt_lightning.io.atomic import atomic_write, synchronise


class _AppendingWriter(_ExperimentWriter):
    """Goes on with a file that is there, where Lightning's own writer deletes it.

    It is a file of this machine; to ask fsspec for it, as Lightning does, takes half of the time of a row.
    """

    def _check_log_dir_exists(self) -> None:
        if rows := self._read():
            self.metrics_keys = list(rows[0])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(fieldnames, self._read())

    def save(self) -> None:
        """Appends what is new."""
        if not self.metrics:
            return
        file = Path(self.metrics_file_path)
        begun = file.is_file()
        if self._record_new_keys() and begun:
            self._rewrite_with_new_header(self.metrics_keys)
        with file.open("a", newline="") as lines:
            writer = csv.DictWriter(lines, self.metrics_keys)
            if not begun:
                writer.writeheader()
            writer.writerows(self.metrics)
        self.metrics = []

    def count(self) -> int:
        """Rows of the file, brought to the disk."""
        self.save()
        file = Path(self.metrics_file_path)
        if not file.is_file():
            return 0
        synchronise(file)
        return len(self._read())

    def cut(self, rows: int) -> None:
        """Keeps so many rows."""
        known = self._read()
        if rows >= len(known):
            return
        if rows:
            self._write(self.metrics_keys, known[:rows])
        else:
            Path(self.metrics_file_path).unlink()
            self.metrics_keys = []

    def _read(self) -> list[dict[str, Any]]:
        file = Path(self.metrics_file_path)
        if not file.is_file():
            return []
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))

    def _write(self, keys: list[str], rows: list[dict[str, Any]]) -> None:
        with atomic_write(Path(self.metrics_file_path)) as unfinished, unfinished.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, keys)
            writer.writeheader()
            writer.writerows(rows)


class RunLogger(CSVLogger):
    """Writes ``metrics.csv`` right into the run's folder; a resumed run appends to it."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> _AppendingWriter:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment  # type: ignore[return-value]  # Lightning's type is that of its own

    @rank_zero_only
    def rows(self) -> int:
        """Rows that the file holds now, for a checkpoint to remember; nothing on other ranks than the first."""
        rows: int = self.experiment.count()
        return rows

    @rank_zero_only
    def rewind(self, rows: int) -> None:
        """Drops what was logged after the checkpoint from which the run goes on."""
        self.experiment.cut(rows)
