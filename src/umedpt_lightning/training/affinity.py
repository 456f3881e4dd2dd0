"""Which task helps which, by looking ahead: what a step on one task alone does to the losses of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training.aggregation.task_rows import HEADS
from umedpt_lightning.training.module import MultiTaskModule
from umedpt_lightning.training.trial import fit_for
from umedpt_lightning.types import Round, TaskBatch

#: A task gives or gets nothing if it is below this share of the most that any task gives or gets.
_NOTHING = 0.1
_WEIGHTS = (0.5, 2.0)  # the lowest and the highest that are proposed


@dataclass
class Affinity:
    """What was measured.

    Attributes:
        tasks: Names of T tasks.
        falls: ``(T, T)`` a measurement: by which share of itself the loss of the second task falls when the shared
            blocks make a step on the first, all steps of a measurement being of one length. NaN where one of them was
            not in the round.
    """

    tasks: list[str]
    falls: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def effects(self) -> NDArray[np.float64]:
        """``(T, T)`` what the second task gains by steps on the first over what it gains by steps on itself.

        To first order that is a cosine: 1 is as good as its own, below 0 is harm.
        """
        mean = np.nanmean(np.stack(self.falls), axis=0)
        own = mean.diagonal()
        return np.array(np.divide(mean, own, out=np.full_like(mean, np.nan), where=own > 0))

    @property
    def given(self) -> dict[str, float]:
        """What each task does for the others, on average."""
        return self._of_others(self.effects)

    @property
    def got(self) -> dict[str, float]:
        """What the others do for each task, on average."""
        return self._of_others(self.effects.T)

    def _of_others(self, effects: NDArray[np.float64]) -> dict[str, float]:
        others = effects[~np.eye(len(self.tasks), dtype=bool)].reshape(len(self.tasks), -1)
        return dict(zip(self.tasks, np.nan_to_num(np.nanmean(others, axis=1)).tolist(), strict=True))


@dataclass(frozen=True)
class Mix:
    """What is proposed.

    Attributes:
        weights: For ``model.weights``, of the tasks that stay.
        left_out: Tasks that neither give the others anything nor get anything from them.
    """

    weights: dict[str, float]
    left_out: list[str]


def propose(affinity: Affinity) -> Mix:
    """Weights that grow with the root of what a task gives, and tasks that are better trained alone."""
    given, got = affinity.given, affinity.got
    most, most_got = max(given.values()), max(got.values())
    alone = [
        task
        for task in affinity.tasks
        if given[task] <= _NOTHING * max(0.0, most) and got[task] <= _NOTHING * max(0.0, most_got)
    ]
    if len(alone) > len(affinity.tasks) - 2:  # nobody helps anybody: there is nothing to choose by
        alone = []
    stay = [task for task in affinity.tasks if task not in alone]
    usual = float(np.mean([max(0.0, given[task]) for task in stay]))
    if usual == 0:
        return Mix(dict.fromkeys(stay, 1.0), alone)
    low, high = _WEIGHTS
    weights = {task: min(high, max(low, math.sqrt(max(0.0, given[task]) / usual))) for task in stay}
    return Mix({task: round(weight, 2) for task, weight in weights.items()}, alone)


class LookAhead(pl.Callback):
    """Measures before some rounds of a training, with the round's own samples, and leaves all as it was.

    Fifty et al., Efficiently identifying task groupings for multi-task learning, NeurIPS 2021, equation 1. A step goes
    down a task's gradient, in the shared blocks alone. All steps are of one length, which lowers the loss of the task
    with the steepest by `step` to first order. Layers are as in evaluation, so that nothing is drawn at random.

    Args:
        every: Before every so many rounds.
        step: Share of its own loss that the largest effect is to be.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, every: int = 10, step: float = 0.01) -> None:
        if every < 1 or step <= 0:
            raise ValueError(f"--every and --step must be positive, but they are {every} and {step:g}.")
        self.every, self.step = every, step
        self.affinity = Affinity([])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Round, batch_idx: int
    ) -> None:
        """Measures if its turn has come."""
        if isinstance(pl_module, MultiTaskModule) and trainer.fit_loop.total_batch_idx % self.every == 0:
            self.affinity.tasks = pl_module.weighting.tasks
            self.affinity.falls.append(self._measure(pl_module.model, [b.to(pl_module.device) for b in batch.again()]))

    def _measure(self, model: MultiTaskModel, batches: Sequence[TaskBatch]) -> NDArray[np.float64]:
        tasks = self.affinity.tasks
        falls = np.full((len(tasks), len(tasks)), np.nan)
        shared = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(HEADS)]
        by_task = {task: of_task for task in tasks if (of_task := [b for b in batches if b.task == task])}
        with _as_in_evaluation(model):
            before = {task: _steepness(model, of_task, shared) for task, of_task in by_task.items()}
            before = {task: found for task, found in before.items() if found[0] > 0 and 0 < found[1] < math.inf}
            length = min((self.step * loss / steepness for loss, steepness in before.values()), default=0.0)
            for one, (_, steepness) in before.items():
                gradient = _gradient(_loss(model, by_task[one]), shared)  # again, so that one is in memory at a time
                with torch.no_grad(), _kept(shared):
                    for p, g in zip(shared, gradient, strict=True):
                        p.sub_(g, alpha=length / steepness)
                    for other, (loss, _) in before.items():
                        fall = 1 - float(_loss(model, by_task[other])) / loss
                        falls[tasks.index(one), tasks.index(other)] = fall
        return falls


def measure_affinity(
    trainer: pl.Trainer,
    module: MultiTaskModule,
    data: pl.LightningDataModule,
    rounds: int = 100,
    every: int = 10,
    step: float = 0.01,
) -> Affinity:
    """Trains for some rounds, and measures along the way.

    Args:
        trainer: Has neither loggers nor callbacks, and one process.
        module: What is trained.
        data: What it is trained on.
        rounds: Number of rounds.
        every: See `LookAhead`.
        step: See `LookAhead`.

    Raises:
        ValueError: There are fewer than two tasks, several ranks, or a number is not positive.
    """
    if len(module.weighting.tasks) < 2:
        raise ValueError("One task alone has no other to help. Describe more under data.tasks.")
    if trainer.world_size > 1:
        raise ValueError("Affinity is measured by one process: set trainer.devices to 1.")
    if rounds < 1:
        raise ValueError(f"--rounds must be positive, but it is {rounds}.")
    ahead = LookAhead(every, step)
    fit_for(trainer, module, data, rounds, ahead)
    return ahead.affinity


def _loss(model: MultiTaskModel, batches: Sequence[TaskBatch]) -> Tensor:
    losses = [model.task(b.task).loss(model(b.images, b.task), b.targets) for b in batches]
    return torch.stack(losses).mean()


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def _steepness(model: MultiTaskModel, batches: Sequence[TaskBatch], shared: Sequence[Tensor]) -> tuple[float, float]:
    """A task's loss, and the length of its gradient in the shared blocks."""
    loss = _loss(model, batches)
    if not shared:
        return float(loss), 0.0
    return float(loss), float(torch.stack([g.norm() for g in _gradient(loss, shared)]).norm())


@contextmanager
def _kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """The parameters are afterwards as they were, to the bit."""
    kept = [p.clone() for p in parameters]
    try:
        yield
    finally:
        for p, before in zip(parameters, kept, strict=True):
            p.copy_(before)


@contextmanager
def _as_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Each layer is afterwards in training or not as it was."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
