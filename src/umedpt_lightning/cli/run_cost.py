"""From what was measured of some rounds to what a run will cost, and that as a page of text."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from umedpt_lightning.cli.options import cores
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.training.profiling import TaskCost

_BOUND_BY_LOADER = 0.1  # of a round spent waiting
_WIDEST = 400


@dataclass
class RunCost:
    """What was measured, all times in seconds.

    Attributes:
        tasks: A micro-batch of each task that came up.
        samples: Training samples of each task.
        loading: Time to read a micro-batch of each task in one process that has a core to itself.
        workers: Processes that read; 0 where the main process does.
        step: What a round takes beside its micro-batches.
        measured_rounds: Time of each measured round.
        peak_bytes: Most memory of this process so far, and of its accelerator if there is one.
        validation: Time of a validation; 0 where there is none.
    """

    tasks: dict[str, TaskCost]
    samples: dict[str, int]
    loading: dict[str, float]
    workers: int
    step: float
    measured_rounds: list[float]
    epoch_rounds: int
    run_rounds: int
    peak_bytes: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "32-true"
    ranks: int = 1
    validation: float = 0.0
    validations_per_epoch: float = 0.0

    def per_round(self, phase: str) -> float:
        """Seconds that a phase takes in a round, over all tasks; ``load`` is that of one process."""
        return sum(
            cost.micro_batches * (self.loading.get(name, 0.0) if phase == "load" else getattr(cost, phase))
            for name, cost in self.tasks.items()
        )

    @property
    def compute(self) -> float:
        """Seconds of a round without waiting for data."""
        return sum(map(self.per_round, ("transfer", "forward", "backward"))) + self.step

    @property
    def waiting(self) -> float:
        """Seconds of a round in which the model waits for data.

        Workers that are too slow live for a while on what they have read ahead: then it is what is missing in the long
        run.
        """
        if not self.workers:
            return self.per_round("waiting")
        return max(self.per_round("waiting"), self.per_round("load") / min(self.workers, cores()) - self.compute)

    @property
    def round(self) -> float:
        """Seconds of a round."""
        return self.compute + self.waiting

    @property
    def epoch(self) -> float:
        """Seconds of an epoch with its validations."""
        return self.epoch_rounds * self.round + self.validations_per_epoch * self.validation

    @property
    def run(self) -> float:
        """Seconds of the run."""
        return self.run_rounds / self.epoch_rounds * self.epoch

    @property
    def bound(self) -> str:
        """What a round waits for: ``loader`` or ``model``."""
        return "loader" if self.waiting > _BOUND_BY_LOADER * self.round else "model"

    @property
    def workers_needed(self) -> int:
        """Processes that read as fast as the model learns, each with a core to itself."""
        return max(1, math.ceil(self.per_round("load") / self.compute))

    @property
    def samples_per_second(self) -> float:
        """Over all tasks and ranks."""
        return self.ranks * sum(cost.micro_batches * cost.images[0] for cost in self.tasks.values()) / self.round

    def totals(self) -> dict[str, Any]:
        """All that is computed from what was measured."""
        names = ("compute", "waiting", "round", "epoch", "run", "bound", "workers_needed", "samples_per_second")
        return {name: getattr(self, name) for name in names}


def validation_batches(trainer: pl.Trainer, data: MultiTaskDataModule, limit: int | float) -> dict[str, float]:
    """Micro-batches of each task that a rank validates with, by the trainer's `limit_val_batches`."""
    counts = {
        name: math.ceil(math.ceil(len(task.val) / trainer.world_size) / task.batch_size)
        for name, task in data.tasks.items()
        if task.val is not None
    }
    total = sum(counts.values())
    share = min(1.0, limit / total) if total and isinstance(limit, int) else limit
    return {name: count * share for name, count in counts.items()}


