"""``umedpt embed``: a vector for every image, slice or tile, in a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jsonargparse
from jsonargparse.typing import NonNegativeInt, PositiveInt

from umedpt_lightning.cli.options import clear_errors, device_of, find_class
from umedpt_lightning.cli.parser_errors import parse
from umedpt_lightning.data.slide.tiles import Tiles
from umedpt_lightning.data.volume.intensity import Intensity
from umedpt_lightning.data.volume.slices import Slices
from umedpt_lightning.inference.embed_files import embed_files
from umedpt_lightning.inference.find_inputs import TableColumns
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.progress import progress
from umedpt_lightning.model import MultiTaskModel


def main(command: str, arguments: Sequence[str]) -> None:
    """Computes what is not there yet, and joins it."""
    parser = _parser(command)
    config = parse(parser, arguments)
    options = parser.instantiate(config)
    with clear_errors():
        _run(options)


def _parser(command: str) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=f"umedpt {command}",
        description="Embed images, slices, tiles, or bags of these. The same command goes on where it ended.",
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
    started = time.monotonic()
    made = embed_files(
        MultiTaskModel.from_pretrained(options.model, classes=[find_class(path) for path in options.classes]),
        options.inputs,
        options.out,
        options.task,
        ComputeOptions(device_of(options.device), options.precision, options.batch_size, options.num_workers),
        columns=options.columns,
        slices=options.slices,
        intensity=options.intensity,
        tiles=options.tiles,
        scales=options.scales,
        skip_bad=options.skip_bad,
        progress=progress,
    )
    if not made.computed:
        print(f"{options.out} is complete.")
        return
    if made.before:
        print(f"{made.before:,} of {made.before + made.computed:,} were there already.")
    speed = made.computed / max(time.monotonic() - started, 1e-9)
    print(f"{options.out}: {made.rows:,} vectors of {made.width} numbers ({speed:.0f} a second)")
    if made.skipped:
        print(f"{len(made.skipped)} inputs were left out, see {made.about}:")
        print("\n".join(f"  {reason}" for reason in made.skipped[:10]))
