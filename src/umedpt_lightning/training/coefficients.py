"""What the loss of a micro-batch is multiplied with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor

from umedpt_lightning.training.weighting import LossWeighting
from umedpt_lightning.types import MicroBatchId, RoundPlan


class Coefficients:
    """A scalar a task, so that the sum over all micro-batches of all ranks is the loss of the round.

    The weights are divided by their sum in a round on average, not in this one: a turn weighs the same in every round.

    Args:
        weighting: Says the weights.

    Attributes:
        weights: ``(T,)`` those of the last round.
    """

    def __init__(self, weighting: LossWeighting) -> None:
        self._weighting = weighting
        self.weights = weighting.weights
        self._key: tuple[object, ...] = ()
        # of each task: turns in a round, and into how many micro-batches and ranks a turn is cut
        self._turns = self._pieces = torch.empty(0)
        self._scalars: dict[str, Tensor] = {}

    def of_round(
        self, number: int, plan: RoundPlan, like: Tensor, left_out: Collection[MicroBatchId] = ()
    ) -> dict[str, Tensor]:
        """The coefficients of a round's tasks.

        For micro-batches that are left out the others of their task make up; a task that has none left is not in it.

        Args:
            number: Of the round, counted from 0 over the whole run.
            plan: What it consists of.
            like: Has the dtype and the device that the scalars are to have.
            left_out: Micro-batches of any rank.
        """
        key = (plan.rates, plan.parts, like.dtype, like.device)
        if self._weighting.changes or key != self._key:
            self._compute(self._weighting(number).detach(), plan, like, known=key == self._key)
            self._key = key
        missing = Counter(id_.task for id_ in left_out)
        return {
            task: self._scalars[task] * (count / (count - missing[task])) if missing[task] else self._scalars[task]
            for task, count in plan.micro_batches.items()
            if count > missing[task]
        }

    def _compute(self, weights: Tensor, plan: RoundPlan, like: Tensor, known: bool) -> None:
        tasks, self.weights = self._weighting.tasks, weights
        if weights.shape != (len(tasks),):
            raise ValueError(
                f"model.weighting: {type(self._weighting).__name__} gives weights of shape {tuple(weights.shape)}, but "
                f"there are {len(tasks)} tasks. Return one weight for each, ({len(tasks)},)."
            )
        if not known:  # once: a GPU would have to be waited for each time
            rates = [plan.rates.get(task) for task in tasks]  # one with a val part alone has none
            self._turns = weights.new_tensor([rate.turns if rate else 0.0 for rate in rates])
            self._pieces = weights.new_tensor([rate.micro_batches * plan.parts if rate else 1 for rate in rates])
        total = (weights * self._turns).sum()
        if not self._weighting.changes and total == 0:
            raise ValueError("model.weights: all tasks that are trained have weight 0. Give one of them a weight.")
        self._scalars = dict(zip(tasks, (weights / total / self._pieces).to(like).unbind(), strict=True))
