"""A model's folder from a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from umedpt_lightning.blocks.lora import has_lora, merge_lora, save_lora
from umedpt_lightning.data.formats.text_files import read_yaml
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.runs.folder import find_checkpoint


def export_run(
    run: Path | str, out: Path | str, ckpt_path: Path | str = "best", classes: Iterable[type] = ()
) -> MultiTaskModel:
    """Writes the model of a run as a folder that can be given away: weights, config and a card with data and metrics.

    Args:
        run: The run's folder.
        out: The folder to make; absent or empty.
        ckpt_path: ``best``, ``last`` or a checkpoint.
        classes: Label kinds, heads, encoders and blocks of your own that the model has.

    Returns:
        The model, whose `save_pretrained` and `push_to_hub` take it elsewhere.

    Raises:
        ValueError: `out` is not empty, or the checkpoint cannot be read.
        FileNotFoundError: There is no such checkpoint.
    """
    run, out = Path(run), Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out} is not empty. Give another folder.")
    model = MultiTaskModel.from_pretrained(str(find_checkpoint(ckpt_path, run)), classes=classes)
    if has_lora(model.encoder):
        save_lora(model.encoder, out / "adapter.safetensors")
        merge_lora(model.encoder)
    metrics = run / "metrics.json"
    card = {"data": _data(run / "config.yaml"), "metrics": json.loads(metrics.read_text()) if metrics.is_file() else {}}
    model.save_pretrained(out, model_card_kwargs=card)
    return model


def _data(file: Path) -> Mapping[str, str]:
    """What the run's config says of each task's data: readers and the last parts of paths, no folders of a machine."""
    config = read_yaml(file) if file.is_file() else {}
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
