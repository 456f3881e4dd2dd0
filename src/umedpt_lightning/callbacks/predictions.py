"""Predictions of a checkpoint as files that other programs read."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from PIL import Image

from umedpt_lightning.tasks import (
    Classification,
    Detection,
    MultilabelClassification,
    Regression,
    Segmentation,
    Task,
)
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import TaskBatch

Row = dict[str, Any]


class PredictionWriter(Callback):
    """Writes ``predictions/<task>.csv`` into the run's folder, one row an image, in the order of the data.

    Classes and labels come with their probabilities, numbers in their units, masks as PNG files and boxes as COCO
    results in ``predictions/<task>.json``; masks and boxes have the size of the stored image.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: TaskBatch, *_: Any
    ) -> None:
        """Keeps the rows of a micro-batch, and writes its masks."""
        if isinstance(pl_module, MultiTaskModule):
            rows = _rows(pl_module.model.task(batch.task), outputs, batch, _folder(trainer))
            self._rows.setdefault(batch.task, []).extend(
                {"image": name} | row for name, row in zip(batch.names, rows, strict=True)
            )

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the tables."""
        parts: list[Any] = [self._rows]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            dist.all_gather_object(parts, self._rows)
        self._rows = {}
        if not trainer.is_global_zero or not isinstance(pl_module, MultiTaskModule):
            return
        folder = _folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        for name in parts[0]:
            rows = [row for part in parts for row in part.get(name, [])]
            _write(folder, name, rows, pl_module.model.task(name))
        print(f"predictions: {folder}")


def _folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / "predictions"


@singledispatch
def _rows(task: Task, predictions: Any, batch: TaskBatch, folder: Path) -> list[Row]:
    """What is to be written of each image's prediction; a new label type registers its own."""
    raise TypeError(f"It is not known how to write predictions of a {type(task).__name__}.")


@_rows.register
def _(task: Classification, predictions: Any, batch: TaskBatch, folder: Path) -> list[Row]:
    classes = task.spec.classes
    return [
        {"class": classes[p.argmax()]} | {f"p_{c}": float(v) for c, v in zip(classes, p, strict=True)}
        for p in predictions
    ]


@_rows.register
def _(task: MultilabelClassification, predictions: Any, batch: TaskBatch, folder: Path) -> list[Row]:
    return [{f"p_{label}": float(v) for label, v in zip(task.spec.labels, p, strict=True)} for p in predictions]


@_rows.register
def _(task: Regression, predictions: Any, batch: TaskBatch, folder: Path) -> list[Row]:
    names = [f"{q} ({u})" if u else q for q, u in zip(task.spec.quantities, task.spec.units, strict=True)]
    return [{name: float(v) for name, v in zip(names, p, strict=True)} for p in predictions]


@_rows.register
def _(task: Segmentation, predictions: Any, batch: TaskBatch, folder: Path) -> list[Row]:
    masks = folder / batch.task
    masks.mkdir(parents=True, exist_ok=True)
    rows = []
    for mask, name, (height, width) in zip(predictions, batch.names, batch.stored_sizes, strict=True):
        # two files of one name in two folders must not overwrite each other
        tag = hashlib.blake2b(name.encode(), digest_size=3).hexdigest()
        file = masks / f"{Path(name).stem}_{tag}.png"
        Image.fromarray(mask.cpu().numpy()).resize((width, height), Image.Resampling.NEAREST).save(file)
        rows.append({"mask": str(file.relative_to(folder))})
    return rows


@_rows.register
def _(task: Detection, predictions: Any, batch: TaskBatch, folder: Path) -> list[Row]:
    rows = []
    for found, (height, width) in zip(predictions, batch.stored_sizes, strict=True):
        rows_y, rows_x = height / batch.images.shape[2], width / batch.images.shape[3]
        boxes = found.boxes.cpu() * found.boxes.new_tensor([rows_x, rows_y, rows_x, rows_y]).cpu()
        counts = found.labels.bincount(minlength=len(task.spec.classes)).tolist()
        rows.append(
            {f"n_{c}": n for c, n in zip(task.spec.classes, counts, strict=True)}
            | {"size": (height, width), "found": (boxes.tolist(), found.scores.tolist(), found.labels.tolist())}
        )
    return rows


def _write(folder: Path, name: str, rows: list[Row], task: Task) -> None:
    if isinstance(task, Detection):
        (folder / f"{name}.json").write_text(json.dumps(_coco(rows, task.spec.classes)))
        rows = [{k: v for k, v in row.items() if k not in ("size", "found")} for row in rows]
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _coco(rows: list[Row], classes: tuple[str, ...]) -> Mapping[str, Any]:
    images: list[Row] = []
    annotations: list[Row] = []
    for image_id, row in enumerate(rows, start=1):
        height, width = row["size"]
        images.append({"id": image_id, "file_name": row["image"], "height": height, "width": width})
        for (x1, y1, x2, y2), score, label in zip(*row["found"], strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    categories = [{"id": i, "name": c} for i, c in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
