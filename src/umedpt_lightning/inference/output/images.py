"""What is written of one image."""

from __future__ import annotations

import math
from typing import Any, Protocol

from numpy.typing import NDArray

from umedpt_lightning.data.volume.dicom_file import is_dicom, read_header
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.output.masks import write_png
from umedpt_lightning.inference.output.task_output import TaskOutput
from umedpt_lightning.labels import TableRow


class FileOutput(Protocol):
    """What is written of a file, when the predictions for all of its images are there."""

    def add(self, index: int, size: tuple[int, int], prediction: Any, drawn: NDArray[Any] | None) -> None:
        """Takes the prediction for one of the file's images; they come in their order.

        Args:
            index: Which one.
            size: Its height and width, pixels.
            prediction: With arrays for tensors.
            drawn: The image where it is to be drawn, of a large one every so many pixels.
        """

    def finish(self) -> None:
        """Writes and notes everything."""


class ImageOutput:
    """A mask as PNG, a row of the table and an overlay.

    Args:
        output: The task's.
        file: The input.
        pixel_size: µm from pixel to pixel; None where only the file may say it.
    """

    def __init__(self, output: TaskOutput, file: InputFile, pixel_size: float | None) -> None:
        self._output, self._file, self._pixel_size = output, file, pixel_size

    def add(self, index: int, size: tuple[int, int], prediction: Any, drawn: NDArray[Any] | None) -> None:
        """As `FileOutput.add`; writes the mask and the overlay."""
        output, name = self._output, self._file.id
        self._row: TableRow = {}
        self._files = []
        if output.task.spec.form == "mask":
            self._files.append(output.file(name, ".png"))
            write_png(prediction, self._files[0])
            self._row["mask"] = output.relative(self._files[0])
        pixel = self._pixel_size or _pixel_size(self._file)
        self._row |= output.row(prediction, None if pixel is None else pixel**2 * size[0] * size[1])
        if drawn is not None:
            self._files.append(output.overlay(drawn, size, prediction, name))
        self._images = output.coco(name, size, prediction, self._file.coco_id)

    def finish(self) -> None:
        """As `FileOutput.finish`."""
        self._output.done(self._file, [self._row], self._images, self._files)


def _pixel_size(file: InputFile) -> float | None:
    """µm from pixel to pixel, of DICOM images whose file says it."""
    spacing = read_header(file.path, ["PixelSpacing"]).get("PixelSpacing") if is_dicom(file.path) else None
    return 1e3 * math.sqrt(float(spacing[0]) * float(spacing[1])) if spacing else None
