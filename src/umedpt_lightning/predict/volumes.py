"""Volumes slice by slice, and masks back in the grid of the volume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.volume.slices import VolumeImages, laid_down
from umedpt_lightning.data.volume.volumes import AXES
from umedpt_lightning.drawing.pictures import save
from umedpt_lightning.labels import TableRow
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.predict import overlays
from umedpt_lightning.predict.images import predict_images
from umedpt_lightning.predict.journal import Picture, Record
from umedpt_lightning.predict.look import Look
from umedpt_lightning.predict.masks import write_nifti
from umedpt_lightning.predict.output import TaskOutput
from umedpt_lightning.predict.watch import Watch

_MM2 = 1e6  # µm²
_DRAWN = 12


class VolumeTask:
    """One task on all slices of a volume.

    Args:
        model: The model.
        output: Where its predictions are written.
        look: How volumes are cut.
    """

    def __init__(self, model: MultiTaskModel, output: TaskOutput, look: Look) -> None:
        self._model, self._output, self._look = model, output, look

    def predict(self, path: Path, of: dict[str, str], watch: Watch) -> None:
        """Writes what was found in a volume, a row a slice, and notes it.

        Args:
            path: NIfTI file, or DICOM file or folder.
            of: ``id`` and ``group`` of the input.
            watch: Is told of every slice.

        Raises:
            ImportError: nibabel or pydicom is missing.
            ValueError: The volume cannot be read, or not so as the task needs it.
        """
        spec, output = self._output.task.spec, self._output
        images = self._open(path)
        volume, axis = images.volumes[0], AXES[images.slices.axis]
        masks = np.zeros(volume.shape, np.uint8) if spec.form == "mask" else None
        rows: list[TableRow] = []
        pictures: list[Picture] = []
        drawn = set(np.linspace(0, len(images) - 1, min(len(images), _DRAWN)).round().astype(int).tolist())
        shown = []
        in_plane = np.delete(volume.spacing, axis)
        for k, image, prediction in self._slices(images, of["id"], watch):
            size = images.slices.stored_size(volume)
            found = spec.resized(prediction, (image.shape[0], image.shape[1]), size)
            place = volume.stored_index(axis, int(images.places[k]))
            if masks is not None:
                masks[(slice(None),) * axis + (int(images.places[k]),)] = laid_down(found)
            area = float(in_plane.prod()) * size[0] * size[1] * _MM2
            rows.append(of | {"slice": place} | output.row(found, area))
            name = f"{of['id']}[{images.slices.axis} {place}]"
            pictures += output.pictures(name, size, found)
            if output.draw and k in drawn:
                certain = output.certain(prediction)
                shown.append(overlays.picture(image, spec, certain, name))
        files = []
        if masks is not None:
            file = output.file(of["id"], ".nii" if of["id"].lower().endswith(".nii") else ".nii.gz")
            write_nifti(masks, volume, file)
            files.append(output.relative(file))
            rows = [row | {"mask": files[0]} for row in rows]
        if shown:
            file = output.overlay_file(of["id"])
            save(overlays.strip(shown), file)
            files.append(output.relative(file))
        output.journal.add(Record(of["id"], rows, pictures, files))

    def _open(self, path: Path) -> VolumeImages:
        spec, name = self._output.task.spec, self._output.name
        slices, intensity = self._look.slices(spec), self._look.intensities(spec)
        if intensity is None and not spec.cut.get("slices"):
            raise ValueError(
                f"{path}: task {name!r} was not trained on volumes, so that it is not known which intensities to show "
                "it. Say them with --window LOW HIGH (in the volume's unit) or --percentiles LOWER UPPER."
            )
        if slices.channels not in (spec.channels, 1):
            raise ValueError(f"{path}: task {name!r} takes {spec.channels} channels, not {slices.channels} slices.")
        channels = spec.channels if slices.channels != spec.channels else None
        if intensity is None:
            return VolumeImages([path], slices, None, channels, spec.value_range, path)
        return VolumeImages([path], slices, intensity, channels, None, path)

    def _slices(self, images: VolumeImages, name: str, watch: Watch) -> Iterator[tuple[int, NDArray[Any], Any]]:
        """Number, image and prediction of each slice."""
        spec, task = self._output.task.spec, self._output.name
        low, high = spec.value_range
        with watch(f"{task}: slices of {name}", len(images)) as advance:
            for start in range(0, len(images), self._look.batch_size):
                numbers = range(start, min(start + self._look.batch_size, len(images)))
                batch = [images.read(k)[0] for k in numbers]
                if images.value_range != spec.value_range:  # of a task on bytes, say
                    batch = [low + image.astype(np.float32) * (high - low) for image in batch]
                yield from zip(numbers, batch, predict_images(self._model, task, batch, self._look), strict=True)
                advance(len(numbers))
