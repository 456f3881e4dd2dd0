"""What is written of a file: of an image, of a volume slice by slice, of a slide tile by tile."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.volume.dicom_file import is_dicom, read_header
from umedpt_lightning.data.volume.series import DicomVolume
from umedpt_lightning.data.volume.slices import laid_down
from umedpt_lightning.data.volume.volumes import AXES
from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.opening import SlideTiles, VolumeSlices
from umedpt_lightning.inference.output import overlays
from umedpt_lightning.inference.output.dicom_seg import write_dicom_seg
from umedpt_lightning.inference.output.geojson import tile_features, write_geojson
from umedpt_lightning.inference.output.journal import CocoImage
from umedpt_lightning.inference.output.masks import write_nifti, write_png
from umedpt_lightning.inference.output.slides import thumbnail
from umedpt_lightning.inference.output.task_output import TaskOutput, row_of
from umedpt_lightning.io.atomic import write_csv
from umedpt_lightning.labels import TableRow
from umedpt_lightning.labels.masks import mask_dtype

_MM2 = 1e6  # µm²


class FileOutput(ABC):
    """What is written of a file, when the predictions for all of its images are there.

    Args:
        output: The task's.
        file: The input.
        images: How many it has.

    Attributes:
        left: How many of them are to come.
        sound: Whether all that came could be predicted.
    """

    def __init__(self, output: TaskOutput, file: InputFile, images: int = 1) -> None:
        self._output, self._file, self.left, self.sound = output, file, images, True
        self._rows: list[TableRow] = []
        self._coco: list[CocoImage] = []
        self._files: list[Path] = []

    @abstractmethod
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
        self._output.done(self._file, self._rows, self._coco, self._files)


class ImageOutput(FileOutput):
    """A mask as PNG, a row of the table and an overlay; `pixel_size` in µm, None where only the file may say it."""

    def __init__(self, output: TaskOutput, file: InputFile, pixel_size: float | None) -> None:
        super().__init__(output, file)
        self._pixel_size = pixel_size

    def add(self, index: int, size: tuple[int, int], prediction: Any, drawn: NDArray[Any] | None) -> None:
        """As `FileOutput.add`; writes the mask and the overlay."""
        output, name, row = self._output, self._file.id, TableRow()
        if output.task.spec.form == "mask":
            self._files.append(output.file(name, ".png"))
            write_png(prediction, self._files[0])
            row["mask"] = output.relative(self._files[0])
        self._files += output.geojson(name, prediction)
        pixel = self._pixel_size or _pixel_size(self._file)
        self._rows.append(row | output.row(prediction, None if pixel is None else pixel**2 * size[0] * size[1]))
        if drawn is not None:
            self._files.append(output.overlay(drawn, size, prediction, name))
        self._coco = output.coco(name, size, prediction, self._file.coco_id)


class VolumeOutput(FileOutput):
    """A mask as NIfTI back in the volume's grid, a row a slice, and some slices as overlays."""

    def __init__(self, output: TaskOutput, file: InputFile, opened: VolumeSlices) -> None:
        super().__init__(output, file, len(opened))
        self._images = opened.images
        self._volume, self._axis = opened.images.volumes[0], AXES[opened.images.slices.axis]
        spec = output.task.spec
        self._masks = np.zeros(self._volume.shape, mask_dtype(len(spec.names))) if spec.form == "mask" else None
        self._area = float(np.delete(self._volume.spacing, self._axis).prod()) * _MM2  # of a pixel, µm²
        self._drawn: list[Image.Image] = []

    def add(self, index: int, size: tuple[int, int], prediction: Any, drawn: NDArray[Any] | None) -> None:
        """As `FileOutput.add`."""
        output, spec, place = self._output, self._output.task.spec, int(self._images.places[index])
        stored = self._images.slices.stored_size(self._volume)
        found = spec.resized(prediction, size, stored)
        number = self._volume.stored_index(self._axis, place)
        if self._masks is not None:
            self._masks[(slice(None),) * self._axis + (place,)] = laid_down(found)
        self._rows.append(row_of({"slice": number}, output.row(found, self._area * stored[0] * stored[1])))
        name = f"{self._file.id}[{self._images.slices.axis} {number}]"
        self._coco += output.coco(name, stored, found)
        if drawn is not None:
            shown = spec.resized(output.confident(prediction), size, (drawn.shape[0], drawn.shape[1]))
            self._drawn.append(overlays.picture(drawn, spec, shown, name))

    def finish(self) -> None:
        """As `FileOutput.finish`."""
        output, name = self._output, self._file.id
        if self._masks is not None:
            file = output.file(name, ".nii" if name.lower().endswith(".nii") else ".nii.gz")
            write_nifti(self._masks, self._volume, file)
            self._files.append(file)
            self._rows = [row | {"mask": output.relative(file)} for row in self._rows]
            if output.options.dicomseg and isinstance(self._volume, DicomVolume):
                self._files.append(output.file(name, ".dcm"))
                write_dicom_seg(self._masks, self._volume, output.task.spec.names, output.name, self._files[-1])
        if self._drawn:
            self._files.append(output.overlay_file(name))
            save(overlays.strip(self._drawn), self._files[-1])
        super().finish()


class TilesOutput(FileOutput):
    """A row a tile in a table of the slide, and their mean in that of the task."""

    def __init__(self, output: TaskOutput, file: InputFile, opened: SlideTiles) -> None:
        super().__init__(output, file, len(opened))
        self._opened = opened
        # here, not where it is drawn: two threads must not read one slide
        self._drawn = thumbnail(opened.images.slides[0]) if output.options.overlays else None
        self._found: list[Any] = []

    def add(self, index: int, size: tuple[int, int], prediction: Any, drawn: NDArray[Any] | None) -> None:
        """As `FileOutput.add`."""
        self._rows.append(row_of(self._opened.columns(index), self._output.row(prediction, None)))
        self._found.append(prediction)

    def finish(self) -> None:
        """As `FileOutput.finish`."""
        output, name, tiles = self._output, self._file.id, self._rows
        self._files.append(output.file(name, ".csv"))
        columns = dict.fromkeys(key for row in tiles for key in row)
        write_csv(self._files[0], columns, ([row.get(key) for key in columns] for row in tiles))
        mean = output.task.spec.mean(self._found)
        if output.options.geojson:
            self._files.append(output.file(name, ".geojson"))
            write_geojson(tile_features(tiles), self._files[-1])
        self._rows = [row_of({"tiles": len(tiles)}, {} if mean is None else output.row(mean, None))]
        if self._drawn is not None and mean is not None:
            self._files.append(output.overlay(self._drawn, (self._drawn.shape[0], self._drawn.shape[1]), mean, name))
        super().finish()


def _pixel_size(file: InputFile) -> float | None:
    """µm from pixel to pixel, of DICOM images whose file says it."""
    spacing = read_header(file.path, ["PixelSpacing"]).get("PixelSpacing") if is_dicom(file.path) else None
    return 1e3 * math.sqrt(float(spacing[0]) * float(spacing[1])) if spacing else None
