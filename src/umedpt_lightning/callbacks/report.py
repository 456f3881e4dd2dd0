"""What a run ends with: ``metrics.json`` and a table beside the majority baselines."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from umedpt_lightning.io.atomic import write_json
from umedpt_lightning.tasks import Task
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import TaskBatch

Metrics = dict[str, float]


class Report(Callback):
    """Compares every task with its majority baseline, and writes and prints what came out.

    The baseline is computed through the same metrics, once for each part, from `Task.baseline`: majority class, mean,
    empty mask, no box.

    The file ``metrics.json`` in the run's folder holds, for ``val`` (of the round with the best ``val/score``) and for
    ``test``, the metrics, the baselines and the round.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._pending: tuple[str, dict[str, Any]] | None = None
        self._judges: dict[str, Task] = {}
        self._baselines: dict[str, Metrics] = {}
        self._best: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the run's folder here, since all ranks must ask for it together."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepares the baselines of the part."""
        self._judges = {}
        part = _part(trainer)
        if part in self._baselines or trainer.sanity_checking or not isinstance(pl_module, MultiTaskModule):
            return
        loader: Any = trainer.val_dataloaders if part == "val" else trainer.test_dataloaders
        tasks = {name: pl_module.model.task(name) for name in loader.tasks}
        self._judges = {name: copy.deepcopy(task) for name, task in tasks.items() if task.has_baseline}
        for judge in self._judges.values():
            judge.reset()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: TaskBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a micro-batch to the baselines."""
        if judge := self._judges.get(batch.task):
            batch = judge.prepare(batch)
            judge.update(judge.baseline(batch.targets), judge.truth(batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finishes the baselines of the part."""
        if self._judges:
            self._baselines[_part(trainer)] = {
                f"{name}/{metric}": float(value)
                for name, judge in self._judges.items()
                for metric, value in judge.compute().items()
            }
            self._judges = {}

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the metrics if the score is the best so far."""
        if trainer.sanity_checking:
            return
        found = self._result("val", trainer)
        score, best = found["score"], self._best.get("score", math.nan)
        if not self._best or score > best or (math.isnan(best) and not math.isnan(score)):
            self._best = found
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._pending = ("val", found)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the metrics of the test part."""
        self._pending = ("test", self._result("test", trainer))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the best metrics of the val part."""
        if self._best:
            self._pending = ("val", self._best)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Writes and prints, now that the progress bar is gone."""
        if self._pending and trainer.is_global_zero:
            self._show(*self._pending, trainer)
        self._pending = None

    def state_dict(self) -> dict[str, Any]:
        """The best metrics so far, so that a resumed run remembers them."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best metrics of the run that is resumed."""
        best = dict(state_dict["best"])
        if "trivial" in best:  # as it was called
            best["baseline"] = best.pop("trivial")
        self._best = best

    def _result(self, part: str, trainer: pl.Trainer) -> dict[str, Any]:
        prefix = f"{part}/"
        metrics = {
            k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)
        }
        score = metrics.pop("score", math.nan)
        round_ = trainer.global_step
        return {"score": score, "round": round_, "metrics": metrics, "baseline": self._baselines.get(part, {})}

    def _show(self, part: str, result: dict[str, Any], trainer: pl.Trainer) -> None:
        module = trainer.lightning_module
        if not isinstance(module, MultiTaskModule):
            return
        Console().print(_table(part, result, module))
        folder = self._folder
        file = folder / "metrics.json"
        write_json(file, (json.loads(file.read_text()) if file.is_file() else {}) | {part: result})
        print(f"metrics:    {file}")
        if (folder / "pictures").is_dir():
            print(f"pictures:   {folder / 'pictures'}")
        for checkpoint in trainer.checkpoint_callbacks[-1:]:  # the command line's own; before it those of the config
            if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
                print(f"checkpoint: {os.path.relpath(checkpoint.best_model_path)}")


def _part(trainer: pl.Trainer) -> str:
    return "test" if trainer.testing else "val"


def _table(part: str, result: dict[str, Any], module: MultiTaskModule) -> Table:
    when = f" after {result['round']} rounds" if result["round"] else ""  # a checkpoint of its own does not say
    title = f"{part}: score {result['score']:.3f}{when}"
    table = Table("task", "metric", title=title, title_justify="left")
    for heading in (part, "baseline", "better by"):
        table.add_column(heading, justify="right")
    for name in module.model.tasks:
        task = module.model.task(name)
        for metric in _shown(name, result["metrics"], task):
            value, baseline = (result[of].get(f"{name}/{metric}", math.nan) for of in ("metrics", "baseline"))
            gain = baseline - value if metric.startswith(task.lower_is_better) else value - baseline
            bold = "bold" if metric == task.main_metric else None
            unit = task.spec.unit(metric)
            beside = ("", "") if math.isnan(baseline) else (_figure(baseline), _figure(gain, "+"))
            cells = (f"{metric} ({unit})" if unit else metric, _figure(value), *beside)
            table.add_row(name if metric == task.main_metric else "", *cells, style=bold)
    return table


def _figure(value: float, sign: str = "") -> str:
    """Three decimals, or three digits of what would be 0.000 though it is not."""
    return f"{value:{sign}.3g}" if 0 < abs(value) < 0.0005 else f"{value:{sign}.3f}"


def _shown(name: str, metrics: Metrics, task: Task) -> list[str]:
    """A task's metrics, the main one first, without those of single classes, which are in the file."""
    of_task = [key.removeprefix(f"{name}/") for key in metrics if key.startswith(f"{name}/")]
    shown = [metric for metric in of_task if metric != "loss" and not task.spec.is_of_one_name(metric)]
    return sorted(shown, key=lambda metric: metric != task.main_metric)
