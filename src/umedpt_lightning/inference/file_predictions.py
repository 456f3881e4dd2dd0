"""Files through some tasks: read by workers, predicted here, and written in another thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.inference.dataset import BY_TILES, Batch, InputDataset, Wanted, thinned
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.opening import SlideTiles, VolumeSlices
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.output.files import FileOutput, ImageOutput, TilesOutput, VolumeOutput
from umedpt_lightning.inference.output.overlays import LARGEST
from umedpt_lightning.inference.output.slides import thumbnail, write_slide
from umedpt_lightning.inference.output.task_output import TaskOutput
from umedpt_lightning.inference.pool import BackgroundWriter, ComputeOptions, read_ahead
from umedpt_lightning.inference.progress import Advance, ProgressCallback
from umedpt_lightning.inference.tiles.large import predict_slide
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.tiled import MOST_PIXELS, TiledTask
from umedpt_lightning.model import NOT_FINITE, MultiTaskModel
from umedpt_lightning.types import to_numpy

#: Slices of a volume that are drawn, evenly spaced.
_DRAWN = 12
#: Side of the images that are drawn, pixels: a half of it is all that is shown.
_DRAW_SIDE = 2 * LARGEST


class FilePredictions:
    """Predictions for files, as they are found by one preference, by a model in evaluation mode on its device.

    What the journals of the outputs have is left out. What was wrong with an input is noted in `failed`, by its id.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        outputs: Sequence[TaskOutput],
        files: Sequence[InputFile],
        options: PredictOptions,
        compute: ComputeOptions,
        failed: dict[str, str],
    ) -> None:
        self._model, self._outputs, self._files = model, list(outputs), list(files)
        self._options, self._compute, self._failed = options, compute, failed
        openings = [
            replace(
                options.opening(output.task.spec, model.sizes.get(output.name)),
                at_once=options.most_at_once(model, output.name),
            )
            for output in outputs
        ]
        self._dataset = InputDataset(files, openings, most_pixels=MOST_PIXELS, draw_side=_DRAW_SIDE)
        self._pending: dict[tuple[int, int], FileOutput] = {}

    def run(self, progress: ProgressCallback) -> None:
        """Does everything; what can be read but not predicted is noted, and does not stop the rest.

        Raises:
            ChildProcessError: A worker died.
            MemoryError: The device has too little.
            OSError: A file cannot be written.
        """
        self._progress, at = progress, 0
        with BackgroundWriter() as self._write, progress("inputs", len(self._files)) as advance:
            with ExitStack() as self._bar:
                for batch in read_ahead(self._dataset, self._keys(), self._compute):
                    pieces = self._advance_of_pieces(batch.wanted[0])
                    with self._compute.enough_memory():
                        self._predict(batch)
                    pieces(len(batch.wanted))
                    if batch.wanted[-1].file > at:
                        advance(batch.wanted[-1].file - at)
                        at = batch.wanted[-1].file
            advance(len(self._files) - at)

    def _keys(self) -> Iterator[list[Wanted]]:
        """What is read together: single images of several files for all tasks, or images of one file for one task."""
        together: list[Wanted] = []
        for number, file in enumerate(self._files):
            left = [i for i, output in enumerate(self._outputs) if file.id not in output.journal.done]
            single = tuple(i for i in left if self._dataset.openings[i].is_single(file))
            if single:
                together.append(Wanted(number, 0, single, self._options.overlays))
            if together and (len(together) == self._compute.batch_size or len(single) < len(left)):
                yield together
                together = []
            for task in left:
                if task not in single:
                    yield from self._pieces(number, task)
        if together:
            yield together

    def _pieces(self, number: int, task: int) -> Iterator[list[Wanted]]:
        """The images of a volume or a slide."""
        file, size = self._files[number], self._compute.batch_size
        if file.kind == "slide" and self._outputs[task].task.spec.form != "values":
            yield [Wanted(number, BY_TILES, (task,))]
            return
        try:
            count = len(self._dataset.open(number, task))
        except (ValueError, OSError, ImportError) as error:
            self._fail(file, str(error))
            return
        drawn: set[int] = set()
        if self._options.overlays and file.kind != "slide":
            drawn = set(np.linspace(0, count - 1, min(count, _DRAWN)).round().astype(int).tolist())
        for start in range(0, count, size):
            yield [Wanted(number, i, (task,), i in drawn) for i in range(start, min(start + size, count))]

    def _advance_of_pieces(self, first: Wanted) -> Advance:
        """Tells how many images of a volume or a slide are done; its bar is shown until the next file's."""
        (*_, task), file = first.tasks, self._files[first.file]
        if first.image == 0:
            self._bar.close()
            self._of_pieces: Advance = lambda steps: None
            if not self._dataset.openings[task].is_single(file):
                what = f"{self._outputs[task].name}: {'tiles' if file.kind == 'slide' else 'slices'} of {file.id}"
                shown = self._progress(what, len(self._dataset.open(first.file, task)))
                self._of_pieces = self._bar.enter_context(shown)
        return self._of_pieces if first.image >= 0 else lambda steps: None

    def _predict(self, batch: Batch) -> None:
        for task, places, images in batch.stacks:
            for row, _ in places:
                self._expect(batch.wanted[row], task)
            found, finite = self._model.predict_batch(images, self._outputs[task].name, [size for _, size in places])
            seen = [(batch.wanted[row], size, batch.drawn.get((row, task))) for row, size in places]
            self._write(self._add, task, seen, found, finite)
        for row, task, text in batch.faults:
            self._expect(batch.wanted[row], task)
            self._write(self._discard, batch.wanted[row], task, text)
        for row, large in groupby(batch.large, key=lambda place: place[0]):
            self._by_tiles(batch.wanted[row].file, [task for _, task in large])

    def _expect(self, wanted: Wanted, task: int) -> None:
        """Makes ready what writes a file."""
        key = (wanted.file, task)
        if key in self._pending:
            return
        output, file = self._outputs[task], self._files[wanted.file]
        opened = None if self._dataset.openings[task].is_single(file) else self._dataset.open(*key)
        match opened:
            case VolumeSlices():
                self._pending[key] = VolumeOutput(output, file, opened)
            case SlideTiles():
                self._pending[key] = TilesOutput(output, file, opened)
            case _:
                self._pending[key] = ImageOutput(output, file, self._options.pixel_size)

    def _by_tiles(self, number: int, tasks: Sequence[int]) -> None:
        """Predicts a slide or a large image."""
        file, decoded = self._files[number], dict[bool, NDArray[Any]]()
        for task in tasks:
            output, opening = self._outputs[task], self._dataset.openings[task]
            try:
                if file.kind == "slide":
                    self._slide(file, output, opening.tiles_of(file))
                    continue
                if opening.windowed not in decoded:
                    decoded[opening.windowed] = read_image(file.path, windowed=opening.windowed)
                image = decoded[opening.windowed]
                opening.check(image, file.file)
                pixels = ArrayPixels(image, output.task.spec.channels, file.id)
                tiling = self._options.tiling(self._model, output.name)
                tiled = TiledTask(self._model, output.name, tiling, self._options.exact)
                found = to_numpy(tiled.predict(pixels, progress=self._progress, name=file.id))
            except (ValueError, OSError, ImportError) as error:
                self._fail(file, str(error))
                continue
            drawn = thinned(image, _DRAW_SIDE) if self._options.overlays else None
            self._write(self._write_large, file, output, (image.shape[0], image.shape[1]), found, drawn)

    def _slide(self, file: InputFile, output: TaskOutput, tiles: Tiles) -> None:
        folder = TemporaryDirectory(dir=output.out)  # on the disk that the mask is written to
        options = self._options, self._progress, Path(folder.name)
        try:
            found = predict_slide(self._model, output.name, file, tiles, *options)
        except BaseException:
            folder.cleanup()
            raise
        drawn = thumbnail(found.slide) if self._options.overlays else None
        self._write(self._write_slide, folder, output, file, found, tiles.mpp, drawn)

    # in the writer's thread

    def _write_large(self, file: InputFile, output: TaskOutput, size: tuple[int, int], found: Any, drawn: Any) -> None:
        written = ImageOutput(output, file, self._options.pixel_size)
        written.add(0, size, found, drawn)
        written.finish()

    def _write_slide(self, folder: TemporaryDirectory[str], *slide: Any) -> None:
        with folder:
            write_slide(*slide)

    def _add(
        self,
        task: int,
        seen: Sequence[tuple[Wanted, tuple[int, int], NDArray[Any] | None]],
        found: list[Any],
        finite: Tensor,
    ) -> None:
        """Adds predictions to what is known of their files, with the size of each image, and the image to draw."""
        for (wanted, size, drawn), prediction, is_finite in zip(seen, to_numpy(found), finite.tolist(), strict=True):
            if not is_finite:
                file, name = self._files[wanted.file].file, self._outputs[task].name
                self._discard(wanted, task, f"{file}: what task {name!r} gives for it is not finite. {NOT_FINITE}")
                continue
            pending = self._pending[wanted.file, task]
            if pending.sound:
                pending.add(wanted.image, size, prediction, drawn)
            self._count(wanted, task)

    def _discard(self, wanted: Wanted, task: int, text: str) -> None:
        """Notes that one of a file's images cannot be predicted, so that the file is not written."""
        self._pending[wanted.file, task].sound = False
        self._fail(self._files[wanted.file], text)
        self._count(wanted, task)

    def _count(self, wanted: Wanted, task: int) -> None:
        """Counts one of a file's images; after the last the file is written."""
        pending = self._pending[wanted.file, task]
        pending.left -= 1
        if not pending.left:
            del self._pending[wanted.file, task]
            if pending.sound:
                try:
                    pending.finish()
                except ValueError as error:  # of a format that cannot hold it
                    self._fail(self._files[wanted.file], str(error))

    def _fail(self, file: InputFile, text: str) -> None:
        before = self._failed.get(file.id, "")
        if text not in before:
            self._failed[file.id] = f"{before}\n{text}".strip()
