"""What is written of a volume: masks back in its grid, and a row a slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.data.volume.slices import laid_down
from umedpt_lightning.data.volume.volumes import AXES
from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.opening import VolumeSlices
from umedpt_lightning.inference.output import overlays
from umedpt_lightning.inference.output.journal import CocoImage
from umedpt_lightning.inference.output.masks import write_nifti
from umedpt_lightning.inference.output.task_output import TaskOutput
from umedpt_lightning.labels import TableRow
from umedpt_lightning.labels.masks import mask_dtype

_MM2 = 1e6  # µm²


class VolumeOutput:
    """A mask as NIfTI, a row a slice, and some slices as overlays.

    Args:
        output: The task's.
        file: The input.
        opened: Its slices.
    """

    def __init__(self, output: TaskOutput, file: InputFile, opened: VolumeSlices) -> None:
        self._output, self._file, self._images = output, file, opened.images
        self._volume, self._axis = opened.images.volumes[0], AXES[opened.images.slices.axis]
        spec = output.task.spec
        self._masks = np.zeros(self._volume.shape, mask_dtype(len(spec.names))) if spec.form == "mask" else None
        self._area = float(np.delete(self._volume.spacing, self._axis).prod()) * _MM2  # of a pixel, µm²
        self._rows: list[TableRow] = []
        self._coco: list[CocoImage] = []
        self._drawn: list[Image.Image] = []

    def add(self, index: int, size: tuple[int, int], prediction: Any, drawn: NDArray[Any] | None) -> None:
        """As `FileOutput.add`."""
        output, spec, place = self._output, self._output.task.spec, int(self._images.places[index])
        stored = self._images.slices.stored_size(self._volume)
        found = spec.resized(prediction, size, stored)
        number = self._volume.stored_index(self._axis, place)
        if self._masks is not None:
            self._masks[(slice(None),) * self._axis + (place,)] = laid_down(found)
        self._rows.append({"slice": number} | output.row(found, self._area * stored[0] * stored[1]))
        name = f"{self._file.id}[{self._images.slices.axis} {number}]"
        self._coco += output.coco(name, stored, found)
        if drawn is not None:
            shown = spec.resized(output.confident(prediction), size, (drawn.shape[0], drawn.shape[1]))
            self._drawn.append(overlays.picture(drawn, spec, shown, name))

    def finish(self) -> None:
        """As `FileOutput.finish`."""
        output, name = self._output, self._file.id
        files: list[Path] = []
        if self._masks is not None:
            file = output.file(name, ".nii" if name.lower().endswith(".nii") else ".nii.gz")
            write_nifti(self._masks, self._volume, file)
            files.append(file)
            self._rows = [row | {"mask": output.relative(file)} for row in self._rows]
        if self._drawn:
            files.append(output.overlay_file(name))
            save(overlays.strip(self._drawn), files[-1])
        output.done(self._file, self._rows, self._coco, files)
