"""``umedpt export``: a folder that can be given away, from a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from umedpt_lightning.cli.classes import find_class
from umedpt_lightning.export import export_onnx
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.runs.checkpoint import find_checkpoint
from umedpt_lightning.training.checkpoints import CheckpointError


def main(command: str, arguments: Sequence[str]) -> None:
    """Writes the folder and says what is in it."""
    parser = argparse.ArgumentParser(prog=f"umedpt {command}", description="Make a model's folder from a checkpoint.")
    parser.add_argument("--run", type=Path, default=Path(), help="the run's folder, for its checkpoints and metrics")
    parser.add_argument("--ckpt_path", default="best", help="best, last or a file (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--onnx", action="store_true", help="also write ONNX files, compared with PyTorch")
    parser.add_argument("--wandb_artifact", metavar="[PROJECT/]NAME", help="log the folder as an artifact of W&B")
    parser.add_argument(
        "--classes", nargs="*", default=[], metavar="PACKAGE.CLASS", help="tasks, specs and blocks of your own"
    )
    try:
        _export(parser.parse_args(arguments))
    except (ValueError, OSError, ImportError, CheckpointError) as error:
        raise SystemExit(f"umedpt: error: {error}") from error


def _export(options: argparse.Namespace) -> None:
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(f"--out {options.out} is not empty. Give another folder.")
    checkpoint = find_checkpoint(options.ckpt_path, options.run)
    model = MultiTaskModel.from_pretrained(str(checkpoint), classes=[find_class(path) for path in options.classes])
    card = {"data": _data(options.run / "config.yaml"), "metrics": _metrics(options.run / "metrics.json")}
    model.save_pretrained(options.out, model_card_kwargs=card)
    print(f"model:  {options.out} ({', '.join(model.tasks)})")
    if options.onnx:
        for file, difference in export_onnx(model, options.out / "onnx"):
            print(f"onnx:   {file} (differs from PyTorch by {difference:.0e})", flush=True)
    if options.wandb_artifact:
        from umedpt_lightning.callbacks.artifact import log_artifact

        log_artifact(options.out, options.wandb_artifact)


def _metrics(file: Path) -> Mapping[str, Any]:
    metrics: Mapping[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return metrics


def _data(file: Path) -> Mapping[str, str]:
    """What the run's config says of each task's data: readers and the last parts of paths, no folders of a machine."""
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    tasks = config.get("data", {}).get("tasks", {})
    return {
        name: "; ".join(f"{part} by {_reader(task[part])}" for part in ("train", "val", "test") if task.get(part))
        for name, task in tasks.items()
    }


def _reader(reader: Mapping[str, Any]) -> str:
    options = reader.get("init_args") or {}
    values = [value["file"] if isinstance(value, dict) and "file" in value else value for value in options.values()]
    files = [PurePath(value).name for value in values if isinstance(value, str) and "/" in value]
    name = str(reader["class_path"]).rpartition(".")[2]
    return f"{name} ({', '.join(files)})" if files else name
