"""Training for the new task with Lightning: the head and its decoder alone, or then the encoder too."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn

from umedpt_lightning.blocks.lora import has_lora, train_lora_alone
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule, ParameterGroups
from umedpt_lightning.training.optimization import Optimization
from umedpt_lightning.transfer.linear import Linear
from umedpt_lightning.transfer.probe import Probe
from umedpt_lightning.types import TaskSpec

#: Stands in a head for a logit of minus infinity: a class without a labelled sample.
_NEVER = -10.0


@dataclass(frozen=True)
class FineTuning:
    """How a model is trained for the new task.

    Attributes:
        steps: Of training everything, and of training a head with its decoder, which needs no other steps before; up to
            a multiple of `evaluations`.
        learning_rates: Peaks that are tried; the best on the val part is taken, and the best of its evaluations.
        layer_decay: How much slower each stage of the encoder learns than the one behind it, as the layers of Clark et
            al., ELECTRA, 2020, arXiv:2003.10555.
        weight_decay: Of AdamW; none on norms and biases.
        evaluations: How often the val part is looked at while it trains.
        clip: Largest norm of all gradients together; null for no clipping.
        precision: Of the passes, as Lightning's Trainer has it.
        lora_rank: Of the adapters that learn in the mode ``lora``.
        averaging: Decay of an exponential moving average of the weights, which then is evaluated and kept (Lightning's
            EMAWeightAveraging); null for none.
    """

    steps: int = 200
    learning_rates: tuple[float, ...] = (1e-3, 3e-4)
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    evaluations: int = 4
    clip: float | None = 1.0
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    averaging: float | None = None
    lora_rank: int = 8

    def __post_init__(self) -> None:
        numbers = (self.steps, self.evaluations, self.layer_decay, self.lora_rank, *self.learning_rates)
        if min(numbers) <= 0 or not self.learning_rates or self.layer_decay > 1 or self.evaluations > self.steps:
            raise ValueError(
                "finetuning: steps, evaluations (at most one a step), learning_rates and lora_rank must be positive, "
                f"and layer_decay above 0 and at most 1, but it is {self}."
            )

    @property
    def steps_an_evaluation(self) -> int:
        """Steps before each evaluation."""
        return -(-self.steps // self.evaluations)


@dataclass(frozen=True)
class FineTuned:
    """A model with the weights that were best on the val part, what was chosen there, and the metrics."""

    model: MultiTaskModel
    options: dict[str, float]
    val: dict[str, float]


@dataclass(frozen=True)
class FineTuner:
    """Trains models on the labelled samples of one task, by the same module as `umedpt fit`.

    Attributes:
        name: The task.
        data: Batch size, image size, augmentation, and the val part.
        labelled: The samples whose labels may be used.
        options: How it is trained.
        compute: What computes, and how many processes read.
        seed: Of the order and the augmentation of samples, and of what layers draw.
    """

    name: str
    data: TaskData
    labelled: Reader
    options: FineTuning
    compute: ComputeOptions
    seed: int

    def train(self, model: MultiTaskModel, advance: Callable[[int], None], whole: bool = True) -> FineTuned:
        """Trains a copy at each learning rate, the best of which is returned.

        Args:
            model: Where it starts. The head must fit the encoder already where all is trained, since a new one would
                first spoil the encoder: Kumar et al., Fine-Tuning can Distort Pretrained Features, 2022,
                arXiv:2202.10054.
            advance: Called with 1 after each step.
            whole: Train all of it (of an encoder with adapters these), each stage of the encoder slower than the next;
                else the head with its decoder on the frozen encoder.

        Raises:
            ValueError: The main metric is undefined after all rates, or there is no val part.
        """
        found = [self._train(copy.deepcopy(model), rate, whole, advance) for rate in self.options.learning_rates]
        main = model.task(self.name).main_metric
        best = max(found, key=lambda tuned: _defined(tuned.val.get(main, math.nan)))
        if math.isnan(best.val.get(main, math.nan)):
            raise ValueError(
                f"The val part has no defined {main} after training with any of the learning rates "
                f"{list(self.options.learning_rates)}: it has too few samples, or all rates are too high."
            )
        return best

    def _train(self, model: MultiTaskModel, rate: float, whole: bool, advance: Callable[[int], None]) -> FineTuned:
        options = self.options
        if self.data.val is None:
            raise ValueError("data.val: transfer chooses on a val part. Give one.")
        data = {self.name: replace(self.data, train=self.labelled, test=None)}
        steps = options.steps_an_evaluation
        datamodule = MultiTaskDataModule(data, self.compute.num_workers, steps_per_epoch=steps, seed=self.seed)
        model.train()
        encoder = model.encoder.requires_grad_(whole).train(whole)  # Lightning leaves the modes as it finds them
        if has_lora(encoder):
            train_lora_alone(encoder)
        if encoder.neck is not None:
            encoder.neck.requires_grad_(True)  # no weights to start from have it
        with torch.random.fork_rng(), _quiet():
            torch.manual_seed(self.seed)
            groups = ParameterGroups(encoder_share=options.layer_decay, layer_decay=options.layer_decay)
            optimization = Optimization(
                rate, weight_decay=options.weight_decay, warmup=0.1, final=0.0, clip=options.clip, groups=groups
            )
            specs: dict[str, TaskSpec] = {self.name: model.task(self.name).spec}
            # a config names an encoder there; a whole model is taken as well
            module = MultiTaskModule(specs, model, optimization=optimization)  # type: ignore[arg-type]
            best = BestEvaluation(self.name, model.task(self.name).main_metric, advance)
            with suppress(FloatingPointError):  # the rate is too high: what came before counts
                self._trainer(best).fit(module, datamodule=datamodule)
        module.load_state_dict(best.state or module.state_dict())
        return FineTuned(model, {"learning_rate": rate, "steps": float(best.step)}, best.metrics)

    def _trainer(self, best: BestEvaluation) -> pl.Trainer:
        device, decay = torch.device(self.compute.device), self.options.averaging
        averaging = [] if decay is None else [EMAWeightAveraging(decay=decay)]
        return pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=self.options.precision,
            max_epochs=self.options.evaluations,  # an epoch goes from one to the next
            callbacks=[*averaging, best],
            log_every_n_steps=self.options.steps_an_evaluation,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # many short trainings, whose cells are kept elsewhere
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


class BestEvaluation(pl.Callback):
    """Keeps the weights of the first of the best evaluations, in memory, and tells `advance` of each step.

    A task's evaluations are compared by a metric; the higher the better, and undefined is worst.

    Attributes:
        metrics: Of the task at the best evaluation; empty before the first.
        step: After how many steps that was.
        state: The module's state there; the averages, where a callback averages weights.
    """

    def __init__(self, task: str, metric: str, advance: Callable[[int], None]) -> None:
        self._prefix, self._metric, self._advance = f"val/{task}/", metric, advance
        self.metrics: dict[str, float] = {}
        self.step = 0
        self.state: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Tells how far it is."""
        self._advance(1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares, and keeps."""
        found = {
            name.removeprefix(self._prefix): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(self._prefix) and name != f"{self._prefix}loss"
        }
        if self.metrics and _defined(found[self._metric]) <= _defined(self.metrics[self._metric]):
            return
        checkpoint: dict[str, Any] = {"state_dict": pl_module.state_dict()}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it elsewhere
            callback.on_save_checkpoint(trainer, pl_module, checkpoint)  # here weight averaging puts its averages
        self.metrics, self.step = found, trainer.global_step
        self.state = {name: value.to("cpu", copy=True) for name, value in checkpoint["state_dict"].items()}


def set_head(model: MultiTaskModel, name: str, probe: Probe) -> None:
    """Gives a task's linear head the weights of a linear probe on the model's embeddings: both give equal outputs.

    Raises:
        ValueError: The task has no linear head.
    """
    head, linear = model.task(name).head, probe.model
    if not isinstance(linear, Linear) or not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model.task(name)).__name__} has no linear head that a probe could set.")
    weights = linear.weights / probe.standardiser.scale[:, None]  # (D, K)
    bias = linear.bias - probe.standardiser.mean @ weights
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights.T))
        head.bias.copy_(torch.from_numpy(np.where(np.isneginf(bias), _NEVER, bias)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines on devices for every training, and its warnings of what is meant here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (".*in eval mode at the start of training.*", ".*LeafSpec.*"):  # frozen; torch's old name
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)


def _defined(value: float) -> float:
    """Minus infinity for NaN, which is the worst."""
    return -math.inf if math.isnan(value) else value
