"""Checks before training that there will be validation, and the metrics that callbacks wait for."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn


class OptionError(ValueError):
    """An option of the trainer, a callback or a schedule that cannot do in this run what it is for."""


def check_monitors(callbacks: Iterable[Callback], known: Collection[str]) -> None:
    """Holds that what callbacks monitor is among the metrics that validation gives.

    Args:
        callbacks: Early stopping, checkpoints and the like.
        known: Names of all metrics of validation.

    Raises:
        OptionError: Naming callback, metric and those that are alike.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("val/") and monitor not in known:
            alike = difflib.get_close_matches(monitor, known, n=3, cutoff=0.0)
            raise OptionError(
                f"{type(callback).__name__} monitors {monitor}, but there will be no such metric. Alike are "
                f"{', '.join(alike)}; for each task that has a val part there is val/<task>/<metric>."
            )


def check_schedule(schedule: object, known: Collection[str]) -> None:
    """Holds that a schedule that goes by a metric of validation will have it.

    Args:
        schedule: Of the learning rate, any.
        known: Names of all metrics of validation; none where there will be no validation.

    Raises:
        OptionError: Naming the metric and those that are alike.
    """
    if isinstance(schedule, ReduceLROnPlateau) and schedule.monitor not in known:
        alike = difflib.get_close_matches(schedule.monitor, known, n=3, cutoff=0.0)
        raise OptionError(
            f"model.optimization.lr_scheduler goes by {schedule.monitor} after each validation, but "
            + (
                f"there will be no such metric. Alike are {', '.join(alike)}."
                if known
                else "there is none: give tasks a val part."
            )
        )


def warn_of_no_validation(trainer: pl.Trainer) -> None:
    """Warns where a run with validation data will have ended before it comes to validate."""
    rounds = trainer.estimated_stepping_batches
    first = trainer.val_check_batch
    if first is None or not trainer.enable_validation:  # by the clock, or not at all
        return
    if trainer.check_val_every_n_epoch is not None:
        first += (trainer.check_val_every_n_epoch - 1) * trainer.num_training_batches
    if rounds < first:
        rank_zero_warn(
            f"The run ends after {rounds} rounds, and the first validation would be after {first}: there will be no "
            "validation metrics, no best checkpoint and no pictures of predictions. Lower trainer.val_check_interval "
            "(a number of rounds) or trainer.check_val_every_n_epoch, or train longer.",
            stacklevel=2,
        )


def warn_of_few_batches(trainer: pl.Trainer, tasks: Collection[str]) -> None:
    """Warns where validation is cut so short that some of its tasks are not in it."""
    batches = sum(trainer.num_val_batches) * trainer.world_size
    if batches < len(tasks) and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        rank_zero_warn(
            f"trainer.limit_val_batches leaves {batches:g} micro-batches for {len(tasks)} tasks: those that get none "
            "have no metrics, and val/score, by which the best is chosen, is of the others. Give at least one a task.",
            stacklevel=2,
        )
