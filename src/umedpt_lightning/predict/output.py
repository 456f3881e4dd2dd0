"""What is written of one task's predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.labels import TableRow
from umedpt_lightning.predict import overlays
from umedpt_lightning.predict.files import file_name
from umedpt_lightning.predict.journal import Journal, Picture, Record
from umedpt_lightning.predict.masks import write_png
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

    def image(self, image: NDArray[Any], prediction: Any, of: dict[str, str], pixel_size: float | None) -> None:
        """Writes what was found in one image, and notes it.

        Args:
            image: ``(H, W, C)`` as stored.
            prediction: Of `predict_images`.
            of: ``id`` and ``group`` of the input.
            pixel_size: µm from pixel to pixel, None where it is unknown.
        """
        size = (image.shape[0], image.shape[1])
        row, files = dict(of), []
        if self.task.spec.form == "mask":
            path = self.file(of["id"], ".png")
            write_png(prediction, path)
            files.append(self.relative(path))
            row["mask"] = files[0]
        row |= self.row(prediction, None if pixel_size is None else pixel_size**2 * size[0] * size[1])
        if self.draw:
            files.append(self.overlay(image, prediction, of["id"]))
        self.journal.add(Record(of["id"], [row], self.pictures(of["id"], size, prediction), files))

    def row(self, prediction: Any, area: float | None) -> TableRow:
        """What the table says of one prediction, of an area in µm²."""
        return self.task.spec.row(self.certain(prediction), area)

    def certain(self, prediction: Any) -> Any:
        """The prediction without objects whose score is below `min_score`."""
        return self.task.spec.confident(prediction, self.min_score)

    def pictures(self, name: str, size: tuple[int, int], prediction: Any) -> list[Picture]:
        """What the COCO file says of an image; nothing of other predictions than objects."""
        if self.task.spec.form != "objects":
            return []
        boxes = np.round(prediction.boxes.astype(np.float64), 3).tolist()
        scores = np.round(prediction.scores.astype(np.float64), 6).tolist()
        return [Picture(name, *size, boxes, scores, prediction.labels.tolist())]

    def overlay(self, image: NDArray[Any], prediction: Any, name: str) -> str:
        """Draws a prediction over its image; returns the file below the folder of all predictions."""
        size = (image.shape[0], image.shape[1])
        step = overlays.every(size)
        small = image[::step, ::step]
        shown = self.task.spec.resized(self.certain(prediction), size, (small.shape[0], small.shape[1]))
        path = self.overlay_file(name)
        save(overlays.picture(small, self.task.spec, shown, name), path)
        return self.relative(path)

    def file(self, name: str, suffix: str) -> Path:
        """A file for an input of that name."""
        return self.out / self.name / file_name(name, suffix)

    def overlay_file(self, name: str) -> Path:
        """The picture of an input of that name."""
        return self.out / "overlays" / self.name / file_name(name, ".png")

    def relative(self, path: Path) -> str:
        """The path below the folder of all predictions."""
        return path.relative_to(self.out).as_posix()

    def finish(self) -> list[Path]:
        """Writes the table and the COCO file of all that was done, in this run and before."""
        written = [self.journal.write_table()]
        if self.task.spec.form == "objects":
            written.append(self.journal.write_coco(self.task.spec.names))
        return written
