"""The Lightning module: one step for all tasks, one micro-batch in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from umedpt_lightning.blocks import BaseEncoder, DetectionDecoder, PixelDecoder
from umedpt_lightning.blocks.built import BlockFactory
from umedpt_lightning.model import (
    DetectionDecoderFactory,
    MultiTaskModel,
    PixelDecoderFactory,
    TaskFactory,
    as_model,
)
from umedpt_lightning.tasks.contract import loss_of
from umedpt_lightning.tasks.names import check_task_names
from umedpt_lightning.training.aggregation import GradientAggregator
from umedpt_lightning.training.averaging import average_floats_only
from umedpt_lightning.training.bad_samples import BadSamples
from umedpt_lightning.training.costs import measure_costs
from umedpt_lightning.training.evaluation import EvaluationModule, evaluated_tasks
from umedpt_lightning.training.frozen_encoder import keep_embeddings
from umedpt_lightning.training.monitor_checks import (
    OptionError,
    check_monitors,
    check_schedule,
    warn_of_few_batches,
    warn_of_no_validation,
)
from umedpt_lightning.training.optimization import Optimization
from umedpt_lightning.training.packing import check_bags, check_packing
from umedpt_lightning.training.randomness import RoundRandomness
from umedpt_lightning.training.ranks import gather_objects
from umedpt_lightning.training.resume import Resumption
from umedpt_lightning.training.round_gradients import RoundGradients
from umedpt_lightning.training.round_log import RoundLog
from umedpt_lightning.training.task_losses import TaskLosses
from umedpt_lightning.training.weighting import FixedWeights, LossWeightingFactory
from umedpt_lightning.types import Round, TaskBatch, TaskSpec


class MultiTaskModule(EvaluationModule):
    """Trains a `MultiTaskModel`: for each task in turn forward, backward, free the graph; then one step.

    Args:
        specs: What the data of each task say of themselves; from the data module.
        encoder: The shared encoder; one of your own is any torch module that has what `BaseEncoder` names. Or a whole
            model with these tasks, which then is trained as it is.
        tasks: How to build a task; a name left out gets the default of its label kind.
        weights: Weight of a task's loss; a name left out has 1.
        pixel_decoder: Builds the shared pixel decoder.
        detection_decoder: Builds the shared detection decoder.
        optimization: Optimizer and learning rate; None for the defaults.
        max_bad_rounds: A micro-batch whose loss or gradients are not finite is left out, and the others of its task
            make up for it; after so many rounds in a row with one of the same task the run stops.
        pack_pixels: Consecutive micro-batches of a round that use the same blocks and have images of one size go
            through them together, as long as they have so many pixels at most; 0 for one after the other.
        compile: Whether torch compiles the shared blocks.
        blocks: Builds further shared blocks, by the name that tasks of your own say in `needs`, and that of bags,
            ``bag``.
        weighting: What becomes of `weights` from round to round.
        aggregator: Sees the gradients of a round task by task, and may change them; None for their sum.

    Raises:
        ValueError: `tasks` or `weights` name a task without data, a weight is negative, `max_bad_rounds` is not
            positive, or the encoder cannot be packed or compiled.
    """

    def __init__(
        self,
        specs: dict[str, TaskSpec],
        encoder: BaseEncoder,
        tasks: dict[str, TaskFactory] | None = None,
        weights: dict[str, float] | None = None,
        pixel_decoder: PixelDecoderFactory = PixelDecoder,
        detection_decoder: DetectionDecoderFactory = DetectionDecoder,
        optimization: Optimization | None = None,
        max_bad_rounds: int = 10,
        pack_pixels: int = 0,
        compile: bool = False,
        blocks: dict[str, BlockFactory] | None = None,
        weighting: LossWeightingFactory = FixedWeights,
        aggregator: GradientAggregator | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = as_model(encoder, specs, tasks, pixel_decoder, detection_decoder, blocks=blocks)
        check_packing(self.model, pack_pixels)
        check_bags(self.model)
        self.compiled = compile
        if compile:
            self.model.compile_blocks()
        self.weighting = weighting(_weights(specs, weights or {}))
        self.aggregator = aggregator
        self.optimization = optimization or Optimization()
        # a loss that is not a number counts as infinite, where torchmetrics would leave it out
        self.val_losses = nn.ModuleDict({name: MeanMetric(nan_strategy=math.inf) for name in specs})
        self.losses = TaskLosses(list(specs))
        self.bad_samples = BadSamples(specs)
        self.randomness = RoundRandomness()
        self.gradients = RoundGradients(self, self.model, self.weighting, aggregator, max_bad_rounds, pack_pixels)
        self.resumption = Resumption(self, self.model)
        self.round_log = RoundLog(self)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's takes options of no use here
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        classes: Iterable[type] = (),
        **options: Any,
    ) -> Self:
        """The module of a checkpoint, which says itself how its model is built.

        Args:
            checkpoint_path: A checkpoint, a run's folder (its best checkpoint), or a model's folder.
            map_location: The device that it is moved to; None for the CPU.
            classes: Label kinds, heads, encoders and blocks of your own that the model has.
            options: Of this class, such as `optimization`: a checkpoint has no options of training.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It cannot be read, or names classes that are not given.
        """
        model = MultiTaskModel.from_pretrained(checkpoint_path, classes=classes)
        specs = {name: model.task(name).spec for name in model.tasks}
        module = cls(specs, model.train(), **options)  # type: ignore[arg-type]  # a whole model in the encoder's place
        return module if map_location is None else module.to(map_location)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer, and its schedule over all rounds of the run."""
        try:
            steps = self.trainer.estimated_stepping_batches
        except ValueError as error:  # what Lightning says of rounds, epochs and intervals that do not fit together
            raise OptionError(f"trainer: {str(error).strip()}") from error
        if math.isinf(steps):
            raise OptionError("The learning rate needs an end: set trainer.max_steps or trainer.max_epochs.")
        try:
            optimizer = self.optimization.build_optimizer(self, scaled=self.trainer.precision == "16-mixed")
            schedule: Any = self.optimization.build_schedule(optimizer, int(steps))
        except ValueError as error:  # an option of theirs makes no sense
            raise OptionError(f"model.{error}") from error
        self.resumption.prepare(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Lets weight averaging average what can be averaged, and torch leave to this module what ranks exchange."""
        self.gradients.prepare()
        told = keep_embeddings(self.model, getattr(getattr(self.trainer, "datamodule", None), "tasks", {}))
        if told:
            rank_zero_info(told)
        average_floats_only(self.trainer.callbacks)  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        wrapper: Any = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.broadcast_buffers = False

    def on_fit_end(self) -> None:
        """Forgets embeddings, since the weights may be others from now on."""
        self.model.kept = None

    def on_train_start(self) -> None:
        """Checks what callbacks monitor, now rather than after the first epoch; measures tasks that ranks share out."""
        self.resumption.settle(self.trainer.optimizers[0])
        known: set[str] = set()
        if self.trainer.val_dataloaders is not None:
            tasks = evaluated_tasks(self.trainer.val_dataloaders)
            known = self.validation_metrics(tasks)
            check_monitors(self.trainer.callbacks, known)  # type: ignore[attr-defined]
            warn_of_no_validation(self.trainer)
            warn_of_few_batches(self.trainer, tasks)
        check_schedule(self.lr_schedulers(), known)
        loader: Any = self.trainer.train_dataloader
        if getattr(loader, "wants_costs", False):
            with self.trainer.precision_plugin.train_step_context():
                loader.set_costs(measure_costs(self, loader.examples(), self._passes))

    def setup(self, stage: str) -> None:
        """Takes over in which size the data module gives a task's images, for those who use the model later."""
        datamodule = getattr(self.trainer, "datamodule", None)
        self.model.sizes = dict(getattr(datamodule, "sizes", {}))

    def training_step(self, batch: Round, batch_idx: int) -> dict[str, Tensor]:
        """One round: a backward pass a micro-batch, then one step."""
        optimizer: Any = self.optimizers()  # one; Lightning's type allows for several
        schedule: Any = self.lr_schedulers()
        strategy = self.trainer.strategy
        # the ranks exchange gradients once, when all are there
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            done = self.gradients.fill(batch, self._round, self.bad_samples.add, self._seed)
        optimizer.step()
        self.losses.add(done.tasks, done.losses, done.samples)
        if self.global_step % getattr(self.trainer, "log_every_n_steps", 1) == 0:
            self.round_log.write(float(optimizer.param_groups[0]["lr"]))
        if not isinstance(schedule, ReduceLROnPlateau):
            schedule.step()
        return {"loss": done.total}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips; here, because fp16 gradients have been unscaled by now, as their norm has."""
        self.gradients.clip(self.optimization.clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the weights, the optimizer and the schedule do not say, and how to build the model without data.

        All ranks call it.
        """
        counted = {name: counter.state_dict() for name, counter in self._counters.items()}
        checkpoint["counted"] = gather_objects(counted)  # by rank
        self.resumption.save(checkpoint, self._validation())
        checkpoint["randomness"] = self.randomness.state_dict()
        checkpoint["faults"] = self.gradients.non_finite.state_dict()
        checkpoint["weighting"] = self.weighting.state_by_task()
        checkpoint["aggregator"] = self.aggregator.state_dict() if self.aggregator else {}
        with suppress(ValueError):  # a task of one's own with options that JSON cannot hold can still be trained
            checkpoint["model_config"] = self.model.model_config()

    def _validation(self) -> dict[str, Any]:
        """On what each task's scores are measured; empty without a data module of ours."""
        data: Any = getattr(self.trainer, "datamodule", None)
        parts: dict[str, list[Any]] = data.validated() if hasattr(data, "validated") else {}
        return {name: [*part, self.trainer.limit_val_batches] for name, part in parts.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it up again; where the number of ranks has changed, they share the counts out.

        Raises:
            CheckpointError: It does not fit the config.
        """
        training = self.trainer.state.fn == TrainerFn.FITTING
        callbacks: Any = getattr(self.trainer, "callbacks", [])  # Lightning sets them elsewhere
        self.resumption.compare(checkpoint, training, callbacks, self._validation())
        if "counted" not in checkpoint:  # weights alone
            return
        mine = checkpoint["counted"][self.global_rank :: self.trainer.world_size]
        for name, counter in self._counters.items():
            counter.load_state_dicts([counted[name] for counted in mine])
        self.randomness.load_state_dict(checkpoint["randomness"])
        self.gradients.non_finite.load_state_dict(checkpoint["faults"])
        self.weighting.load_state_by_task(checkpoint.get("weighting", {}))  # not in those of the first releases
        if self.aggregator and checkpoint.get("aggregator"):
            self.aggregator.load_state_dict(checkpoint["aggregator"])

    @property
    def _counters(self) -> dict[str, Any]:
        """What counts on over rounds, by its name in a checkpoint, which has the counts of every rank."""
        return {"losses": self.losses, "replaced": self.bad_samples}

    def _seed(self) -> None:
        """Seeds what the round draws."""
        self.randomness.start(self._round, self.global_rank)

    @property
    def _round(self) -> int:
        """The number of the round, counted from 0 over the whole run."""
        return self.trainer.fit_loop.total_batch_idx

    def _passes(self, batch: TaskBatch) -> None:
        """Forward and backward pass of a micro-batch."""
        batch = self.model.task(batch.task).prepare(batch.to(self.device))
        loss = loss_of(self.model.task(batch.task), self.model(batch.images, batch.task), batch.targets)
        self.backward(loss)  # not `manual_backward`, which would make the ranks wait for each other


def _weights(specs: Mapping[str, TaskSpec], weights: Mapping[str, float]) -> dict[str, float]:
    check_task_names(specs, weights, "model.weights")
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"model.weights.{name} must not be negative, but it is {weight}.")
    all_weights = {name: weights.get(name, 1.0) for name in specs}
    if not any(all_weights.values()):
        raise ValueError("model.weights: all tasks have weight 0, so there is nothing to learn. Give one a weight.")
    return all_weights
