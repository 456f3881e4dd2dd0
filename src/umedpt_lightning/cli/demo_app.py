"""``umedpt demo-app``: a page to try a model on images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from umedpt_lightning.app import go_offline
from umedpt_lightning.cli.options import add_classes, clear_errors, find_class


def main(command: str, arguments: Sequence[str]) -> None:
    """Serves the page until Ctrl+C."""
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description="A page on this machine to try a model.")
    parser.add_argument("--model", type=Path, required=True, help="a model's or a run's folder, or a checkpoint")
    parser.add_argument("--neighbours", type=Path, help="embeddings of samples, as `umedpt embed` writes to Parquet")
    parser.add_argument("--images", type=Path, help="the folder that the samples' ids are paths in, to show them")
    parser.add_argument("--task", help="the task whose images the samples are (default: the model's first)")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; other machines see it at 0.0.0.0")
    parser.add_argument("--port", type=int, default=7860, help="its port, 0 for a free one (%(default)s)")
    add_classes(parser)
    options = parser.parse_args(arguments)
    try:
        with clear_errors():
            _serve(options)
    except KeyboardInterrupt:  # the way to end it
        print()


def _serve(options: argparse.Namespace) -> None:
    if not options.model.exists():  # a name on the Hub would be downloaded
        raise FileNotFoundError(
            f"--model {options.model}: there is no such folder or file. Give a folder that `umedpt export` made, a "
            "run's folder, or a checkpoint."
        )
    if options.neighbours is None and (options.images or options.task):
        raise ValueError("--images and --task say where --neighbours are from: give these as well.")
    if options.images is not None and not options.images.is_dir():
        raise FileNotFoundError(f"--images {options.images} is no folder. Give the one that the ids are paths in.")
    go_offline()
    from umedpt_lightning.app.neighbours import NearestSamples
    from umedpt_lightning.app.server import serve
    from umedpt_lightning.app.service import AppService, Samples
    from umedpt_lightning.model import MultiTaskModel

    model = MultiTaskModel.from_pretrained(options.model, classes=[find_class(path) for path in options.classes])
    samples = None
    if options.neighbours is not None:
        task = options.task or next(iter(model.tasks))
        samples = Samples(NearestSamples.read(options.neighbours), options.images, task)
        print(f"samples: {len(samples.nearest.ids)} of {options.neighbours}, as images of {task}", flush=True)
    title = options.model.resolve().name
    serve(
        AppService(model, samples),
        title,
        options.host,
        options.port,
        lambda url: print(f"page:    {url} (Ctrl+C ends it)", flush=True),
    )
