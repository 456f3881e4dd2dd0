"""Files through all tasks of a model into a folder, with what was done before left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from umedpt_lightning.inference.bag_predictions import BagPredictions
from umedpt_lightning.inference.bags import bag_columns
from umedpt_lightning.inference.digests import fingerprint
from umedpt_lightning.inference.file_predictions import FilePredictions
from umedpt_lightning.inference.find_inputs import TableColumns, find_inputs
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.output.journal import Journal
from umedpt_lightning.inference.output.task_output import TaskOutput, check_image_ids, check_names
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import ProgressCallback, no_progress
from umedpt_lightning.io.atomic import remove_leftovers
from umedpt_lightning.model import MultiTaskModel


@dataclass
class PredictedFiles:
    """What became of the inputs.

    Attributes:
        written: The tables and COCO files.
        inputs: How many inputs there are, and bags of each task that sees bags.
        skipped: How many of them were there already.
        failed: What was wrong with those that could not be predicted.
    """

    written: list[Path] = field(default_factory=list)
    inputs: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def predict_files(
    model: MultiTaskModel,
    inputs: Sequence[str],
    out: Path | str,
    tasks: Sequence[str] | None = None,
    options: PredictOptions | None = None,
    compute: ComputeOptions | None = None,
    *,
    columns: TableColumns | None = None,
    image_id: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = no_progress,
) -> PredictedFiles:
    """Writes predictions for images, volumes and slides; what is in the folder already is not done again.

    Tasks of bags have a row a bag, see `umedpt_lightning.inference.bags.BagInputs`, and a second table of its images.

    Args:
        model: A trained model, of `MultiTaskModel.from_pretrained`.
        inputs: Files, folders, tables with a column of paths, COCO files.
        out: The folder of the predictions.
        tasks: Names of tasks; None for all.
        options: How files are predicted; None as the tasks were trained.
        compute: What computes; None the CPU.
        columns: Of tables; None for those with the usual names.
        image_id: The column of tables with the images' ids in a COCO file.
        overwrite: Whether to do again what is there already.
        progress: Is told of every input.

    Raises:
        ValueError: There is no such task, an input cannot be used, or the folder holds other predictions.
        FileNotFoundError: An input is not there.
        OSError: A file cannot be written.
        ChildProcessError: A worker died.
        MemoryError: The device has too little.
    """
    options, compute, out = options or PredictOptions(), compute or ComputeOptions(), Path(out)
    silent = [name for name in tasks or model.tasks if not model.task(name).predicts]
    specs = {name: model.task(name).spec for name in tasks or model.tasks if name not in silent}
    if silent and (tasks or not specs):
        model.task(silent[0]).predicting(silent[0])
    names = [name for name, spec in specs.items() if not spec.bag]
    preferences = {name: options.opening(specs[name]).preference for name in names}
    found = {seen: find_inputs(inputs, columns, seen, image_id) for seen in dict.fromkeys(preferences.values())}
    of_bags = {
        name: find_inputs(inputs, bag_columns(columns, spec), options.opening(spec).preference, image_id)
        for name, spec in specs.items()
        if spec.bag
    }
    if options.dicomseg and not (
        any(file.kind == "dicom" for files in found.values() for file in files)
        and any(specs[name].form == "mask" for name in names)
    ):
        raise ValueError("dicomseg is for masks of DICOM series, but there are none. Leave it out, or give a series.")
    for files in found.values():
        check_names([file.id for file in files])
    # what is not asked for is not named: folders of before these options were there can be gone on with
    asked = {key: value for key, value in asdict(options).items() if value or key not in ("geojson", "dicomseg")}
    made_by = {"model": fingerprint(model), **asked}
    model.eval().to(compute.device)
    remove_leftovers(out)
    outputs = {
        name: TaskOutput(out, name, model.task(name), Journal(out, name, made_by, overwrite), options) for name in specs
    }
    result, failed = PredictedFiles(), dict[str, str]()
    bags = [  # before anything is predicted: nothing may say which images are together
        BagPredictions(model, outputs[name], files, options, compute, failed) for name, files in of_bags.items()
    ]
    try:
        for preference, files in found.items():
            alike = [outputs[name] for name in names if preferences[name] == preference]
            options.opening(alike[0].task.spec).warn_of_images(files, options.intensity)
            own = {file.id: file.coco_id for file in files if file.coco_id is not None}
            for output in alike:
                if output.task.spec.form == "objects":
                    check_image_ids(output.journal.image_ids | own)
            before = {f.id: f.stamp for f in files if any(f.id in output.journal.done for output in alike)}
            for output in alike:
                output.journal.forget_changed(before)
            left = [file for file in files if any(file.id not in output.journal.done for output in alike)]
            result.inputs += len(files)
            result.skipped += len(files) - len(left)
            if left:
                FilePredictions(model, alike, left, options, compute, failed).run(progress)
        for of_task in bags:
            result.inputs += len(of_task.bags)
            result.skipped += len(of_task.bags) - len(of_task.left)
            of_task.run(progress)
    finally:  # also of what was done before it was stopped
        result.written = [path for output in outputs.values() for path in output.finish()]
    result.failed = list(failed.values())
    return result
