"""``umedpt profile``: what a run will cost, task by task, before it is started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl

from umedpt_lightning.cli.run_cost import RunCost, peak_memory, show, validation_batches, validations_per_epoch
from umedpt_lightning.cli.training import load_weights, run_trial
from umedpt_lightning.data.cache.cached import CachedReader
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.loading.loaders import RoundLoader
from umedpt_lightning.data.loading.worker import prepare_worker
from umedpt_lightning.io.atomic import write_json
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.profiling import RoundTimer, ValidationTimer
from umedpt_lightning.training.trial import fit_for

_WARM_UP = 3


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs ``umedpt profile``."""
    run_trial(command, arguments, ProfilingTrainer)


class ProfilingTrainer(pl.Trainer):
    """A trainer that measures instead of training."""

    def profile(
        self,
        model: MultiTaskModule,
        datamodule: MultiTaskDataModule,
        rounds: int = 10,
        out: Path | None = None,
        ckpt_path: Path | None = None,
    ) -> None:
        """Measures some rounds of training and a part of a validation, and says what the whole run will take.

        Args:
            model: The module.
            datamodule: The data.
            rounds: Rounds that are measured, after three to warm up.
            out: JSON file for all that was measured.
            ckpt_path: A checkpoint whose weights to use.
        """
        load_weights(model, ckpt_path)
        cost = measure(self, model, datamodule, rounds)
        if self.is_global_zero:
            show(cost)
            if out is not None:
                write_json(out, asdict(cost) | cost.totals())
                print(f"everything: {out}")


def measure(trainer: pl.Trainer, module: MultiTaskModule, data: MultiTaskDataModule, rounds: int = 10) -> RunCost:
    """What the run that a trainer without loggers and callbacks, a module and data describe will cost.

    The module keeps its weights. Raises ValueError where there are too few rounds, or the run has no end.
    """
    if rounds < 1:
        raise ValueError(f"--rounds must be positive, but it is {rounds}.")
    limit_val = trainer.limit_val_batches
    timer = RoundTimer(_WARM_UP)
    # one more, since a round is over when the next begins
    run_rounds = fit_for(trainer, module, data, _WARM_UP + rounds + 1, timer)
    memory = peak_memory(module.device)
    tasks = timer.tasks
    loader: Any = trainer.train_dataloader  # that of the data module
    loading = time_loading(loader, round(rounds * sum(cost.micro_batches for cost in tasks.values())))
    cost = RunCost(
        tasks=tasks,
        samples={name: len(reader) for name, task in data.tasks.items() if (reader := task.train)},
        loading={name: median(times) for name, times in loading.items()},
        workers=data.num_workers,
        step=timer.step,
        measured_rounds=timer.rounds,
        epoch_rounds=int(trainer.num_training_batches),
        run_rounds=run_rounds,
        peak_bytes=memory,
        device=str(module.device),
        precision=str(trainer.precision),
        ranks=trainer.world_size,
    )
    if limit_val:
        watch = ValidationTimer()
        counts = validation_batches(trainer, data, limit_val)
        trainer.callbacks = [watch]  # type: ignore[attr-defined]
        trainer.limit_val_batches = max(1, min(rounds * len(counts), sum(counts.values())))
        trainer.validate(module, datamodule=data, verbose=False)
        cost.validation = watch.seconds(counts)
        cost.validations_per_epoch = validations_per_epoch(trainer, cost.round)
    return cost


def time_loading(loader: RoundLoader, micro_batches: int) -> dict[str, list[float]]:
    """Seconds of each micro-batch, by task: reading, augmenting and putting together, in this process.

    They are the next ones of the loader, which itself does not move. Those of a task with a cache are read twice, and
    the second time counts, as in all passes through the data but the first.
    """
    if loader.pool.workers:
        prepare_worker()
    pool = replace(loader.pool, workers=0, pin_memory=False)
    cached = {task: isinstance(reader, CachedReader) for task, reader in loader.dataset.readers.items()}
    times: dict[str, list[float]] = {}
    for second in (False, True) if any(cached.values()) else (False,):
        stream = pool.stream(pool.load(loader.dataset, loader.sampler))
        started = time.perf_counter()
        for batch in islice(stream, micro_batches):
            now = time.perf_counter()
            if cached[batch.task] == second:
                times.setdefault(batch.task, []).append(now - started)
            started = time.perf_counter()
    return times
