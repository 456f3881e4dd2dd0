"""``metrics.csv`` in the run's folder."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger


class _AppendingWriter(_ExperimentWriter):
    """Goes on with a file that is there, where Lightning's own writer deletes it."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        if file.is_file():
            with file.open(newline="") as lines:
                self.metrics_keys = next(csv.reader(lines), [])


class RunLogger(CSVLogger):
    """Writes ``metrics.csv`` right into the run's folder; a resumed run appends to it.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> _ExperimentWriter:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment
