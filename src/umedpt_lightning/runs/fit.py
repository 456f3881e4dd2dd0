"""Training from Python, as ``umedpt fit`` does it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

from umedpt_lightning.blocks.encoder import check_sizes
from umedpt_lightning.callbacks.best_checkpoint import BEST, BestCheckpoint
from umedpt_lightning.callbacks.last_checkpoint import LastCheckpoint
from umedpt_lightning.callbacks.pictures import PredictionPictures
from umedpt_lightning.callbacks.progress import progress
from umedpt_lightning.callbacks.report import Report
from umedpt_lightning.callbacks.run_logger import RunLogger
from umedpt_lightning.callbacks.task_map import TaskMap
from umedpt_lightning.callbacks.task_shares import TaskShares
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.runs.folder import claim, default_folder, find_checkpoint, new_folder
from umedpt_lightning.runs.trainer_options import check_callbacks, check_options
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.checkpoints import AtomicCheckpointIO
from umedpt_lightning.training.resume import init_from as take_what_fits


def fit(
    module: MultiTaskModule,
    data: MultiTaskDataModule,
    run: str | Path | None = None,
    *,
    ckpt_path: str | Path | None = None,
    init_from: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    **trainer: Any,
) -> pl.Trainer:
    """Trains, with all that a run of ``umedpt fit`` has: metrics, pictures, exact resumption, the best checkpoint.

    Call `lightning.pytorch.seed_everything` before the module is built to get the same weights again.

    Args:
        module: What is trained; its specs are ``data.specs``.
        data: What it is trained on.
        run: The run's folder; ``runs/<date-time>`` by default.
        ckpt_path: ``last`` to go on with the run, or a checkpoint; ``last`` starts a run that has none yet.
        init_from: Start from all blocks and heads that fit of a checkpoint, a run's or a model's folder.
        callbacks: Beside those of every run.
        loggers: Beside ``metrics.csv``.
        trainer: Options of `lightning.pytorch.Trainer`, such as ``max_epochs``; see docs/trainer.md.

    Returns:
        The trainer, after training.

    Raises:
        ValueError: The folder holds another run, or an option or callback cannot be used in a run of rounds.
        FileNotFoundError: There is no such checkpoint.
        CheckpointError: A checkpoint is damaged, or does not fit the module.
    """
    check_options(trainer)
    check_callbacks(callbacks, trainer.get("limit_val_batches") not in (0, 0.0))
    check_sizes(module.model.encoder, data.sizes)
    first = not _get_rank()
    folder = Path(run) if run is not None else new_folder() if first else default_folder()
    if first:
        claim(folder)
        if ckpt_path is None and (folder / "checkpoints").exists():
            raise ValueError(
                f"{folder} already holds a run. Go on with it by ckpt_path='last', or give another folder."
            )
    checkpoint = None if ckpt_path is None else find_checkpoint(ckpt_path, folder, may_lack=True)
    if init_from and checkpoint is None:
        rank_zero_info(take_what_fits(module.model, Path(init_from)))
    data.overfit = trainer.pop("overfit_batches", data.overfit)
    own = list(callbacks)
    if not trainer.get("fast_dev_run"):  # which writes nothing
        own = [*run_callbacks(own, trainer.get("enable_progress_bar") is not False), PredictionPictures()]
        if not any(isinstance(callback, TaskMap) for callback in own):
            own.append(TaskMap())
        if trainer.get("enable_checkpointing") is not False:
            own += [BestCheckpoint(**BEST), LastCheckpoint()]  # the last holds the state of those before it
    made = pl.Trainer(
        **{
            "default_root_dir": folder,
            "logger": [RunLogger(folder), *loggers],
            "callbacks": own,
            "plugins": [AtomicCheckpointIO()],
            **TRAINER_DEFAULTS,
            **trainer,
        }
    )
    made.fit(module, data, ckpt_path=checkpoint)
    return made


#: What a run of rounds has otherwise than Lightning: the data module shares samples out itself.
TRAINER_DEFAULTS: dict[str, Any] = {
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}


def run_callbacks(own: Sequence[Callback], bar: bool = True) -> list[Callback]:
    """The callbacks of a run that only tell, with or without a progress bar, around a user's own."""
    # the table of shares is printed before the bar is there, the report when it is gone
    callbacks = [*own, TaskShares()]
    if bar and not any(isinstance(callback, ProgressBar) for callback in own):
        callbacks.append(progress(terminal=sys.stdout.isatty()))
    return [*callbacks, Report()]
