"""What is written of one task's predictions, in files whose names cannot lead out of their folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.output import overlays
from umedpt_lightning.inference.output.geojson import box_features, mask_features, write_geojson
from umedpt_lightning.inference.output.journal import CocoImage, Journal
from umedpt_lightning.labels import TableRow
from umedpt_lightning.tasks import Task

_LONGEST = 100
_SUFFIXES = (".png", ".nii", ".nii.gz", ".tif", ".csv", ".geojson", ".dcm")  # of files for an input
#: A name of a file or folder that is one on every system.
_PLAIN = re.compile(r"\w[\w .-]{0,150}")


class TaskOutput:
    """A task's table, its COCO file, and files for single inputs in a folder of its name; all of them below `out`.

    The options say from which score on boxes are counted and drawn, and which files are written, too.
    """

    def __init__(
        self, out: Path, name: str, task: Task, journal: Journal, options: PredictOptions | None = None
    ) -> None:
        self.out, self.name, self.task, self.journal = out, name, task, journal
        self.options = options or PredictOptions()

    def row(self, prediction: Any, area: float | None) -> TableRow:
        """What the table says of one prediction, of an area in µm²."""
        return self.task.spec.row(self.confident(prediction), area)

    def confident(self, prediction: Any) -> Any:
        """The prediction without objects whose score is too low."""
        return self.task.spec.confident(prediction, self.options.min_score)

    def coco(self, name: str, size: tuple[int, int], prediction: Any, id: int | str | None = None) -> list[CocoImage]:
        """What the COCO file says of an image; nothing of other predictions than objects."""
        if self.task.spec.form != "objects":
            return []
        boxes = np.round(prediction.boxes.astype(np.float64), 3).tolist()
        scores = np.round(prediction.scores.astype(np.float64), 6).tolist()
        image = {"file_name": name, "height": size[0], "width": size[1], "boxes": boxes, "scores": scores}
        return [{**image, "labels": prediction.labels.tolist(), "image_id": id}]

    def overlay(self, image: NDArray[Any], size: tuple[int, int], prediction: Any, name: str) -> Path:
        """Draws a prediction over an image ``(H, W, C)``, of a large one every so many pixels.

        The prediction has arrays for tensors, and is for an image of that `size`, height and width in pixels.
        """
        shown = self.task.spec.resized(self.confident(prediction), size, (image.shape[0], image.shape[1]))
        path = self.overlay_file(name)
        save(overlays.picture(image, self.task.spec, shown, name), path)
        return path

    def file(self, name: str, suffix: str) -> Path:
        """A file for an input of that name."""
        return self.out / self.name / file_name(name, suffix)

    def geojson(self, name: str, prediction: Any, scale: tuple[float, float] = (1, 1)) -> list[Path]:
        """Writes a mask or boxes as GeoJSON where that is asked for; `scale` as for `mask_features`."""
        spec, path = self.task.spec, self.file(name, ".geojson")
        if not self.options.geojson or spec.form == "values":
            return []
        boxes = spec.form == "objects"
        found = self.confident(prediction)
        write_geojson(box_features(found, spec.names) if boxes else mask_features(found, spec.names, scale), path)
        return [path]

    def overlay_file(self, name: str) -> Path:
        """The picture of an input of that name."""
        return self.out / "overlays" / self.name / file_name(name, ".png")

    def relative(self, path: Path) -> str:
        """The path below the folder of all predictions."""
        return path.relative_to(self.out).as_posix()

    def done(
        self, file: InputFile, rows: list[TableRow], images: Iterable[CocoImage] = (), files: Iterable[Path] = ()
    ) -> None:
        """Notes that an input is done, whose files are written; rows lack what all of them have in common."""
        of = {"id": file.id, "group": file.group}
        named = [row_of(of, row) for row in rows]
        self.journal.add(file.id, named, images, map(self.relative, files), stamp=file.stamp)

    def finish(self) -> list[Path]:
        """Writes the table and the COCO file of all that was done, in this run and before."""
        written, spec = [self.journal.write_table()], self.task.spec
        if spec.bag:
            written.append(self.journal.write_table("parts"))
        if spec.form == "objects":
            written.append(self.journal.write_coco(spec.names, getattr(spec, "category_ids", ())))
        return written


def row_of(of: TableRow, found: TableRow) -> TableRow:
    """A row that says of what a prediction is, and the prediction: a quantity ``id`` is ``predicted_id`` there."""
    return of | {f"predicted_{name}" if name in of else name: value for name, value in found.items()}


def file_name(name: str, suffix: str) -> str:
    """Where a file for an input lies, below a folder; inputs in folders keep them.

    Args:
        name: The input's, such as ``a/b.png``; one that could lead elsewhere is changed.
        suffix: Of the file; not added to a name that has it.
    """
    file = name if name.lower().endswith(suffix) else name + suffix
    if all(_PLAIN.fullmatch(part) for part in file.split("/")):
        return file
    plain = re.sub(r"[^\w.-]+", "_", file).lstrip("._")[-_LONGEST:]
    return f"{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}_{plain}"


def check_image_ids(ids: Mapping[str, int | str]) -> None:
    """Holds that no two images have one id in the COCO file that is written, by what the images are called.

    Raises:
        ValueError: They have.
    """
    seen: dict[int | str, str] = {}
    for name, number in ids.items():
        if (other := seen.setdefault(number, name)) != name:
            raise ValueError(
                f"--inputs: {other} and {name} both have the image id {number!r}, so that their boxes would count as "
                "those of one image. Predict each COCO file into a folder of its own by --out, or correct the ids."
            )


def check_names(names: Sequence[str]) -> None:
    """Holds that no two inputs have the same files: a suffix is not written twice.

    Raises:
        ValueError: They have.
    """
    written = {name + suffix for name in names for suffix in _SUFFIXES}
    if clashes := sorted(written.intersection(names)):
        raise ValueError(
            f"--inputs: files for {clashes[0]} would take the place of those for another input whose name lacks the "
            "suffix. Rename one of them."
        )
