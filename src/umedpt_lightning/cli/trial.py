"""What `umedpt profile` and `umedpt lr-find` share: a run as of `umedpt fit` that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from umedpt_lightning.cli.options import clear_errors
from umedpt_lightning.cli.training import UmedptCLI, be_quiet
from umedpt_lightning.training.checkpoints import AtomicCheckpointIO, CheckpointError


def main(command: str, arguments: Sequence[str], trainer_class: type[pl.Trainer]) -> None:
    """Runs a method of a trainer; what the user can mend is told without a traceback."""
    be_quiet()
    with clear_errors(also=(CheckpointError,)):
        TrialCLI(command, list(arguments), trainer_class)


class TrialCLI(UmedptCLI):
    """The options of `umedpt fit`, but neither a run's folder nor loggers, checkpoints or callbacks."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there, but called on the object
        """The one that was asked for."""
        return {self.command: {"model", "datamodule"}}

    def before_instantiate_classes(self) -> None:
        """Leaves out of the trainer what would write, end the trial early or get between the rounds."""
        trainer = self.config[self.command].trainer
        trainer.logger = trainer.enable_checkpointing = trainer.enable_progress_bar = False
        trainer.enable_model_summary = trainer.fast_dev_run = False
        trainer.callbacks = trainer.profiler = trainer.min_epochs = trainer.min_steps = trainer.max_time = None
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer alone."""
        return self.trainer_class(**self.config_init[self.command].trainer, **kwargs)


def load_weights(module: pl.LightningModule, checkpoint: str | Path | None) -> None:
    """Gives the module the weights of a checkpoint, if there is one."""
    if checkpoint is not None:
        module.load_state_dict(AtomicCheckpointIO().load_checkpoint(checkpoint)["state_dict"])
