"""What each option and callback of Lightning's Trainer does in a run of rounds: it works, or it is refused.

The page docs/trainer.md shows these tables; a test goes through all options and callbacks of the installed Lightning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping

#: Options that are passed on, with what they do here.
WORKING: Mapping[str, str] = {
    "accelerator": "as in Lightning",
    "strategy": "`ddp` for several GPUs or machines, see [cluster](cluster.md); sharded strategies are refused",
    "devices": "as in Lightning",
    "num_nodes": "as in Lightning",
    "precision": "as in Lightning; prefer `bf16-mixed` to `16-mixed`",
    "logger": "beside `metrics.csv`, which every run has; `false` for none at all",
    "callbacks": "beside the run's own; one, or a list",
    "fast_dev_run": "so many rounds and validation micro-batches; writes nothing and prints no table",
    "max_epochs": "an epoch is `data.steps_per_epoch` rounds",
    "min_epochs": "with early stopping",
    "max_steps": "rounds",
    "min_steps": "rounds, with early stopping",
    "max_time": "as in Lightning",
    "limit_train_batches": "rounds of an epoch",
    "limit_val_batches": "micro-batches of validation; 0 for no validation",
    "limit_test_batches": "micro-batches of the test",
    "overfit_batches": "the same so many rounds (or share of an epoch's) again and again, with equal augmentation",
    "val_check_interval": "rounds, or a share of an epoch",
    "check_val_every_n_epoch": "as in Lightning",
    "num_sanity_val_steps": "micro-batches of validation before training",
    "log_every_n_steps": "rounds",
    "enable_checkpointing": "`false` for a run without any checkpoint, which cannot go on",
    "enable_progress_bar": "as in Lightning",
    "enable_model_summary": "as in Lightning",
    "deterministic": "as in Lightning",
    "benchmark": "as in Lightning",
    "inference_mode": "as in Lightning",
    "profiler": "as in Lightning; `umedpt profile` tells time and memory of every task",
    "detect_anomaly": "as in Lightning",
    "plugins": "beside the run's own writer of checkpoints",
    "default_root_dir": "is the run's folder: give `--run`",
    "enable_autolog_hparams": "as in Lightning",
    "model_registry": "as in Lightning",
}

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

#: The callbacks that work, with what they do here.
WORKING_CALLBACKS: Mapping[str, str] = {
    "DeviceStatsMonitor": "as in Lightning",
    "EarlyStopping": "by any val/… metric, or val/score",
    "EMAWeightAveraging": "validation and checkpoints have the averaged weights",
    "LambdaCallback": "in Python",
    "LearningRateMonitor": "as in Lightning; train/learning_rate is logged anyway",
    "ModelCheckpoint": "beside the run's own best.ckpt, in files of its own",
    "ModelSummary": "as in Lightning",
    "ProgressBar": "in place of the run's own",
    "RichModelSummary": "as in Lightning",
    "RichProgressBar": "in place of the run's own",
    "TQDMProgressBar": "in place of the run's own",
    "Timer": "as in Lightning",
    "WeightAveraging": "validation and checkpoints have the averaged weights",
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
    """Refuses options of the Trainer that cannot mean what they say in a run of rounds.

    Args:
        trainer: Options by name; one that is left out, or None, is Lightning's default.

    Raises:
        ValueError: Names the option and the mend.
    """
    for name, (value, mend) in REFUSED.items():
        if trainer.get(name) not in (value, None):
            raise ValueError(f"trainer.{name} is {trainer[name]}, which cannot be used here. {mend}")
    strategy: Any = trainer.get("strategy")
    called = str(getattr(strategy, "class_path", strategy))
    if any(word in called.lower() for word in ("fsdp", "deepspeed", "modelparallel", "model_parallel")):
        raise ValueError(f"trainer.strategy {called}: gradients are exchanged once a round, as a whole. Use ddp.")
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


def check_callbacks(callbacks: Iterable[Callback], validates: bool) -> None:
    """Refuses callbacks that cannot do in a run of rounds what they are for.

    Args:
        callbacks: Those of the config.
        validates: Whether there is any validation.

    Raises:
        ValueError: Names the callback and the mend.
    """
    for callback in callbacks:
        for name, mend in REFUSED_CALLBACKS.items():
            if isinstance(callback, getattr(lightning_callbacks, name)):
                raise ValueError(f"trainer.callbacks: {type(callback).__name__} cannot be used here. {mend}")
        if isinstance(callback, EarlyStopping) and not validates and callback.monitor.startswith("val/"):
            raise ValueError(
                f"trainer.callbacks: EarlyStopping waits for {callback.monitor}, but trainer.limit_val_batches is 0, "
                "so that there is no validation. Leave one of them out."
            )
