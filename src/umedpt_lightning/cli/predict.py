"""``umedpt predict``: predictions for images, volumes and slides, as files that other programs read."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from umedpt_lightning.cli.options import add_classes, clear_errors, device_of, find_class
from umedpt_lightning.data.volume.intensity import Intensity, Percentiles, Window
from umedpt_lightning.data.volume.volumes import AXES
from umedpt_lightning.inference.find_inputs import TableColumns
from umedpt_lightning.inference.options import PredictOptions
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.predict import predict_files
from umedpt_lightning.inference.progress import progress
from umedpt_lightning.model import MultiTaskModel


def main(command: str, arguments: Sequence[str]) -> None:
    """Writes the predictions and says where they are; exits with 1 where some inputs could not be predicted."""
    options = _parser(command).parse_args(arguments)
    # images up to twice the size that Pillow warns of are predicted by tiles, larger ones are errors
    warnings.filterwarnings("ignore", message=".*decompression bomb.*")
    # a line of source says nothing to those who use the command
    warnings.formatwarning = lambda message, *_, **__: f"umedpt: warning: {message}\n"
    with clear_errors():
        failed = _predict(options)
    if failed:
        lines = "\n".join(f"  {message}" for message in failed)
        what = "1 input" if len(failed) == 1 else f"{len(failed)} inputs"
        raise SystemExit(f"umedpt: error: {what} could not be predicted, the others are done:\n{lines}")


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"umedpt {command}",
        description="Predict images, volumes (NIfTI, DICOM series) and whole slides. What is in the folder already is "
        "not done again.",
    )
    add = parser.add_argument
    add("--model", required=True, help="a model's folder or name on the Hub, a run's folder, or a checkpoint")
    add(
        "--inputs",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders, tables with a column `path`, COCO files (.json)",
    )
    add("--out", type=Path, required=True, help="the folder of the predictions")
    add("--tasks", nargs="+", metavar="TASK", help="all by default")
    add("--group", metavar="COLUMN", help="of a table, such as the patient; goes into the results")
    add("--image_id", metavar="COLUMN", help="of a table: the images' ids in your own COCO file, for that of the boxes")
    add("--root", metavar="FOLDER", help="where the names in a table or COCO file start from (its own folder)")
    add("--overlays", action="store_true", help="also draw predictions over their images")
    add("--geojson", action="store_true", help="also write masks, boxes and tiles for QuPath")
    add("--dicomseg", action="store_true", help="also write masks of DICOM series as DICOM segmentations")
    add("--overwrite", action="store_true", help="do again what is there already")
    add("--min_score", type=float, default=0.3, help="boxes below are neither counted nor drawn (%(default)s)")
    add("--batch_size", type=int, default=8, help="images of one size at a time (%(default)s)")
    add("--num_workers", type=int, default=2, help="processes that read images; 0 reads in this one (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1 or auto")
    add_classes(parser)
    large = parser.add_argument_group("large images and slides")
    large.add_argument("--tile", type=int, help="side of a tile, pixels (1792, or as the task was trained on slides)")
    large.add_argument("--overlap", type=int, help="pixels that tiles share (as far as the encoder sees)")
    large.add_argument("--exact", action="store_true", help="as the whole image in one, at ten times the time or so")
    large.add_argument("--mpp", type=float, help="µm from pixel to pixel of a slide's tiles (as in training)")
    large.add_argument("--microns_per_pixel", type=float, help="of images, and of slides whose file does not say")
    volumes = parser.add_argument_group("volumes, where it is not to be as in training")
    volumes.add_argument("--axis", choices=AXES, help="the slices")
    volumes.add_argument("--spacing", type=float, help="size of their pixels, mm")
    volumes.add_argument("--window", nargs=2, type=float, metavar=("LOW", "HIGH"), help="become black and white")
    volumes.add_argument("--percentiles", nargs=2, type=float, metavar=("LOWER", "UPPER"), help="likewise, of a volume")
    return parser


def _predict(options: argparse.Namespace) -> list[str]:
    compute = ComputeOptions(device_of(options.device), "32", options.batch_size, options.num_workers)
    how = PredictOptions(
        tile=options.tile,
        overlap=options.overlap,
        exact=options.exact,
        mpp=options.mpp,
        pixel_size=options.microns_per_pixel,
        axis=options.axis,
        spacing=options.spacing,
        intensity=_intensity(options),
        min_score=options.min_score,
        overlays=options.overlays,
        geojson=options.geojson,
        dicomseg=options.dicomseg,
    )
    model = MultiTaskModel.from_pretrained(options.model, classes=[find_class(path) for path in options.classes])
    result = predict_files(
        model,
        options.inputs,
        options.out,
        options.tasks,
        how,
        compute,
        columns=TableColumns(group=options.group, root=options.root),
        image_id=options.image_id,
        overwrite=options.overwrite,
        progress=progress,
    )
    if result.skipped:
        print(f"{result.skipped} of {result.inputs} inputs were there already; --overwrite does them again.")
    print(f"predictions: {', '.join(map(str, result.written))}", file=sys.stdout)
    return result.failed


def _intensity(options: argparse.Namespace) -> Intensity | None:
    if options.window and options.percentiles:
        raise ValueError("--window and --percentiles both say what becomes black and white. Leave one out.")
    if options.window:
        return Window(*options.window)
    return Percentiles(*options.percentiles) if options.percentiles else None
