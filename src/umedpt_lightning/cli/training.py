"""``umedpt fit | validate | test`` on LightningCLI, and what `umedpt profile` and `umedpt lr-find` share with them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from umedpt_lightning.blocks.encoder import check_sizes
from umedpt_lightning.callbacks.best_checkpoint import BEST, BestCheckpoint, best_per_task
from umedpt_lightning.callbacks.last_checkpoint import LastCheckpoint
from umedpt_lightning.callbacks.pictures import PredictionPictures
from umedpt_lightning.callbacks.run_logger import RunLogger
from umedpt_lightning.callbacks.task_map import TaskMap
from umedpt_lightning.cli import COMMANDS
from umedpt_lightning.cli.config import check_nulls, locate, settle
from umedpt_lightning.cli.data_tasks import task_faults
from umedpt_lightning.cli.options import clear_errors, find_class
from umedpt_lightning.cli.parser_errors import config_files, parse
from umedpt_lightning.cli.task_files import with_all_tasks
from umedpt_lightning.data.datamodule import MultiTaskDataModule, Part
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.hparams import create
from umedpt_lightning.io.atomic import write_text
from umedpt_lightning.runs.fit import TRAINER_DEFAULTS, run_callbacks
from umedpt_lightning.runs.folder import abandon, changes, keep_history
from umedpt_lightning.runs.trainer_options import check_callbacks
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.checkpoints import AtomicCheckpointIO, CheckpointError
from umedpt_lightning.training.monitor_checks import OptionError
from umedpt_lightning.training.resume import init_from
from umedpt_lightning.training.sharding import ShardedStrategy, check_sharding
from umedpt_lightning.transfer import sources  # noqa: F401  # so that configs can name teachers

#: What the user can mend, also where it is found when a run begins.
_ALSO = (CheckpointError, OptionError, MisconfigurationException)


def main(command: str, arguments: Sequence[str]) -> None:
    """Runs one of Lightning's commands."""
    be_quiet()
    try:
        UmedptCLI(command, list(arguments))
    except _ALSO as error:
        raise SystemExit(f"umedpt: error: {error}") from error


def run_trial(command: str, arguments: Sequence[str], trainer_class: type[pl.Trainer]) -> None:
    """Runs a method of a trainer; what the user can mend is told without a traceback."""
    be_quiet()
    with clear_errors(also=_ALSO):
        TrialCLI(command, list(arguments), trainer_class)


