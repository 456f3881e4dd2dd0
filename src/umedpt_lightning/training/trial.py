"""Some rounds of the configured training that leave nothing behind."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


class TrialEnd(pl.Callback):
    """Ends a fit after a number of rounds, however long the run is meant to be.

    Optimizer and schedule are made for the whole run before; only then is its end taken away.

    Args:
        rounds: Rounds until the end.

    Attributes:
        run_rounds: Rounds that the whole run would have.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds, self.run_rounds = rounds, 0
        self._done = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the end of the run away, which may come sooner than that of the trial."""
        self.run_rounds = int(trainer.estimated_stepping_batches)
        trainer.fit_loop.max_epochs = -1
        trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Counts rounds, not steps: a round whose gradients cannot be used has none."""
        self._done += 1
        if self._done == self.rounds:
            trainer.should_stop = True


def fit_for(
    trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule, rounds: int, watch: pl.Callback
) -> int:
    """Trains for some rounds, without validation, with one callback.

    Args:
        trainer: Has neither loggers nor callbacks.
        module: Is trained.
        data: What it is trained on.
        rounds: How long.
        watch: The callback.

    Returns:
        Rounds that the whole run would have.
    """
    end = TrialEnd(rounds)
    trainer.callbacks = [watch, end]  # type: ignore[attr-defined]  # a plain attribute, set where Lightning does not see
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)
    return end.run_rounds
