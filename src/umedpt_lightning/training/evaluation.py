"""Validation and test: every sample of a part once through its task's metrics."""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks.contract import loss_of, metrics_of_task
from umedpt_lightning.training.non_finite_outputs import NonFiniteOutputs
from umedpt_lightning.training.out_of_memory import explained_memory
from umedpt_lightning.types import TaskBatch


class EvaluationModule(pl.LightningModule):
    """The part of a module that validates and tests.

    Attributes:
        model: What is evaluated.
        val_losses: The mean loss of each task over the known labels of the val part.
    """

    model: MultiTaskModel
    val_losses: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.non_finite_outputs = NonFiniteOutputs()

    def on_validation_epoch_start(self) -> None:
        """Forgets what a sanity check or an interrupted validation left in the metrics."""
        self.non_finite_outputs.reset()
        for name in self.model.tasks:
            self.model.task(name).reset()
            self._val_loss(name).reset()

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> Any:
        """Adds a micro-batch to its task's metrics; returns the head's output for the callbacks."""
        with explained_memory([batch], self.trainer):
            batch = self.model.task(batch.task).prepare(batch)
            output = self._evaluate(batch)
            task = self.model.task(batch.task)
            loss, known = loss_of(task, output, batch.targets), task.known(batch.targets)
        self._val_loss(batch.task).update(loss, weight=known)
        return output

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<task>/<metric>``, ``val/<task>/loss`` (mean over known labels) and ``val/score``."""
        self.non_finite_outputs.tell(self.model, "val")
        if self.trainer.sanity_checking:
            return
        tasks = evaluated_tasks(self.trainer.val_dataloaders)
        metrics = self._metrics("val", tasks)
        metrics |= {f"val/{name}/loss": self._val_loss(name).compute() for name in tasks}
        self.log_dict(metrics)
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(metrics[schedule.monitor])
        if follow := getattr(self.trainer.train_dataloader, "follow", None):
            follow({name: float(metrics[f"val/{name}/loss"]) for name in tasks})

    def test_step(self, batch: TaskBatch, batch_idx: int) -> Any:
        """Adds a micro-batch to its task's metrics; returns the head's output for the callbacks."""
        with explained_memory([batch], self.trainer):
            return self._evaluate(self.model.task(batch.task).prepare(batch))

    def on_test_epoch_start(self) -> None:
        """Forgets what validation left in the metrics."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<task>/<metric>`` and ``test/score``."""
        self.non_finite_outputs.tell(self.model, "test")
        self.log_dict(self._metrics("test", evaluated_tasks(self.trainer.test_dataloaders)))

    def validation_metrics(self, tasks: list[str]) -> set[str]:
        """The names of all that validation of these tasks logs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metrics warn that they have seen nothing
            return {*self._metrics("val", tasks), *(f"val/{task}/loss" for task in tasks)}

    def _evaluate(self, batch: TaskBatch) -> Any:
        output = self.model(batch.images, batch.task)
        task = self.model.task(batch.task)
        task.update(output, task.truth(batch))
        self.non_finite_outputs.add(batch, output)
        return output

    def _metrics(self, part: str, tasks: list[str]) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        scores = []
        for name in tasks:
            task = self.model.task(name)
            computed = metrics_of_task(task)
            metrics |= {f"{part}/{name}/{metric}": value.to(self.device) for metric, value in computed.items()}
            scores.append(metrics[f"{part}/{name}/{task.main_metric}"].float())
        return metrics | {f"{part}/score": torch.stack(scores).nanmean()}

    def _val_loss(self, task: str) -> MeanMetric:
        metric = self.val_losses[task]
        return metric  # type: ignore[return-value]  # a ModuleDict forgets what it holds


def evaluated_tasks(loader: Any) -> list[str]:
    """The tasks an evaluation loader has data of, the same on every rank."""
    tasks: list[str] = loader.tasks
    return tasks