class UmedptCLI(LightningCLI):
    """LightningCLI with one folder a run.

    `command` is a method of `trainer_class`. It is no subcommand of Lightning's, whose parser would visit all of a
    config once more.
    """

    def __init__(self, command: str, arguments: list[str], trainer_class: type[pl.Trainer] = pl.Trainer) -> None:
        self.command, name = command, command.replace("_", "-")
        about = {"prog": f"umedpt {name}", "description": f"Runs `umedpt {name}`: {COMMANDS[name].help}."}
        super().__init__(
            MultiTaskModule,
            MultiTaskDataModule,
            save_config_callback=SaveRunConfig,
            trainer_class=trainer_class,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
            auto_configure_optimizers=False,  # the module has its own
            load_from_checkpoint_support=False,  # a checkpoint never overrides a config
            parser_kwargs={**about, "exit_on_error": False},  # see `parse`
            args=arguments,
            run=False,
        )
        options = {name: self.config_init[name] for name in self.options}
        getattr(self.trainer, command)(self.model, datamodule=self.datamodule, **options)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses without Lightning's warning that the process has arguments too."""
        # without an option to load checkpoints by running code from them
        skipped = LightningCLI.subcommands().get(self.command, {"model", "datamodule"}) | {"weights_only"}
        self.options = parser.add_method_arguments(self.trainer_class, self.command, skip=skipped)
        given = [*map(str, args)] if isinstance(args, list) else []  # it is one, as it was given above
        self.config = parse(parser, given, lambda: task_faults(given), with_all_tasks)
        files = config_files(given)
        if len(self.config.config or []) == len(files):  # contents took the places of some
            self.config.config = files

    @staticmethod
    def add_arguments_to_parser(parser: LightningArgumentParser) -> None:
        """Adds the run's folder, a root for paths, and the callbacks that every run has."""
        parser.add_argument("--run", type=str, default=None, help="Folder of the run; runs/<date-time> by default.")
        parser.add_argument("--root", type=str, default=".", help="What ${root} stands for in the paths of a config.")
        parser.add_argument(
            "--leave_out", type=str | list[str], default="", help="Tasks to leave out, as a list or with commas."
        )
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Start a new run from all blocks and heads that fit of a checkpoint, a run's or a model's folder.",
        )
        parser.add_argument(
            "--best_per_task", type=bool, default=False, help="Keep checkpoints/best_<task>.ckpt of every task, too."
        )
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in BEST.items()})
        parser.add_lightning_class_args(LastCheckpoint, "last")  # it holds the state of those before it
        parser.add_lightning_class_args(PredictionPictures, "pictures")
        parser.add_lightning_class_args(TaskMap, "map")
        parser.link_arguments("data.specs", "model.specs", apply_on="instantiate")

    def _set_seed(self) -> None:
        """Seeds; a seed that is out of bounds is told without a traceback."""
        with clear_errors("seed_everything"):
            super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Settles what the config leaves open, and lets errors of what it describes name its key."""
        config = self.config
        with clear_errors(also=_ALSO):
            check_nulls(self.parser, config)
            settle(config, self.command)
        if self.command in ("validate", "test"):
            config.verbose = False  # the report prints a table

        def build(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
            with clear_errors(locate(config, class_type, kwargs) or class_type.__name__, _ALSO):
                return create(class_type, *args, **kwargs) if class_type is encoder else class_type(*args, **kwargs)

        encoder = find_class(config.model.encoder.class_path)
        self.parser.add_instantiator(build, Reader, subclasses=True)
        self.parser.add_instantiator(build, encoder, subclasses=False)

    def instantiate_classes(self) -> None:
        """Builds everything; what the user can mend is told without a traceback."""
        config = self.config
        try:
            with clear_errors(also=_ALSO):
                super().instantiate_classes()
                check_sizes(self.model.model.encoder, self.datamodule.sizes)
                if isinstance(self.trainer.strategy, ShardedStrategy) and self.trainer.world_size > 1:
                    check_sharding(self.trainer, self.model, self.datamodule)
                for part in self._parts(config.trainer.limit_val_batches):
                    self.datamodule.check_part(part)
                if self.command == "fit" and config.init_from and not config.ckpt_path:
                    rank_zero_info(init_from(self.model.model, Path(config.init_from)))
        except BaseException:
            if config.run is not None:
                abandon(Path(config.run))
            raise

    def _parts(self, limit_val_batches: float | None) -> list[Part]:
        """The parts that the command reads."""
        if self.command == "fit":
            return ["train"] if limit_val_batches in (0, 0.0) else ["train", "val"]
        return ["test"] if self.command == "test" else ["val"]

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with the run's logger before those of the config, and with its callbacks."""
        config = self.config_init
        configured = config.trainer.logger
        extra = configured if isinstance(configured, list) else [configured]
        loggers = [RunLogger(config.run), *(logger for logger in extra if not isinstance(logger, bool | None))]
        own = config.trainer.callbacks or []
        own = own if isinstance(own, list) else [own]
        with clear_errors():
            check_callbacks(own, config.trainer.limit_val_batches not in (0, 0.0))
        dry = bool(config.trainer.fast_dev_run)
        bar = config.trainer.enable_progress_bar is not False
        config.trainer.callbacks = own if dry else run_callbacks(own, bar)
        plugins = config.trainer.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            config.trainer.plugins = [*plugins, AtomicCheckpointIO()]
        with clear_errors(
            f"trainer (accelerator {config.trainer.accelerator}, devices {config.trainer.devices})", (*_ALSO, TypeError)
        ):
            trainer = super().instantiate_trainer(logger=False if configured is False else loggers, **kwargs)
        if config.best_per_task and config.trainer.enable_checkpointing is not False and not dry:
            validated = [name for name, task in self.datamodule.tasks.items() if "val" in task.readers]
            # before the last, whose last.ckpt has to know what they have kept
            trainer.callbacks[-1:-1] = best_per_task(self.model.model, validated)  # type: ignore[attr-defined]
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> pl.Trainer:
        """Leaves out those of the run's callbacks that would write where nothing is to be written."""
        if config.get("enable_checkpointing") is False or config.get("fast_dev_run"):
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        if config.get("fast_dev_run"):
            callbacks = [one for one in callbacks if not isinstance(one, PredictionPictures | TaskMap)]
        return super()._instantiate_trainer(config, callbacks)


