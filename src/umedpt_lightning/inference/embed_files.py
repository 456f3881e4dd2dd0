"""Files through the encoder into a table, from Python as from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.dicom_file import is_dicom
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.bags import BagInputs, bag_columns, bag_pieces
from umedpt_lightning.inference.digests import weights_digest
from umedpt_lightning.inference.embed import fill, image_pieces
from umedpt_lightning.inference.find_inputs import TableColumns, find_inputs
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import ProgressCallback, no_progress
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Store
from umedpt_lightning.model import MultiTaskModel


@dataclass(frozen=True)
class EmbeddedFiles:
    """What is in a table of embeddings: so many rows of a width.

    Attributes:
        before: Images, or bags, that had been computed before.
        computed: Images, or bags, that were computed now; 0 where the table was complete.
        skipped: What was wrong with inputs that were left out.
        about: The file beside the table that lists these.
    """

    rows: int
    width: int
    before: int
    computed: int
    skipped: list[str]
    about: Path


def embed_files(
    model: MultiTaskModel,
    inputs: Sequence[str],
    out: Path | str,
    task: str | None = None,
    compute: ComputeOptions | None = None,
    *,
    columns: TableColumns | None = None,
    slices: Slices | None = None,
    intensity: Intensity | None = None,
    tiles: Tiles | None = None,
    scales: bool = False,
    skip_bad: bool = False,
    progress: ProgressCallback = no_progress,
) -> EmbeddedFiles:
    """Writes a vector for every image, slice of a volume or tile of a slide; goes on where it ended.

    Of a task of bags there is a vector a bag, see `umedpt_lightning.inference.bags.BagInputs`.

    Args:
        model: A trained model, of `MultiTaskModel.from_pretrained`.
        inputs: Files, folders, tables with a column of paths.
        out: A ``.parquet`` file, or ``.npy`` with ids in ``.npy.csv``.
        task: Whose size, channels and intensities are used; None for the only one.
        compute: What computes; None the CPU.
        columns: Of tables; None for those with the usual names.
        slices: How volumes are cut; None as the task was trained.
        intensity: What becomes 0 and 1 in volumes; None as the task was trained.
        tiles: How slides are cut; None as the task was trained.
        scales: Means of all maps of the encoder, not of the last.
        skip_bad: Leave out what cannot be read, and list it.
        progress: Is told how far it is.

    Raises:
        ValueError: An input cannot be used and `skip_bad` is off, or the table was made of something else.
        FileNotFoundError: An input is not there.
    """
    name, compute = _task(model, task), compute or ComputeOptions()
    spec, size = model.task(name).spec, model.sizes.get(name)
    opening = Opening.as_trained(spec, size, slices, intensity, tiles)
    if spec.bag:
        if scales:
            raise ValueError(f"--scales: a {spec.bag} has no maps, only its images have. Leave it out.")
        columns = bag_columns(columns, spec)
    files = find_inputs(inputs, columns, opening.preference)
    opening.warn_of_images(files, intensity)
    rows: InputRows | BagInputs = (BagInputs if spec.bag else InputRows)(files, opening, skip_bad)
    made_of: dict[str, Any] = {
        "model": weights_digest(model),
        "task": [name, spec.channels, spec.value_range, size],
        "scales": scales,
        "precision": compute.precision,
        "cut": f"Cut(slices={opening.slices}, intensity={opening.intensity}, tiles={opening.tiles or Tiles()})",
    }
    if not opening.preference.volumes and any(file.kind == "image" and is_dicom(file.path) for file in files):
        made_of["dicom"] = "images"  # they were slices of volumes before, under equal names
    store = Store(Path(out), made_of, rows.digest, len(rows))
    if store.complete:
        about = json.loads(store.about.read_text(encoding="utf-8"))
        return EmbeddedFiles(about["rows"], about["width"], len(rows), 0, about["skipped"], store.about)
    before, left = store.done, len(rows) - store.done
    with progress("embeddings", left) as advance:
        if isinstance(rows, BagInputs):
            pieces = bag_pieces(model, name, rows, before, compute)
        else:
            pieces = image_pieces(model, name, rows, before, compute, scales)
        fill(store, rows, pieces, skip_bad=skip_bad, advance=advance)
    count, width, skipped = store.finish(rows.skipped)
    return EmbeddedFiles(count, width, before, left, skipped, store.about)


def _task(model: MultiTaskModel, name: str | None) -> str:
    tasks = list(model.tasks)
    if name is None and len(tasks) == 1:
        return str(tasks[0])
    if name not in tasks:
        found = "The model has several tasks" if name is None else f"The model has no task {name!r}"
        raise ValueError(
            f"{found}. Give one by --task, that with images most like yours (its size, channels and intensities are "
            f"used): {', '.join(tasks)}."
        )
    return name
