"""Options and callbacks of Lightning's Trainer that are refused in a run of rounds; docs/trainer.md tells of all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

#: Options that are refused unless they have this value, with the mend.
REFUSED: Mapping[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "A round accumulates already: give tasks more `micro_batches` under data.tasks."),
    "gradient_clip_val": (None, "Set model.optimization.clip, the largest norm of all gradients together."),
    "gradient_clip_algorithm": (None, "Gradients are clipped by their norm: set model.optimization.clip."),
    "use_distributed_sampler": (False, "The data module shares samples out between ranks itself: leave it out."),
    "reload_dataloaders_every_n_epochs": (0, "Each task has one endless stream of samples: leave it out."),
    "sync_batchnorm": (False, "Running statistics are the same on all ranks already: leave it out."),
    "barebones": (False, "Switch off what you do not want: logger, enable_checkpointing, enable_progress_bar."),
    "limit_predict_batches": (None, "`umedpt predict --inputs` says what is predicted: leave it out."),
}

#: Callbacks of Lightning that are refused, with the mend.
REFUSED_CALLBACKS: Mapping[str, str] = {
    "StochasticWeightAveraging": "Use EMAWeightAveraging or WeightAveraging, which average every round.",
    "GradientAccumulationScheduler": "A round accumulates already: give tasks more `micro_batches`.",
    "BaseFinetuning": "Freeze stages of the encoder by the optimizer's parameter groups, see docs/training.md.",
    "BatchSizeFinder": "`umedpt profile` says what every task's batch_size takes.",
    "LearningRateFinder": "Use `umedpt lr-find`.",
    "ModelPruning": "It prunes outside the step that all tasks share, and breaks an exact resumption.",
    "OnExceptionCheckpoint": "It saves in the middle of a round: `last.ckpt` is what a run goes on from exactly.",
    "SpikeDetection": "Micro-batches that are not finite are left out and told already: model.max_bad_rounds.",
    "ThroughputMonitor": "train/samples_per_second is logged; `umedpt profile` tells more.",
    "BasePredictionWriter": "`umedpt predict` writes predictions.",
}

#: Options of ``--checkpoint``, the run's own best.ckpt, that are refused unless they have this value.
_BEST: Mapping[str, Any] = {
    "dirpath": None,
    "save_last": False,
    "save_top_k": 1,
    "enable_version_counter": False,
    "every_n_train_steps": None,
    "train_time_interval": None,
}


def check_options(trainer: Mapping[str, Any]) -> None:
    """Refuses options of the Trainer, by name, that cannot mean what they say in a run of rounds.

    Raises:
        ValueError: Names the option and the mend.
    """
    for name, (value, mend) in REFUSED.items():
        if trainer.get(name) not in (value, None):
            raise ValueError(f"trainer.{name} is {trainer[name]}, which cannot be used here. {mend}")
    if (precision := trainer.get("precision")) in ("16-true", "bf16-true"):
        raise ValueError(
            f"trainer.precision is {precision}, which cannot be used here: small steps of its weights would be lost in "
            "rounding. Use bf16-mixed."
        )
    strategy: Any = trainer.get("strategy")
    called = str(getattr(strategy, "class_path", strategy))
    if any(word in called.lower() for word in ("fsdp", "deepspeed", "modelparallel", "model_parallel")):
        raise ValueError(
            f"trainer.strategy {called} cannot be used here: it knows nothing of rounds. Use `sharded` for a model "
            "that does not fit on one device, else ddp; docs/cluster.md tells of both."
        )
    for name in ("limit_train_batches", "max_epochs", "max_steps"):
        if trainer.get(name) == 0:
            raise ValueError(f"trainer.{name} is 0: nothing would be trained. Leave it out.")
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        interval = trainer.get(name)
        if isinstance(interval, int | float) and interval <= 0:
            raise ValueError(
                f"trainer.{name} is {interval}, but it must be positive. For no validation give "
                "--trainer.limit_val_batches 0."
            )
    rounds = trainer.get("log_every_n_steps")
    if rounds is not None and rounds < 1:
        raise ValueError(f"trainer.log_every_n_steps is {rounds}: give a number of rounds, at least 1.")


def check_best(options: Mapping[str, Any]) -> None:
    """Refuses options of ``--checkpoint`` by which best.ckpt would not be the best checkpoint of the run.

    Raises:
        ValueError: Names the option and the mend.
    """
    for name, value in _BEST.items():
        if options.get(name, value) != value:
            raise ValueError(
                f"checkpoint.{name} is {options[name]}, but a run keeps one best checkpoint, checkpoints/best.ckpt, "
                "and last.ckpt (see --last.minutes). For others add a ModelCheckpoint of your own under "
                "trainer.callbacks."
            )


def _is_own(callback: ModelCheckpoint) -> bool:
    """Whether it writes files that have the names of the run's own."""
    return re.fullmatch(r"last|previous|best(_.*)?", callback.filename or "") is not None


def check_callbacks(callbacks: Iterable[Callback], validates: bool) -> None:
    """Refuses callbacks that cannot do what they are for in a run of rounds, or in one that never validates.

    Raises:
        ValueError: Names the callback and the mend.
    """
    for callback in callbacks:
        for name, mend in REFUSED_CALLBACKS.items():
            if isinstance(callback, getattr(lightning_callbacks, name)):
                raise ValueError(f"trainer.callbacks: {type(callback).__name__} cannot be used here. {mend}")
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None and _is_own(callback):
            raise ValueError(
                f"trainer.callbacks: ModelCheckpoint(filename={callback.filename!r}) and the run itself would write "
                "the same file. Give it another filename, or a dirpath; last.ckpt, best.ckpt and, with "
                "--best_per_task, best_<task>.ckpt are there anyway."
            )
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None and callback.save_last:
            callback.save_last = False
            rank_zero_warn(
                "trainer.callbacks: save_last of ModelCheckpoint is off, since a run keeps last.ckpt itself, at "
                "moments from which it goes on exactly: see --last.minutes and --last.rounds."
            )
        if isinstance(callback, EarlyStopping) and not validates and callback.monitor.startswith("val/"):
            raise ValueError(
                f"trainer.callbacks: EarlyStopping waits for {callback.monitor}, but trainer.limit_val_batches is 0, "
                "so that there is no validation. Leave one of them out."
            )