class TrialCLI(UmedptCLI):
    """The options of `umedpt fit`, but neither a run's folder nor loggers, checkpoints or callbacks."""

    def before_instantiate_classes(self) -> None:
        """Leaves out of the trainer what would write, end the trial early or get between the rounds."""
        trainer = self.config.trainer
        if "sharded" in str(getattr(trainer.strategy, "class_path", trainer.strategy)).lower():
            raise SystemExit(
                f"umedpt: error: trainer.strategy sharded: `umedpt {self.command.replace('_', '-')}` needs whole "
                "blocks. Add --trainer.strategy auto --trainer.devices 1."
            )
        trainer.logger = trainer.enable_checkpointing = trainer.enable_progress_bar = False
        trainer.enable_model_summary = trainer.fast_dev_run = False
        trainer.callbacks = trainer.profiler = trainer.min_epochs = trainer.min_steps = trainer.max_time = None
        super().before_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer alone."""
        return self.trainer_class(**self.config_init.trainer, **kwargs)


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml`` when a run starts, and hands the whole config to the loggers of the config."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Nothing yet: a checkpoint that does not fit is to leave the folder as it is."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves; where a resumed run has another config, it says so, and keeps the one of before by another name."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks the first rank, and so is asked on all
        if not trainer.is_global_zero:
            return
        file, loggers = (
            folder / self.config_filename,
            [one for one in trainer.loggers if not isinstance(one, RunLogger)],
        )
        # which checkpoint a run went on from is not that which `validate` and `test` take
        kept = self.config.clone()
        kept.ckpt_path = None
        text = self.parser.dump(kept, skip_unset=False, skip_validation=True)  # it is as it was parsed
        config = yaml.safe_load(text) if loggers or file.is_file() else {}
        if changed := changes(file, config):
            keep_history(folder)
            print("The run goes on by another config, which counts from now on:", *changed, sep="\n  ", flush=True)
        write_text(file, text)
        for logger in loggers:
            logger.log_hyperparams(config)


def be_quiet() -> None:
    """Keeps advertisements and warnings about libraries' own code out of the way of what users should read."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    # said when a whole checkpoint is written; it sounds as if one were read without care
    logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").addFilter(
        lambda record: "`weights_only` was not set" not in record.getMessage()
    )
    for message in (
        ".*LeafSpec.*",  # Lightning calls torch's old name
        ".*sync_dist=True.*",  # torchmetrics has gathered over the ranks already
        ".*exists and is not empty.*",  # of a run that goes on
        ".*dirpath has changed.*",  # a checkpoint is used in another run, as was asked
        "(?s).*does not round-trip.*",  # a tuple of albumentations becomes a list in config.yaml, which it takes too
        ".*WeightAveraging callback, but loading a checkpoint outside.*",  # the averaged weights are what is evaluated
        ".*in eval mode at the start of training.*",  # frozen BatchNorm
        ".*smaller than the logging interval.*",  # losses are logged by rounds, over the ends of epochs
    ):
        warnings.filterwarnings("ignore", message=message)


def load_weights(module: pl.LightningModule, checkpoint: str | Path | None) -> None:
    """Gives the module the weights of a checkpoint, if there is one."""
    if checkpoint is not None:
        module.load_state_dict(AtomicCheckpointIO().load_checkpoint(checkpoint)["state_dict"])
