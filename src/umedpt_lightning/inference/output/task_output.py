"""What is written of one task's predictions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.output import overlays
from umedpt_lightning.inference.output.file_names import file_name
from umedpt_lightning.inference.output.journal import CocoImage, Journal, Record
from umedpt_lightning.labels import TableRow
from umedpt_lightning.tasks import Task


class TaskOutput:
    """A task's table, its COCO file, and files for single inputs in a folder of its name.

    Args:
        out: The folder of all predictions.
        name: The task's name.
        task: The task.
        journal: What is done already.
        min_score: Boxes with a lower score are neither counted nor drawn.
        draw: Whether to write overlays.
    """

    def __init__(
        self, out: Path, name: str, task: Task, journal: Journal, min_score: float = 0.3, draw: bool = False
    ) -> None:
        self.out, self.name, self.task, self.journal = out, name, task, journal
        self.min_score, self.draw = min_score, draw

    def row(self, prediction: Any, area: float | None) -> TableRow:
        """What the table says of one prediction, of an area in µm²."""
        return self.task.spec.row(self.confident(prediction), area)

    def confident(self, prediction: Any) -> Any:
        """The prediction without objects whose score is below `min_score`."""
        return self.task.spec.confident(prediction, self.min_score)

    def coco(self, name: str, size: tuple[int, int], prediction: Any, id: int | str | None = None) -> list[CocoImage]:
        """What the COCO file says of an image; nothing of other predictions than objects."""
        if self.task.spec.form != "objects":
            return []
        boxes = np.round(prediction.boxes.astype(np.float64), 3).tolist()
        scores = np.round(prediction.scores.astype(np.float64), 6).tolist()
        return [CocoImage(name, *size, boxes, scores, prediction.labels.tolist(), id)]

    def overlay(self, image: NDArray[Any], size: tuple[int, int], prediction: Any, name: str) -> Path:
        """Draws a prediction.

        Args:
            image: ``(H, W, C)``, of a large one every so many pixels.
            size: Height and width of what the prediction is for, pixels.
            prediction: With arrays for tensors.
            name: Of the input.
        """
        shown = self.task.spec.resized(self.confident(prediction), size, (image.shape[0], image.shape[1]))
        path = self.overlay_file(name)
        save(overlays.picture(image, self.task.spec, shown, name), path)
        return path

    def file(self, name: str, suffix: str) -> Path:
        """A file for an input of that name."""
        return self.out / self.name / file_name(name, suffix)

    def overlay_file(self, name: str) -> Path:
        """The picture of an input of that name."""
        return self.out / "overlays" / self.name / file_name(name, ".png")

    def relative(self, path: Path) -> str:
        """The path below the folder of all predictions."""
        return path.relative_to(self.out).as_posix()

    def done(
        self, file: InputFile, rows: list[TableRow], images: Iterable[CocoImage] = (), files: Iterable[Path] = ()
    ) -> None:
        """Notes that an input is done, whose files are written.

        Args:
            file: The input.
            rows: Of the table, without what all of them have in common.
            images: Of the COCO file.
            files: What was written.
        """
        of = {"id": file.id, "group": file.group}
        paths = [self.relative(path) for path in files]
        self.journal.add(Record(file.id, [of | row for row in rows], list(images), paths))

    def finish(self) -> list[Path]:
        """Writes the table and the COCO file of all that was done, in this run and before."""
        written, spec = [self.journal.write_table()], self.task.spec
        if spec.form == "objects":
            written.append(self.journal.write_coco(spec.names, getattr(spec, "category_ids", ())))
        return written
