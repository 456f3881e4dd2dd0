"""The Lightning module: one step for all tasks, one micro-batch in memory at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from umedpt_lightning.blocks import DetectionDecoder, Encoder, PixelDecoder
from umedpt_lightning.model import (
    DetectionDecoderFactory,
    MultiTaskModel,
    PixelDecoderFactory,
    TaskFactory,
    check_task_names,
)
from umedpt_lightning.training.gradients import average_gradients
from umedpt_lightning.training.optimization import Optimization
from umedpt_lightning.training.replaced import ReplacedSamples
from umedpt_lightning.training.tracker import LossTracker
from umedpt_lightning.types import Round, TaskBatch, TaskSpec


class MultiTaskModule(pl.LightningModule):
    """Trains a `MultiTaskModel`: for each task in turn forward, backward, free the graph; then one step.

    Args:
        specs: What the data of each task say of themselves; from the data module.
        encoder: The shared encoder.
        tasks: How to build a task; a name left out gets the default of its label type.
        weights: Weight of a task's loss; a name left out has 1.
        pixel_decoder: Builds the shared pixel decoder.
        detection_decoder: Builds the shared detection decoder.
        optimization: Optimizer and learning rate; None for the defaults.

    Raises:
        ValueError: `tasks` or `weights` name a task without data, or a weight is negative.
    """

    def __init__(
        self,
        specs: dict[str, TaskSpec],
        encoder: Encoder,
        tasks: dict[str, TaskFactory] | None = None,
        weights: dict[str, float] | None = None,
        pixel_decoder: PixelDecoderFactory = PixelDecoder,
        detection_decoder: DetectionDecoderFactory = DetectionDecoder,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = MultiTaskModel(encoder, specs, tasks, pixel_decoder, detection_decoder)
        self.weights = _weights(specs, weights or {})
        self.optimization = optimization or Optimization()
        self.val_losses = nn.ModuleDict({name: MeanMetric() for name in specs})
        self.losses = LossTracker()
        self.replaced = ReplacedSamples(specs)
        self.gradient_norm = torch.tensor(math.nan)
        self._samples = 0
        self._since = time.perf_counter()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One AdamW with two parameter groups, and its schedule over all rounds of the run."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("The learning rate needs an end: set trainer.max_steps or trainer.max_epochs.")
        # a fused step unscales fp16 gradients itself, which would leave nothing to clip before it
        fused = self.trainer.precision != "16-mixed"
        optimizer = self.optimization.optimizer(self, fused)
        return {"optimizer": optimizer, "lr_scheduler": self.optimization.schedule(optimizer, int(steps))}

    def setup(self, stage: str) -> None:
        """Takes over in which size the data module gives a task's images, for those who use the model later."""
        datamodule = getattr(self.trainer, "datamodule", None)
        self.model.sizes = dict(getattr(datamodule, "sizes", {}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds how the model is built, so that it can be exported without config and data."""
        with suppress(ValueError):  # a task of one's own with options that JSON cannot hold can still be trained
            checkpoint["model_config"] = self.model.describe()

    def training_step(self, batch: Round, batch_idx: int) -> dict[str, Tensor]:
        """One round: a backward pass a micro-batch, then one step."""
        optimizer: Any = self.optimizers()  # one; Lightning's type allows for several
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        weight_sum = sum(self.weights[task] for task in batch.micro_batches)
        with optimizer.toggle_model(sync_grad=False):  # the ranks exchange gradients once, below
            for micro_batch in batch:
                task = micro_batch.task
                loss = self._loss(micro_batch.to(self.device, non_blocking=True))
                scaled = loss * (self.weights[task] / weight_sum / batch.micro_batches[task])
                self.manual_backward(scaled)
                total += scaled.detach()
                self.losses.add(task, loss)
                self.replaced.add(micro_batch)
                self._samples += len(micro_batch)
        average_gradients(self.parameters())
        optimizer.step()
        if self.global_step % getattr(self.trainer, "log_every_n_steps", 1) == 0:
            self._log_training(optimizer.param_groups[0]["lr"])
        schedule.step()
        return {"loss": total}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips; here, because fp16 gradients have been unscaled by now."""
        limit = self.optimization.clip or math.inf
        self.gradient_norm = nn.utils.clip_grad_norm_(self.parameters(), limit)

    def on_validation_epoch_start(self) -> None:
        """Forgets what a sanity check or an interrupted validation left in the metrics."""
        for name in self.model.tasks:
            self.model.task(name).reset()
            self._val_loss(name).reset()

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> Any:
        """Adds a micro-batch to its task's metrics; returns the head's output for the callbacks."""
        output = self._evaluate(batch)
        loss = self.model.task(batch.task).loss(output, batch.targets)
        self._val_loss(batch.task).update(loss, weight=len(batch))
        return output

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<task>/<metric>``, ``val/<task>/loss`` (mean over micro-batches) and ``val/score``."""
        if self.trainer.sanity_checking:
            return
        tasks = _tasks(self.trainer.val_dataloaders)
        metrics = self._metrics("val", tasks)
        metrics |= {f"val/{name}/loss": self._val_loss(name).compute() for name in tasks}
        self.log_dict(metrics)

    def test_step(self, batch: TaskBatch, batch_idx: int) -> Any:
        """Adds a micro-batch to its task's metrics; returns the head's output for the callbacks."""
        return self._evaluate(batch)

    def on_test_epoch_start(self) -> None:
        """Forgets what validation left in the metrics."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<task>/<metric>`` and ``test/score``."""
        self.log_dict(self._metrics("test", _tasks(self.trainer.test_dataloaders)))

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> Any:
        """The task's predictions, in the user's terms."""
        return self.model.task(batch.task).predict(self.model(batch.images, batch.task))

    def _loss(self, batch: TaskBatch) -> Tensor:
        return self.model.task(batch.task).loss(self.model(batch.images, batch.task), batch.targets)

    def _evaluate(self, batch: TaskBatch) -> Any:
        output = self.model(batch.images, batch.task)
        self.model.task(batch.task).update(output, batch.targets)
        return output

    def _metrics(self, part: str, tasks: list[str]) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        scores = []
        for name in tasks:
            task = self.model.task(name)
            computed = task.compute()
            metrics |= {f"{part}/{name}/{metric}": value.to(self.device) for metric, value in computed.items()}
            scores.append(metrics[f"{part}/{name}/{task.main_metric}"].float())
        return metrics | {f"{part}/score": torch.stack(scores).nanmean()}

    def _val_loss(self, task: str) -> MeanMetric:
        metric = self.val_losses[task]
        return metric  # type: ignore[return-value]  # a ModuleDict forgets what it holds

    def _log_training(self, learning_rate: float) -> None:
        """Losses of each task since the last time, samples skipped in all, learning rate, gradient norm and speed."""
        losses = self.losses.read()
        now = time.perf_counter()
        speed = self._samples * self.trainer.world_size / (now - self._since)
        self._samples, self._since = 0, now
        weights = sum(self.weights[task] for task in losses)
        metrics = {f"train/{task}/loss": loss for task, loss in losses.items()}
        metrics |= {f"train/{task}/skipped": count for task, count in self.replaced.read(self.device).items()}
        metrics["train/loss"] = sum(self.weights[task] * loss for task, loss in losses.items()) / weights
        metrics["train/learning_rate"] = learning_rate
        metrics["train/gradient_norm"] = float(self.gradient_norm)
        metrics["train/samples_per_second"] = speed
        self.log_dict(metrics)


def _weights(specs: Mapping[str, TaskSpec], weights: Mapping[str, float]) -> dict[str, float]:
    check_task_names(specs, weights, "model.weights")
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"model.weights.{name} must not be negative, but it is {weight}.")
    all_weights = {name: weights.get(name, 1.0) for name in specs}
    if not any(all_weights.values()):
        raise ValueError("model.weights: all tasks have weight 0, so there is nothing to learn. Give one a weight.")
    return all_weights


def _tasks(loader: Any) -> list[str]:
    """The tasks an evaluation loader has data of, the same on every rank."""
    tasks: list[str] = loader.tasks
    return tasks
