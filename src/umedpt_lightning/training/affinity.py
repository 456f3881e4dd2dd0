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

#: Tasks give and get little below this share of what others give and get among themselves.
_LITTLE = 0.25
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
        left_out: Tasks that hardly give the others anything or get anything from them, the least first.
    """

    weights: dict[str, float]
    left_out: list[str]


def propose(affinity: Affinity) -> Mix:
    """Weights that grow with the root of what a task gives, and tasks that are better trained alone.

    The task that gives and gets least is left out where that is little beside what the others do for each other; then
    the next one, as long as two are left.
    """
    effects = np.nan_to_num(affinity.effects)
    np.fill_diagonal(effects, 0.0)
    stay, alone = list(range(len(affinity.tasks))), list[int]()
    while len(stay) > 2:
        of_stay = effects[np.ix_(stay, stay)]
        mutual = (of_stay.sum(0) + of_stay.sum(1)) / (2 * (len(stay) - 1))
        worst = stay[int(mutual.argmin())]
        others = [task for task in stay if task != worst]
        usual = effects[np.ix_(others, others)].sum() / (len(others) * (len(others) - 1))
        if usual <= 0 or mutual.min() >= _LITTLE * usual:
            break
        stay, alone = others, [*alone, worst]
    given = effects[np.ix_(stay, stay)].sum(1).clip(min=0.0)
    weights = np.sqrt(given / given.mean()).clip(*_WEIGHTS).round(2).tolist() if given.any() else [1.0] * len(stay)
    named = dict(zip([affinity.tasks[task] for task in stay], weights, strict=True))
    return Mix(named, [affinity.tasks[task] for task in alone])


class LookAhead(pl.Callback):
    """Measures before some rounds of a training, with the round's own samples, and leaves all as it was.

    Fifty et al., Efficiently identifying task groupings for multi-task learning, NeurIPS 2021, equation 1. A step goes
    down a task's gradient, in the shared blocks alone. All steps are of one length, which lowers the loss of the task
    with the steepest by `step` to first order. Layers are as in evaluation, so that nothing is drawn at random.

    Args:
        every: Before every so many rounds.
        first: But not before the round of this number. At first all tasks pull the same way, whatever their labels are.
        step: Share of its own loss that the largest effect is to be.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, every: int = 10, first: int = 0, step: float = 0.01) -> None:
        if every < 1 or step <= 0:
            raise ValueError(f"--every and --step must be positive, but they are {every} and {step:g}.")
        self.every, self.first, self.step = every, first, step
        self.affinity = Affinity([])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Round, batch_idx: int
    ) -> None:
        """Measures if its turn has come."""
        number = trainer.fit_loop.total_batch_idx
        if isinstance(pl_module, MultiTaskModule) and number >= self.first and (number - self.first) % self.every == 0:
            model, device = pl_module.model, pl_module.device
            self.affinity.tasks = pl_module.weighting.tasks
            seen = [model.task(b.task).prepare(b.to(device)) for b in batch.again()]
            self.affinity.falls.append(self._measure(model, seen))

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
    """Trains for some rounds, and measures in the second half of them.

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
    ahead = LookAhead(every, rounds // 2, step)
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
    gradient = _gradient(loss, shared) if shared else []
    return float(loss.detach()), math.sqrt(sum(float(g.norm()) ** 2 for g in gradient))


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
