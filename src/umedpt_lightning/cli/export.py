"""``umedpt export``: a folder that can be given away, from a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from umedpt_lightning.cli.options import add_classes, clear_errors, find_class
from umedpt_lightning.export import export_onnx
from umedpt_lightning.runs.export import export_run
from umedpt_lightning.training.checkpoints import CheckpointError


def main(command: str, arguments: Sequence[str]) -> None:
    """Writes the folder and says what is in it."""
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description="Make a model's folder from a checkpoint.")
    parser.add_argument("--run", type=Path, default=Path(), help="the run's folder, for its checkpoints and metrics")
    parser.add_argument("--ckpt_path", default="best", help="best, last or a file (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--onnx", action="store_true", help="also write ONNX files, compared with PyTorch")
    parser.add_argument("--wandb_artifact", metavar="[PROJECT/]NAME", help="log the folder as an artifact of W&B")
    add_classes(parser)
    options = parser.parse_args(arguments)
    with clear_errors(also=(CheckpointError,)):
        _export(options)


def _export(options: argparse.Namespace) -> None:
    classes = [find_class(path) for path in options.classes]
    model = export_run(options.run, options.out, options.ckpt_path, classes)
    print(f"model:  {options.out} ({', '.join(model.tasks)})")
    if options.onnx:
        for file, difference in export_onnx(model, options.out / "onnx"):
            print(f"onnx:   {file} (differs from PyTorch by {difference:.0e})", flush=True)
    if options.wandb_artifact:
        from umedpt_lightning.callbacks.wandb_runs import log_artifact

        log_artifact(options.out, options.wandb_artifact)
