"""All files through all tasks, with what was done before left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import xxhash
from torch import nn

from umedpt_lightning.inference.file_kinds import Preference
from umedpt_lightning.inference.file_predictions import FilePredictions
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.output.file_names import check_names
from umedpt_lightning.inference.output.journal import Journal
from umedpt_lightning.inference.output.task_output import TaskOutput
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import ProgressCallback, no_progress
from umedpt_lightning.io.atomic import remove_leftovers
from umedpt_lightning.model import MultiTaskModel


@dataclass
class Outcome:
    """What became of the inputs.

    Attributes:
        skipped: How many were there already.
        failed: What was wrong with those that could not be predicted, by their id.
    """

    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Predictor:
    """Predictions of a model in a folder.

    Args:
        model: The model, which is moved to the device.
        tasks: Names of tasks.
        out: The folder.
        options: How files are predicted; None as the tasks were trained.
        compute: What computes; None the CPU.
        overwrite: Whether to do again what is there already.

    Raises:
        ValueError: There is no such task, or the folder holds other predictions.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[str],
        out: Path,
        options: PredictOptions | None = None,
        compute: ComputeOptions | None = None,
        overwrite: bool = False,
    ) -> None:
        self._options, self._compute = options or PredictOptions(), compute or ComputeOptions()
        made_by = {"model": _fingerprint(model), **asdict(self._options)}
        self._model = model.eval().to(self._compute.device)
        remove_leftovers(out)
        drawn = self._options.min_score, self._options.overlays
        self._outputs = [
            TaskOutput(out, name, model.task(name), Journal(out, name, made_by, overwrite), *drawn) for name in tasks
        ]

    def predict(
        self, files: Sequence[InputFile], preference: Preference, progress: ProgressCallback = no_progress
    ) -> Outcome:
        """Does all that is not done; one that fails does not stop the others.

        Args:
            files: The inputs.
            preference: That with which they were found, see `PredictOptions.preferences`; other tasks are left out.
            progress: Is told of every input, and of tiles and slices.

        Raises:
            ValueError: Files for one input would take the place of those for another.
            ChildProcessError: A worker died.
            MemoryError: The device has too little.
            OSError: A file cannot be written.
        """
        check_names([file.id for file in files])
        outputs = [
            output for output in self._outputs if self._options.opening(output.task.spec).preference == preference
        ]
        left = [file for file in files if any(file.id not in output.journal.done for output in outputs)]
        for output in outputs[:1]:
            self._options.opening(output.task.spec).warn_of_images(files, self._options.intensity)
        outcome = Outcome(skipped=len(files) - len(left))
        if left:
            work = FilePredictions(self._model, outputs, left, self._options, self._compute, outcome.failed)
            work.run(progress)
        return outcome

    def finish(self) -> list[Path]:
        """Writes the tables and COCO files; returns them."""
        return [path for output in self._outputs for path in output.finish()]


def _fingerprint(model: nn.Module) -> str:
    """Of all weights."""
    digest = xxhash.xxh3_128()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
