"""What happens to a parsed config before anything is built from it."""

from __future__ import annotations

import math
import os
from argparse import SUPPRESS
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.utilities import rank_zero_warn

from umedpt_lightning.cli.options import fill_root
from umedpt_lightning.cli.task_files import choose, in_words
from umedpt_lightning.data.presets import read_augmentations
from umedpt_lightning.data.transforms import Augmentations
from umedpt_lightning.runs.folder import claim, default_folder, find_checkpoint, new_folder, wandb_id
from umedpt_lightning.runs.trainer_options import check_best, check_options
from umedpt_lightning.tasks.names import check_task_names

#: What is built only where a task needs it, so that null is right where none does.
_DECODERS = ("model.pixel_decoder", "model.detection_decoder")


def settle(config: Namespace, command: str) -> None:
    """Checks the names of tasks, settles the run's folder and checkpoint, fills in ``${root}`` and presets, in place.

    Raises ValueError where a name of a task or preset does not fit, a number is NaN, a path is empty, or `fit` would
    write into the folder of another run, and FileNotFoundError where there is no such checkpoint.
    """
    _check_numbers(config)
    for option in ("run", "root", "ckpt_path", "init_from"):
        if config.get(option) == "":
            raise ValueError(
                f"--{option} is empty, as where a variable of the shell is not set. Give it, or leave it out."
            )
    fill_root(config, config.root)
    _leave_out(config)
    check_options(vars(config.trainer))
    if config.trainer.overfit_batches:
        config.data.overfit, config.trainer.overfit_batches = config.trainer.overfit_batches, 0.0
    check_task_names(config.data.tasks, config.model.tasks or {})
    check_task_names(config.data.tasks, config.model.weights or {}, "model.weights")
    for name, task in config.data.tasks.items():
        if isinstance(task.augment, str):  # what it says belongs into the run's config: presets and files change
            try:
                task.augment = read_augmentations(task.augment, Augmentations)
            except ValueError as error:
                raise ValueError(f"data.tasks.{name}: {error}") from error
    if command == "fit":
        _settle_run(config)
    else:
        config.run = _evaluated_run(config)
        if command in ("validate", "test"):
            config.ckpt_path = config.ckpt_path or _usual_checkpoint(Path(config.run))
    config.trainer.default_root_dir = config.run
    if config.ckpt_path:
        config.ckpt_path = find_checkpoint(config.ckpt_path, Path(config.run), may_lack=command == "fit")
    for logger in config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]:
        # W&B's own files belong to the run too
        if (
            isinstance(logger, Namespace)
            and logger.class_path.endswith("WandbLogger")
            and logger.init_args.save_dir == "."
        ):
            logger.init_args.save_dir = config.run
            if command == "fit" and logger.init_args.id is None:
                logger.init_args.id = wandb_id(Path(config.run))


def check_nulls(parser: ArgumentParser, config: Namespace) -> None:
    """Refuses null where an option needs a value: the parser takes it for any option.

    Raises:
        ValueError: Names the key, or the section under which nothing stands.
    """
    for action in parser._actions:
        section, dot, _ = action.dest.partition(".")
        if dot and config.get(section) is None:
            raise ValueError(f"{section}: nothing stands under it. Give it options, or leave it out.")
        hint = getattr(action, "_typehint", None)
        needed = hint is not None and action.default not in (None, SUPPRESS) and NoneType not in get_args(hint)
        if needed and config.get(action.dest) is None and action.dest not in _DECODERS:
            raise ValueError(f"{action.dest} is null, but it needs a value. Give one, or leave it out.")


def _check_numbers(value: Any, key: str = "") -> None:
    """Refuses NaN, which passes any limit, since comparisons with it are false; a class may take it, as for no data."""
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{key} is .nan, which is no number. Give one, or leave it out.")
    items = vars(value) if isinstance(value, Namespace) else value
    items = dict(enumerate(items)) if isinstance(items, list | tuple) else items
    for name, inner in items.items() if isinstance(items, dict) else ():
        if name != "init_args":
            _check_numbers(inner, f"{key}.{name}" if key else str(name))


def _leave_out(config: Namespace) -> None:
    """Takes tasks out, with their heads and weights, so that the run's config is whole without this option."""
    for name in choose(in_words(config.leave_out), "--leave_out", config.data.tasks):
        for described in (config.data.tasks, config.model.tasks or {}, config.model.weights or {}):
            described.pop(name, None)
    config.leave_out = ""
    if not config.data.tasks:
        raise ValueError("--leave_out leaves no task. Leave out fewer.")


def _settle_run(config: Namespace) -> None:
    """Claims the run's folder for this process, on the first rank; the others are told by Lightning."""
    check_best(vars(config.checkpoint))
    if config.trainer.fast_dev_run:  # writes nothing
        config.run = config.run or str(default_folder())
        return
    first = not _get_rank()
    try:
        config.run = config.run or str(new_folder() if first else default_folder())
        if first:
            claim(Path(config.run))
    except OSError as error:
        run = config.run or default_folder()
        raise OSError(f"--run {run}: this folder cannot be written to ({error}). Give another one.") from error
    if config.ckpt_path is None and _requeued(Path(config.run)):
        config.ckpt_path = "last"
    if not config.ckpt_path and first and (Path(config.run) / "config.yaml").exists():
        raise ValueError(
            f"--run {config.run} already holds a run. Go on with it by --ckpt_path last, or give another folder."
        )


def _evaluated_run(config: Namespace) -> str:
    """The run that a config belongs to: that which it names, or, seen from another folder, that in which it lies."""
    run = config.run or str(default_folder())
    if not (Path(run) / "checkpoints").is_dir():
        for file in config.config or []:
            beside = Path(str(file)).expanduser().absolute().parent
            if (beside / "checkpoints").is_dir():
                return str(beside)
    return str(run)


def _usual_checkpoint(run: Path) -> str | None:
    """The checkpoint that is evaluated where none is asked for; None, with a warning, where a run has none."""
    for name in ("best", "last"):
        if (run / "checkpoints" / f"{name}.ckpt").is_file():
            return name
    rank_zero_warn(
        f"There is no checkpoint in {run}: what is evaluated are the weights that the config begins with. Give trained "
        "ones by --ckpt_path, or their run by --run."
    )
    return None


def _requeued(run: Path) -> bool:
    """Whether SLURM has started this job, which has begun this run, again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 and (run / "config.yaml").exists()


def locate(config: Any, class_type: type, arguments: dict[str, Any], key: str = "") -> str | None:
    """The key in `config` under which an object of `class_type` with these init arguments is described."""
    described = isinstance(config, Namespace) and "class_path" in config and "init_args" in config
    if described and config.class_path.endswith(class_type.__name__) and _describes(config.init_args, arguments):
        return key
    items = vars(config) if isinstance(config, Namespace) else config if isinstance(config, dict) else {}
    for name, value in items.items():
        if found := locate(value, class_type, arguments, f"{key}.{name}" if key else name):
            return found.removesuffix(".init_args")
    return None


def _describes(config: Namespace, made: Any) -> bool:
    """Whether arguments, or the dataclass in one of them, may be made of this piece of a config."""
    values = made if isinstance(made, dict) else getattr(made, "__dict__", {})
    return vars(config).keys() == values.keys() and all(
        _describes(value, values[name]) if isinstance(value, Namespace) else value == values[name]
        for name, value in vars(config).items()
    )
