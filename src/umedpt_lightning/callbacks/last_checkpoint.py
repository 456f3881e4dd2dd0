"""``last.ckpt``: written now and then and when a run is told to stop, so that it goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from umedpt_lightning.callbacks.run_logger import RunLogger
from umedpt_lightning.training.checkpoints import LAST
from umedpt_lightning.training.ranks import explained_loss_of_ranks

_HOW_TO_GO_ON = "Go on by the same command with --ckpt_path last."
# Signals on which a cluster's plugin of Lightning, where there is one, saves and requeues.
_REQUEUE = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class LastCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` at the end of every epoch, in between, and when the run is told to stop.

    It is written only where Lightning can take up the run exactly: after a round that is neither the last of its epoch
    nor followed by a validation, after a validation in mid-epoch, and at the end of an epoch. What falls due elsewhere,
    and signals, wait until then. SIGTERM and Ctrl-C end the run there; a second Ctrl-C ends it at once. A signal on
    which Lightning requeues a SLURM job is handed to Lightning there. A run that is killed before goes on exactly too,
    only from the checkpoint before.

    Args:
        minutes: Time between two checkpoints in mid-epoch; None for none.
        rounds: Rounds between two checkpoints in mid-epoch; None for none.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, minutes: float | None = 15.0, rounds: int | None = None) -> None:
        for name, number in (("minutes", minutes), ("rounds", rounds)):
            if number is not None and number <= 0:
                raise ValueError(f"last.{name} must be positive, or null, but it is {number}.")
        self.minutes, self.rounds = minutes, rounds
        self._file = Path()
        self._saved = time.monotonic()
        self._stopping = False
        # what this rank wants: to save, to have the job requeued, to stop; the latter two are signals' numbers
        self._save, self._requeue, self._stop = False, 0, 0
        self._requeuers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._resumed: dict[str, Any] = {"rows": 0, "metrics": {}}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the folder here, since all ranks must ask for it together."""
        self._file = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / LAST

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes up the logs where the checkpoint left them, and listens for signals."""
        for logger in _run_loggers(trainer):
            logger.rewind(self._resumed["rows"])
        trainer.callback_metrics.update(self._resumed["metrics"])
        if any(c.wait_count >= c.patience for c in trainer.early_stopping_callbacks):
            trainer.should_stop = self._stopping = True  # the run was over
        self._saved = time.monotonic()
        self._stop = signal.SIGTERM if trainer.received_sigterm else 0
        if threading.current_thread() is threading.main_thread():
            self._listen()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves if it is due and the run can be taken up from here."""
        self._save |= self._due(trainer)
        if not _ends_epoch(trainer) and not _validation_follows(trainer):
            self._act(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves in mid-epoch what has fallen due."""
        in_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if in_fit and not _ends_epoch(trainer) and _validation_follows(trainer):  # none that was put in at the end
            self._save |= self._ends(trainer)
            self._act(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, unless the epoch was cut short: Lightning would take up the run with the next one."""
        if _ends_epoch(trainer):
            self._save = True
            self._act(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds how far the logs are."""
        rows = [logger.rows() for logger in _run_loggers(trainer)]
        metrics = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["run"] = {"rows": rows[0] if rows else 0, "metrics": metrics}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps it until training starts."""
        self._resumed = checkpoint.get("run", self._resumed)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Says where a run that was ended at once can be taken up."""
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero and self._file.exists():
            print(f"The last checkpoint is {self._file}. {_HOW_TO_GO_ON}", flush=True)

    def _due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        return (
            (self.rounds is not None and step % self.rounds == 0)
            or (self.minutes is not None and time.monotonic() - self._saved >= 60 * self.minutes)
            or step == trainer.max_steps
            or self._ends(trainer)
        )

    def _ends(self, trainer: pl.Trainer) -> bool:
        """Whether a callback has just asked for the end of the run."""
        before, self._stopping = self._stopping, trainer.should_stop
        return self._stopping and not before

    def _act(self, trainer: pl.Trainer) -> None:
        """Saves, has the job requeued and stops, if any rank wants it."""
        save, requeue, stop = int(self._save), self._requeue, self._stop
        if trainer.world_size > 1:
            own = torch.tensor([save, requeue, stop], device=trainer.strategy.root_device)
            with explained_loss_of_ranks():
                agreed: Any = trainer.strategy.reduce(own, reduce_op="max")
            save, requeue, stop = agreed.tolist()
        if not (save or requeue or stop) or getattr(trainer, "fast_dev_run", False):
            return
        trainer.save_checkpoint(self._file)
        self._saved, self._save, self._requeue = time.monotonic(), False, 0
        if requeue:
            if trainer.is_global_zero:  # Lightning writes one more file; those of earlier requeues are older than ours
                for old in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                    old.unlink()
            self._requeuers[requeue](requeue, None)
        if stop:
            if trainer.is_global_zero:
                name = signal.Signals(stop).name
                print(f"{name}: saved {self._file} after round {trainer.global_step}. {_HOW_TO_GO_ON}", flush=True)
            raise SystemExit(128 + stop)

    def _listen(self) -> None:
        """Takes the signals from Lightning, which would save in the middle of a round; its teardown sets them back."""
        for number in _REQUEUE:
            handler = signal.getsignal(number)
            if callable(handler):
                self._requeuers[number] = handler
                signal.signal(number, self._note_requeue)
        signal.signal(signal.SIGTERM, self._note_stop)
        signal.signal(signal.SIGINT, self._note_stop)

    def _note_requeue(self, number: int, frame: FrameType | None) -> None:
        self._requeue = number

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._stop:
            raise KeyboardInterrupt
        self._stop = number
        # print is not made to be called while it is at work
        os.write(2, b"\nThe run stops when the round or validation is done and saved; Ctrl-C stops it at once.\n")


def _run_loggers(trainer: pl.Trainer) -> list[RunLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def _ends_epoch(trainer: pl.Trainer) -> bool:
    """Whether the round was the last of its epoch."""
    return trainer.fit_loop.batch_idx + 1 >= trainer.num_training_batches


def _validation_follows(trainer: pl.Trainer) -> bool:
    """Whether a validation is due after the round, by the trainer's intervals of rounds and epochs."""
    epochs, rounds = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or rounds is None or math.isinf(rounds):
        return False
    if epochs is None:
        return (trainer.fit_loop.total_batch_idx + 1) % rounds == 0
    return (trainer.current_epoch + 1) % epochs == 0 and (trainer.fit_loop.batch_idx + 1) % rounds == 0
