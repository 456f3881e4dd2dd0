"""Pictures of predictions, one a task, drawn anew at each validation and test."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from umedpt_lightning.drawing.attention import draw_attention, most_attended
from umedpt_lightning.drawing.charts import draw_chart
from umedpt_lightning.drawing.pictures import PANEL, Example, Pixels, draw, save, to_rgb
from umedpt_lightning.labels import BoxLayer, MaskLayer, PixelLayer, View
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import Bags, TaskBatch, to_numpy


class EvenChoice:
    """Keeps `size` of a stream of unknown length, spread evenly over it and always the same ones.

    Every ``stride``-th is kept; when there are too many of them, every other is dropped and the stride doubled.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: list[Example] = []
        self._passed, self._stride = 0, 1

    def wants_next(self) -> bool:
        """Whether the next of the stream is to be added; counts it."""
        wanted = self._passed % self._stride == 0
        self._passed += 1
        return wanted

    def add(self, example: Example) -> None:
        """Keeps the one that was just wanted."""
        self._kept.append(example)
        if len(self._kept) >= 2 * self.size:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def chosen(self) -> list[Example]:
        """As many as were asked for, or all there were."""
        places = np.linspace(0, len(self._kept) - 1, min(self.size, len(self._kept)))
        return [self._kept[round(place)] for place in places]


class PredictionPictures(pl.Callback):
    """Draws some samples of each task with truth and prediction at the end of validation and test.

    The pictures are ``<log folder>/<folder>/<part>_<task>.png``, always of the newest state. A W&B logger gets the
    same samples with masks and boxes as its own overlays, under ``pictures/<part>/<task>``. Of a bag the images that
    the model attends to most are shown, with their attention, and where it lies along a volume or over a slide. What a
    task has to draw of all samples together (`Task.chart`) is in ``<part>_<task>_chart.png``.

    Args:
        samples: Samples of each task, spread evenly over its data.
        folder: Where, below the trainer's log folder.

    Raises:
        ValueError: `samples` is not positive.
    """

    def __init__(self, samples: int = 4, folder: str = "pictures") -> None:
        if samples < 1:
            raise ValueError(f"samples must be positive, but it is {samples}. Leave the callback out for no pictures.")
        self.samples = samples
        self.folder = folder
        self._path = Path(folder)
        self._choices: dict[str, EvenChoice] = {}
        self._warned: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the folder; here, because the ranks must ask for it together."""
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / self.folder

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets what an interrupted one left."""
        self._choices = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TaskBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collects samples."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        choice = self._choices.setdefault(batch.task, EvenChoice(self.samples))
        with self._forgiving(batch.task):
            task = cast(MultiTaskModel, pl_module.model).task(batch.task)
            predictions: Any = None
            for index in range(len(batch)):
                if not choice.wants_next():
                    continue
                if predictions is None:  # most batches have no chosen sample
                    predictions, batch = task.predict(outputs), task.prepare(batch)
                if isinstance(batch.images, Bags):
                    with torch.inference_mode(), trainer.precision_plugin.val_step_context():
                        image = _attended(cast(MultiTaskModel, pl_module.model), batch.images[index], batch.task)
                else:
                    image = to_rgb(_copy(batch.images[index]), task.spec.value_range)
                view = task.comparison_view(_copy(batch.targets[index]), _copy(predictions[index]))
                name = "/".join(PurePath(batch.names[index]).parts[-2:])  # file and folder tell samples apart
                choice.add(Example(image, name, view))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws them."""
        part = "test" if trainer.testing else "val"
        when = f", round {trainer.global_step}" if trainer.global_step else ""  # a checkpoint of its own has none
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        for task, choice in self._choices.items():
            if not (examples := choice.chosen()):
                continue
            with self._forgiving(task):
                if chart := cast(MultiTaskModel, pl_module.model).task(task).chart():
                    drawn = draw_chart(chart)
                    save(drawn, self._path / f"{part}_{task}_chart.png")
                    for logger in loggers:
                        logger.log_image(f"charts/{part}/{task}", [drawn], step=trainer.global_step)
                picture = draw(examples, f"{task}, {part}{when}")
                save(picture, self._path / f"{part}_{task}.png")
                for logger in loggers:
                    _log_overlays(logger, f"pictures/{part}/{task}", examples, trainer.global_step)
        self._choices = {}

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    @contextlib.contextmanager
    def _forgiving(self, task: str) -> Iterator[None]:
        """A picture is not worth a training: says once what is wrong with a task's, and goes on."""
        try:
            yield
        except Exception as error:
            if task not in self._warned:
                self._warned.add(task)
                rank_zero_warn(f"No picture of task {task!r}: {type(error).__name__}: {error} Training goes on.")


def _attended(model: MultiTaskModel, bag: Bags, task: str) -> Pixels:
    """The images of one bag that count most, and where attention lies."""
    _, (weights,) = to_numpy(model.weighed(bag, task))
    value_range = model.task(task).spec.value_range
    shown = [to_rgb(to_numpy(bag.images[i]), value_range) for i in most_attended(weights).tolist()]
    return np.asarray(draw_attention(shown, weights, to_numpy(bag.positions), PANEL))


def _copy(value: Any) -> Any:
    """In main memory, without the rest of its batch."""
    return copy.deepcopy(to_numpy(value))


def _log_overlays(logger: WandbLogger, key: str, examples: list[Example], step: int) -> None:
    logger.log_image(
        key,
        [Image.fromarray(_with_pixels(e)) for e in examples],
        step=step,
        caption=["\n".join([e.name, *(line.text for line in e.view.lines)]) for e in examples],
        masks=[_of_kind(MaskLayer, e.view) for e in examples],
        boxes=[_of_kind(BoxLayer, e.view) for e in examples],
    )


def _with_pixels(example: Example) -> Pixels:
    """The image, and beside it those that stand in its place."""
    layers = (example.view.truth, example.view.prediction)
    others = [to_rgb(layer.values, (0.0, 1.0)) for layer in layers if isinstance(layer, PixelLayer)]
    return np.concatenate([example.image, *others], axis=1)


def _of_kind(kind: type[MaskLayer] | type[BoxLayer], view: View) -> dict[str, Any] | None:
    """The layers of one kind in W&B's format, None if there are none."""
    layers = {"ground_truth": view.truth, "prediction": view.prediction}
    return {
        name: _wandb_overlay(layer, view.classes) for name, layer in layers.items() if isinstance(layer, kind)
    } or None


def _wandb_overlay(layer: MaskLayer | BoxLayer, classes: dict[int, str]) -> dict[str, Any]:
    match layer:
        case MaskLayer(values):  # W&B keeps bytes
            names = {index % 256: name for index, name in classes.items()}
            return {"mask_data": values.astype(np.uint8), "class_labels": names}
        case BoxLayer(boxes, labels, scores):
            corners = ("minX", "minY", "maxX", "maxY")
            data: list[dict[str, Any]] = [
                {
                    "position": dict(zip(corners, box, strict=True)),
                    "domain": "pixel",
                    "class_id": label,
                    "box_caption": caption,
                }
                for box, label, caption in zip(boxes.tolist(), labels.tolist(), layer.captions(classes), strict=True)
            ]
            if scores is not None:
                for box, score in zip(data, scores.tolist(), strict=True):
                    box["scores"] = {"score": score}
            return {"box_data": data, "class_labels": classes}
