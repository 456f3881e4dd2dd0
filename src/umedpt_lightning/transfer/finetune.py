"""Training for the new task: the head and its decoder alone, or then the encoder too."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.loaders import WorkerPool
from umedpt_lightning.data.loading.sampling import RoundSampler, Share, TaskStream
from umedpt_lightning.data.loading.schedule import RoundRobin, TaskSize
from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer.embeddings import Machine
from umedpt_lightning.transfer.evaluation import evaluate
from umedpt_lightning.transfer.linear import Linear
from umedpt_lightning.transfer.probe import Probe
from umedpt_lightning.types import TaskBatch

#: Stands in a head for a logit of minus infinity: a class without a labelled sample.
_NEVER = -10.0
_CLIP = 1.0


@dataclass(frozen=True)
class FineTuning:
    """How a model is trained for the new task.

    Attributes:
        steps: Of training everything; and of training a head with its decoder, which needs no other steps before.
        learning_rates: Peaks that are tried; the best on the val part is taken, and the best of its evaluations.
        layer_decay: How much slower each stage of the encoder learns than the one behind it, as the layers of Clark et
            al., ELECTRA, 2020, arXiv:2003.10555.
        weight_decay: Of AdamW.
        evaluations: How often the val part is looked at while it trains.
    """

    steps: int = 200
    learning_rates: tuple[float, ...] = (1e-3, 3e-4)
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    evaluations: int = 4

    def __post_init__(self) -> None:
        numbers = (self.steps, self.evaluations, self.layer_decay, *self.learning_rates)
        if min(numbers) <= 0 or not self.learning_rates or self.layer_decay > 1 or self.evaluations > self.steps:
            raise ValueError(
                "finetuning: steps, evaluations (at most one a step) and learning_rates must be positive, and "
                f"layer_decay above 0 and at most 1, but it is {self}."
            )


@dataclass(frozen=True)
class Trained:
    """What came out of training.

    Attributes:
        model: With the weights that were best on the val part.
        options: What was chosen on it.
        val: Its metrics there.
    """

    model: MultiTaskModel
    options: dict[str, float]
    val: dict[str, float]


@dataclass(frozen=True)
class Trainer:
    """Trains models on the labelled samples of one task.

    Attributes:
        name: The task.
        data: Batch size, image size, augmentation, and the val part.
        labelled: The samples whose labels may be used.
        options: How it is trained.
        machine: What computes.
        seed: Of the order and the augmentation of samples.
    """

    name: str
    data: TaskData
    labelled: Reader
    options: FineTuning
    machine: Machine
    seed: int

    def head(self, model: MultiTaskModel, advance: Callable[[int], None]) -> Trained:
        """The head with its decoder, on the frozen encoder."""
        return self._best_rate(model, False, advance)

    def everything(self, model: MultiTaskModel, advance: Callable[[int], None]) -> Trained:
        """All of it, each stage of the encoder slower than the next, from a head that fits the encoder already.

        A new head would first spoil the encoder: Kumar et al., Fine-Tuning can Distort Pretrained Features, 2022,
        arXiv:2202.10054.
        """
        return self._best_rate(model, True, advance)

    def _best_rate(self, model: MultiTaskModel, whole: bool, advance: Callable[[int], None]) -> Trained:
        found = [self._train(copy.deepcopy(model), rate, whole, advance) for rate in self.options.learning_rates]
        main = model.task(self.name).main_metric
        best = max(found, key=lambda trained: _defined(trained.val[main]))
        if math.isnan(best.val[main]):
            raise ValueError(
                f"The val part has no defined {main} after training with any of the learning rates "
                f"{list(self.options.learning_rates)}: it has too few samples, or all rates are too high."
            )
        return best

    def _train(self, model: MultiTaskModel, rate: float, whole: bool, advance: Callable[[int], None]) -> Trained:
        model.to(self.machine.device)
        task = model.task(self.name)
        model.encoder.requires_grad_(whole)
        optimizer = AdamW(self._groups(model, rate, whole))
        steps = self.options.steps
        peaks = [group["lr"] for group in optimizer.param_groups]
        schedule = OneCycleLR(optimizer, peaks, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False)
        looks = {round(steps * (i + 1) / self.options.evaluations) for i in range(self.options.evaluations)}
        best, kept, val, step_of = -math.inf, model.state_dict(), dict[str, float](), 0
        for step, batch in enumerate(islice(self._batches(), steps), start=1):
            model.train()
            if not whole:
                model.encoder.eval()
            there = batch.to(self.machine.device)
            loss = task.loss(model(there.images, self.name), there.targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            schedule.step()
            advance(1)
            if step in looks:
                metrics = evaluate(model, self.name, self.data, self._val, self.machine)
                if not val or _defined(metrics[task.main_metric]) > best:
                    best, val, step_of = _defined(metrics[task.main_metric]), metrics, step
                    kept = copy.deepcopy(model.state_dict())
        model.load_state_dict(kept)
        return Trained(model, {"learning_rate": rate, "steps": float(step_of)}, val)

    @property
    def _val(self) -> Reader:
        if self.data.val is None:
            raise ValueError("data.val: transfer chooses on a val part. Give one.")
        return self.data.val

    def _groups(self, model: MultiTaskModel, rate: float, whole: bool) -> list[dict[str, object]]:
        new = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
        decay = self.options.weight_decay
        groups: list[dict[str, object]] = [{"params": new, "lr": rate, "weight_decay": decay}]
        if whole:
            for behind, stage in enumerate(reversed(model.encoder.parameter_stages()), start=1):
                scale = self.options.layer_decay**behind
                groups.append({"params": [p for _, p in stage], "lr": rate * scale, "weight_decay": decay})
        return groups

    def _batches(self) -> Iterator[TaskBatch]:
        reader = self.labelled
        transform = Transform(self.data.size, self.data.augment, reader.spec.value_range)
        shares = {self.name: Share(TaskStream(self.name, len(reader), self.seed), self.data.batch_size)}
        sampler = RoundSampler(shares, RoundRobin({self.name: TaskSize(len(reader))}))
        pool = WorkerPool(self.machine.num_workers, pin_memory=self.machine.device.startswith("cuda"))
        return pool.stream(pool.load(MultiTaskDataset({self.name: reader}, {self.name: transform}), sampler))


def set_head(model: MultiTaskModel, name: str, probe: Probe) -> None:
    """Gives a task's linear head the weights of a linear probe, so that both give equal outputs.

    Args:
        model: With the task.
        name: The task.
        probe: A linear probe on the embeddings of `model`.
    """
    head, linear = model.task(name).head, probe.model
    if not isinstance(linear, Linear) or not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model.task(name)).__name__} has no linear head that a probe could set.")
    weights = linear.weights / probe.standardiser.scale[:, None]  # (D, K)
    bias = linear.bias - probe.standardiser.mean @ weights
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights.T))
        head.bias.copy_(torch.from_numpy(np.where(np.isneginf(bias), _NEVER, bias)))


def _defined(value: float | Tensor) -> float:
    """Minus infinity for NaN, which is the worst."""
    return -math.inf if math.isnan(value) else float(value)
