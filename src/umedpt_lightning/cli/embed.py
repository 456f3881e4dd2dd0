"""``umedpt embed``: a vector for every image, slice or tile, in a table."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jsonargparse
from jsonargparse.typing import NonNegativeInt, PositiveInt

from umedpt_lightning.cli.classes import find_class
from umedpt_lightning.cli.loading import device_of
from umedpt_lightning.cli.parser_errors import parse
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.dicom_file import is_dicom
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.embed import embed
from umedpt_lightning.inference.find_inputs import TableColumns, find_inputs
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Store
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer.progress import progress
from umedpt_lightning.transfer.sources import weights_digest


def main(command: str, arguments: Sequence[str]) -> None:
    """Computes what is not there yet, and joins it.

    Raises:
        SystemExit: With a line on what the user can mend.
    """
    parser = _parser(command)
    config = parse(parser, arguments)
    with warnings.catch_warnings():  # see cli/transfer.py
        warnings.simplefilter("ignore", DeprecationWarning)
        options = parser.instantiate_classes(config)
    try:
        _run(options)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        raise SystemExit(f"umedpt: error: {error}") from error


def _parser(command: str) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=f"umedpt {command}",
        description="Embed images, slices of volumes and tiles of slides. The same command goes on where it ended.",
    )
    parser.add_argument("--config", action="config", help="YAML file with these options.")
    parser.add_argument("--model", type=str, required=True, help="A model's folder or Hub name, a run, or a .ckpt.")
    parser.add_argument(
        "--inputs",
        type=str,
        nargs="+",
        required=True,
        help="Images, NIfTI, DICOM, slides, folders of them, tables (.csv, .parquet) with a column of paths.",
    )
    parser.add_argument("--out", type=Path, required=True, help="A .parquet file; or .npy, with ids in .npy.csv.")
    parser.add_argument("--task", type=str, default=None, help="Whose size, channels and intensities are used.")
    parser.add_argument("--scales", action="store_true", help="Means of all maps of the encoder, not of the last.")
    parser.add_argument("--skip_bad", action="store_true", help="Leave out what cannot be read, and list it.")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1 or auto.")
    parser.add_argument("--precision", type=Literal["32", "bf16"], default="32", help="Of the encoder.")
    parser.add_argument("--batch_size", type=PositiveInt, default=32, help="Images at a time.")
    parser.add_argument("--num_workers", type=NonNegativeInt, default=2, help="Processes that read images.")
    parser.add_argument("--classes", type=str, nargs="*", default=[], help="Tasks of your own: package.module.Class.")
    parser.add_argument("--columns", type=TableColumns, default=TableColumns(), help="Of tables.")
    parser.add_argument("--slices", type=Slices | None, default=None, help="How volumes are cut.")
    parser.add_argument("--intensity", type=Intensity | None, default=None, help="What becomes 0 and 1 in volumes.")
    parser.add_argument("--tiles", type=Tiles | None, default=None, help="How slides are cut.")
    return parser


def _run(options: jsonargparse.Namespace) -> None:
    device = device_of(options.device)
    model = MultiTaskModel.from_pretrained(options.model, classes=[find_class(path) for path in options.classes])
    task = _task(model, options.task)
    spec, size = model.task(task).spec, model.sizes.get(task)
    opening = Opening.as_trained(spec, size, options.slices, options.intensity, options.tiles)
    files = find_inputs(options.inputs, options.columns, opening.preference)
    opening.warn_of_images(files, options.intensity)
    inputs = InputRows(files, opening, options.skip_bad)
    made_of: dict[str, Any] = {
        "model": weights_digest(model),
        "task": [task, spec.channels, spec.value_range, size],
        "scales": options.scales,
        "precision": options.precision,
        "cut": f"Cut(slices={opening.slices}, intensity={opening.intensity}, tiles={opening.tiles or Tiles()})",
    }
    if not opening.preference.volumes and any(file.kind == "image" and is_dicom(file.path) for file in files):
        made_of["dicom"] = "images"  # they were slices of volumes before, under equal names
    store = Store(options.out, made_of, inputs.digest, len(inputs))
    if store.complete:
        print(f"{options.out} is complete.")
        return
    compute = ComputeOptions(device, options.precision, options.batch_size, options.num_workers)
    left, start = len(inputs) - store.done, time.monotonic()
    if store.done:
        print(f"{store.done:,} of {len(inputs):,} are there already.", flush=True)
    with progress("embeddings", left) as advance:
        embed(model, task, inputs, store, compute, scales=options.scales, skip_bad=options.skip_bad, advance=advance)
    seconds = max(time.monotonic() - start, 1e-9)
    count, width, skipped = store.finish(inputs.skipped)
    print(f"{options.out}: {count:,} vectors of {width} numbers ({left / seconds:.0f} images a second)")
    if skipped:
        print(f"{len(skipped)} inputs were left out, see {store.about}:")
        print("\n".join(f"  {reason}" for reason in skipped[:10]))


def _task(model: MultiTaskModel, name: str | None) -> str:
    """The task whose size, channels and intensities are used."""
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
