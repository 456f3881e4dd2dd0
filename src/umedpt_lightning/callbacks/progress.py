"""What a person sees while it trains: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from umedpt_lightning.training import MultiTaskModule

_WORST = 3
# More often nobody can read it, and drawing the bar after every round takes a tenth of a short round's time.
_REFRESHES_PER_SECOND = 2


def standing(trainer: pl.Trainer) -> dict[str, str]:
    """How the run stands: the last ``val/score``, the speed, and the tasks that do worst."""
    metrics = trainer.callback_metrics
    module = trainer.lightning_module
    values: dict[str, str] = {}
    if "val/score" in metrics:
        values["val/score"] = f"{float(metrics['val/score']):.3f}"
    if "train/samples_per_second" in metrics:
        values["samples/s"] = f"{float(metrics['train/samples_per_second']):.0f}"
    if isinstance(module, MultiTaskModule):
        scores = {
            name: float(metrics[key])
            for name in module.model.tasks
            if (key := f"val/{name}/{module.model.task(name).main_metric}") in metrics
        }
        worst = sorted(scores.items(), key=lambda item: item[1])[:_WORST]
        if worst:
            values["worst"] = ", ".join(f"{name} {score:.2f}" for name, score in worst)
    return values


class TimeLeft:
    """How long the run will take from here, from the rounds since it was started or resumed."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._first, self._start = trainer.global_step, time.monotonic()
        self.rounds = int(trainer.estimated_stepping_batches)

    def text(self, trainer: pl.Trainer) -> str:
        """Hours, minutes and seconds."""
        rate = (time.monotonic() - self._start) / max(1, trainer.global_step - self._first)
        return str(timedelta(seconds=round(rate * max(0, self.rounds - trainer.global_step))))


class RunBar(RichProgressBar):
    """Rounds, time left, total loss, ``val/score``, samples a second and the three tasks that do worst."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=_REFRESHES_PER_SECOND)
        self._next = 0.0
        self._loss: Tensor | None = None
        self._left: TimeLeft | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self._left = TimeLeft(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any) -> None:
        """Keeps the total loss for the next refresh, and does no more until that is due."""
        self._loss = outputs["loss"]
        if (now := time.monotonic()) >= self._next or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._next = now + 1 / _REFRESHES_PER_SECOND
            super().on_train_batch_end(trainer, pl_module, outputs, *args)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands right of the bar."""
        left = {} if self._left is None else {"left": self._left.text(trainer)}
        loss = {} if self._loss is None else {"loss": f"{float(self._loss):.3f}"}
        return {**left, **loss, **standing(trainer)}


class RunLines(ProgressBar):
    """The same as lines of text, `seconds` apart, for output that is no terminal."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._last = time.monotonic()
        self._left: TimeLeft | None = None

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first; the lines look at the rank themselves."""

    def enable(self) -> None:
        """Nothing was disabled."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._last = time.monotonic()
        self._left = TimeLeft(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """A line if it is time."""
        if trainer.is_global_zero and time.monotonic() - self._last >= self.seconds:
            self._print(trainer, loss=f"{float(outputs['loss']):.3f}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line with the new metrics."""
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._print(trainer)

    def _print(self, trainer: pl.Trainer, **values: str) -> None:
        self._last = time.monotonic()
        values |= standing(trainer)
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        if self._left is not None:
            shown = f"round {trainer.global_step}/{self._left.rounds}, {self._left.text(trainer)} left, {shown}"
        print(shown, flush=True)


def progress(terminal: bool) -> ProgressBar:
    """The bar for a terminal, lines for everything else."""
    return RunBar() if terminal else RunLines()
