"""All inputs through all tasks, with what was done before left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from numpy.typing import NDArray
from torch import nn

from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.data.inputs.sources import Source
from umedpt_lightning.data.volume.dicom import is_dicom, read_header
from umedpt_lightning.io.atomic import remove_leftovers
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.predict.files import check_names
from umedpt_lightning.predict.images import FULL_RANGES, check_image, predict_images
from umedpt_lightning.predict.journal import Journal
from umedpt_lightning.predict.look import Look
from umedpt_lightning.predict.output import TaskOutput
from umedpt_lightning.predict.slides import SlideTask
from umedpt_lightning.predict.tiled import MOST_PIXELS
from umedpt_lightning.predict.volumes import VolumeTask
from umedpt_lightning.predict.watch import Watch, unwatched
from umedpt_lightning.types import TaskSpec


@dataclass
class Outcome:
    """What became of the inputs.

    Attributes:
        done: How many were predicted.
        skipped: How many were there already.
        failed: What was wrong with the others.
    """

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


class Run:
    """Predictions of a model in a folder.

    Args:
        model: The model.
        tasks: Names of tasks.
        out: The folder.
        look: How inputs are looked at.
        min_score: Boxes with a lower score are neither counted nor drawn.
        draw: Whether to write overlays.
        overwrite: Whether to do again what is there already.

    Raises:
        ValueError: There is no such task, or the folder holds other predictions.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[str],
        out: Path,
        look: Look,
        min_score: float = 0.3,
        draw: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._model, self._look = model.eval(), look
        made_by = {"model": _fingerprint(model), **{k: v for k, v in asdict(look).items() if k != "batch_size"}}
        made_by |= {"min_score": min_score, "overlays": draw}
        remove_leftovers(out)
        self._outputs = [
            TaskOutput(out, name, model.task(name), Journal(out, name, made_by, overwrite), min_score, draw)
            for name in tasks
        ]

    def predict(self, sources: Sequence[Source], watch: Watch = unwatched) -> Outcome:
        """Does all that is not done; one that fails does not stop the others.

        Args:
            sources: The inputs.
            watch: Is told of every input, and of tiles and slices.

        Raises:
            ValueError: Files for one input would take the place of those for another.
        """
        check_names([source.id for source in sources])
        outcome = Outcome()
        waiting: list[_Read] = []
        with watch("inputs", len(sources)) as advance:
            for source in sources:
                left = [output for output in self._outputs if source.id not in output.journal.done]
                if left:
                    waiting += self._one(source, left, outcome, watch)
                else:
                    outcome.skipped += 1
                if len(waiting) == self._look.batch_size or sum(map(len, waiting)) >= MOST_PIXELS:
                    self._images(waiting, outcome, watch)
                    waiting = []
                advance(1)
            self._images(waiting, outcome, watch)
        return outcome

    def finish(self) -> list[Path]:
        """Writes the tables and COCO files; returns them."""
        return [path for output in self._outputs for path in output.finish()]

    def _one(self, source: Source, left: Sequence[TaskOutput], outcome: Outcome, watch: Watch) -> list[_Read]:
        """Predicts a volume or a slide; reads an image, which is predicted together with others."""
        with _told(outcome):
            if source.kind == "image":
                return [_Read(source, left)]
            for output in left:
                made = SlideTask if source.kind == "slide" else VolumeTask
                made(self._model, output, self._look).predict(source.path, _of(source), watch)
            outcome.done += 1
        return []

    def _images(self, images: Sequence[_Read], outcome: Outcome, watch: Watch) -> None:
        """Predicts images together, task by task."""
        failed: set[str] = set()
        for output in self._outputs:
            ready: list[tuple[_Read, NDArray[Any]]] = []
            for image in images:
                if output in image.left and image.source.id not in failed:
                    with _told(outcome, image.source.id, failed):
                        ready.append((image, image.pixels(output.task.spec)))
            found = predict_images(self._model, output.name, [pixels for _, pixels in ready], self._look, watch)
            for (image, pixels), prediction in zip(ready, found, strict=True):
                output.image(pixels, prediction, _of(image.source), self._look.pixel_size or image.pixel_size)
        outcome.done += len(images) - len(failed)


class _Read:
    """An image that was read for some tasks.

    Args:
        source: What it is.
        left: The tasks that it is needed for.
    """

    def __init__(self, source: Source, left: Sequence[TaskOutput]) -> None:
        self.source, self.left = source, left
        ranges = {self._is_windowed(output.task.spec) for output in left}
        # greys of DICOM through the window of their file, and in their own unit, as tasks were trained
        self._pixels = {windowed: read_image(source.path, windowed=windowed) for windowed in ranges}
        spacing = read_header(source.path).get("PixelSpacing") if is_dicom(source.path) else None
        #: µm from pixel to pixel; None where it is unknown.
        self.pixel_size = 1e3 * math.sqrt(float(spacing[0]) * float(spacing[1])) if spacing else None

    def __len__(self) -> int:
        """Pixels."""
        height, width = next(iter(self._pixels.values())).shape[:2]
        return int(height * width)

    def pixels(self, spec: TaskSpec) -> NDArray[Any]:
        """As stored, ``(H, W, C)``.

        Raises:
            ValueError: A task cannot look at it.
        """
        pixels = self._pixels[self._is_windowed(spec)]
        check_image(pixels, spec, str(self.source.path))
        return pixels

    def _is_windowed(self, spec: TaskSpec) -> bool:
        return not is_dicom(self.source.path) or spec.value_range in FULL_RANGES.values()


@contextmanager
def _told(outcome: Outcome, name: str = "", failed: set[str] | None = None) -> Iterator[None]:
    """Notes what is wrong with an input, and goes on."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        outcome.failed.append(str(error))
        if failed is not None:
            failed.add(name)


def _of(source: Source) -> dict[str, str]:
    return {"id": source.id, "group": source.group}


def _fingerprint(model: nn.Module) -> str:
    """Of all weights."""
    digest = xxhash.xxh3_128()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