def validations_per_epoch(trainer: pl.Trainer, round_seconds: float) -> float:
    """How often a fitted trainer is configured to validate, on average."""
    rounds = trainer.num_training_batches
    if trainer.val_check_batch is None:  # by the clock
        interval: float = trainer._val_check_time_interval  # type: ignore[attr-defined]  # set by a connector
        return rounds * round_seconds / interval
    if trainer.check_val_every_n_epoch is None:
        return rounds / trainer.val_check_batch
    return rounds // trainer.val_check_batch / trainer.check_val_every_n_epoch


def peak_memory(device: torch.device) -> dict[str, int]:
    """Most bytes that this process has had so far: ``process``, and ``device`` on CUDA."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(device)
    return peaks


def show(cost: RunCost) -> None:
    """Prints a table of the tasks and what follows from it."""
    console, table = Console(), _table(cost)
    # numbers that are cut off say nothing: a line that the terminal breaks does
    console.width = max(console.width, console.measure(table, options=console.options.update(width=_WIDEST)).maximum)
    console.print(table)
    for line in _lines(cost):
        print(line)


def _table(cost: RunCost) -> Table:
    title = f"milliseconds and MiB a micro-batch on {cost.device}, {cost.precision}"
    table = Table("task", title=title, title_justify="left", show_footer=True)
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    table.columns[0].footer = "a round"
    count = sum(task.micro_batches for task in cost.tasks.values())
    footers = {"a round": f"{count:g}"}
    phases = {"load": "load", "wait": "waiting", "copy": "transfer", "forward": "forward", "backward": "backward"}
    footers |= {heading: _ms(cost.per_round(phase)) for heading, phase in phases.items()}
    on_device = any(task.device_bytes for task in cost.tasks.values())
    headings = ["images", "a round", *phases, "batch", "saved", *(["device"] if on_device else [])]
    for heading in headings:
        table.add_column(heading, footers.get(heading, ""), justify="right", no_wrap=True)
    for name, task in cost.tasks.items():
        batch, channels, height, width = task.images
        load = cost.loading.get(name)
        cells = [f"{batch}x{channels}x{height}x{width}", f"{task.micro_batches:g}"]
        cells += ["none" if load is None else _ms(load)]
        cells += map(_ms, (task.waiting, task.transfer, task.forward, task.backward))
        cells += map(_mib, (task.batch_bytes, task.saved_bytes))
        table.add_row(name, *cells, *([_mib(task.device_bytes)] if on_device else []))
    return table


def _lines(cost: RunCost) -> list[str]:
    lines = [
        f"round:  {_ms(cost.round)} ms = micro-batches {_ms(cost.compute - cost.step)}, optimizer and the rest "
        f"{_ms(cost.step)}, waiting for data {_ms(cost.waiting)}; {cost.samples_per_second:.0f} samples/s",
        f"bound:  by the {_bound(cost)}",
    ]
    epoch = f"epoch:  {_time(cost.epoch)} = {cost.epoch_rounds:,} rounds"
    if cost.validations_per_epoch:
        epoch += f" and {cost.validations_per_epoch:g} times {_time(cost.validation)} of validation"
    lines += [epoch, f"run:    {_time(cost.run)} for {cost.run_rounds:,} rounds"]
    memory = ", ".join(f"{_mib(peak)} MiB of the {where}" for where, peak in cost.peak_bytes.items())
    lines.append(f"memory: at most {memory}; workers have their own")
    if unseen := [name for name in cost.samples if name not in cost.tasks]:
        lines.append(f"not measured, since they did not come up: {', '.join(unseen)}. Give more --rounds.")
    return lines


def _bound(cost: RunCost) -> str:
    load = cost.per_round("load")
    if cost.bound == "model":
        return f"model; reading a round takes a process {_ms(load)} ms, and data.num_workers is {cost.workers}"
    return (
        f"loader: data.num_workers is {cost.workers}, and reading a round takes a process {_ms(load)} ms. "
        f"{cost.workers_needed} with a core each would keep up"
    )


def _ms(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _mib(size: int) -> str:
    mib = size / 2**20
    return f"{mib:.2f}" if mib < 10 else f"{mib:,.0f}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
