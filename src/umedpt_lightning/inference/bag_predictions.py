"""Bags of files through a task: their images are read by workers and embedded, their embeddings pooled."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from umedpt_lightning.inference.bags import BagInputs, embedded_bags, pooled
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.output.bags import write_bag
from umedpt_lightning.inference.output.task_output import TaskOutput
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import ProgressCallback
from umedpt_lightning.model import NOT_FINITE, MultiTaskModel
from umedpt_lightning.types import finite_rows, to_numpy


class BagPredictions:
    """Predictions for bags by a model in evaluation mode on its device; a bag with a bad image is not predicted.

    What the journal of the output has is left out. What was wrong with a bag is noted in `failed`, by its name.

    Attributes:
        bags: All that were given.
        left: The numbers of those that are to be done.

    Raises:
        ValueError: Nothing says which bag an image is of, or no file can be read.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        output: TaskOutput,
        files: Sequence[InputFile],
        options: PredictOptions,
        compute: ComputeOptions,
        failed: dict[str, str],
    ) -> None:
        self._model, self._output, self._compute, self._failed = model, output, compute, failed
        opening = options.opening(output.task.spec, model.sizes.get(output.name))
        self.bags = BagInputs(files, opening, skip_bad=True)
        done = {name: self.bags.stamp(i) for i, name in enumerate(self.bags.names) if name in output.journal.done}
        output.journal.forget_changed(done)
        self.left = [i for i, name in enumerate(self.bags.names) if name not in output.journal.done]
        failed |= self.bags.faults

    def run(self, progress: ProgressCallback) -> None:
        """Does everything; raises what `embedded` raises, and OSError where a file cannot be written."""
        model, name, task = self._model, self._output.name, self._output.task
        with progress(f"{name}: bags", len(self.left)) as advance:
            for found in embedded_bags(model, name, self.bags, self.left, self._compute):
                advance(1)
                bag = self.bags.names[found.number]
                if found.faults:
                    self._failed[bag] = "\n".join(found.faults)
                    continue
                features, weights = pooled(model, name, found.vectors, self.bags.positions(found.number))
                with torch.inference_mode():
                    answer = task(features)
                    finite, (prediction,) = finite_rows(answer, 1), to_numpy(task.predict(answer))
                if not finite.all():
                    self._failed[bag] = f"{bag}: what task {name!r} gives for it is not finite. {NOT_FINITE}"
                    continue
                write_bag(self._output, self.bags, found.number, prediction, to_numpy(weights))
