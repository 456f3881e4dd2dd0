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
            self._compute(self._weighting(number), plan, like, known=key == self._key)
            self._key = key
        missing = Counter(id_.task for id_ in left_out)
        return {
            task: self._scalars[task] * (count / (count - missing[task])) if missing[task] else self._scalars[task]
            for task, count in plan.micro_batches.items()
            if count > missing[task]
        }

    def _compute(self, weights: Tensor, plan: RoundPlan, like: Tensor, known: bool) -> None:
        tasks, name = self._weighting.tasks, f"model.weighting: {type(self._weighting).__name__}"
        if not isinstance(weights, Tensor):
            raise ValueError(
                f"{name}.forward returned a {type(weights).__name__}. Return a tensor with one weight a task, "
                f"({len(tasks)},)."
            )
        if weights.shape != (len(tasks),):
            raise ValueError(
                f"{name} gives weights of shape {tuple(weights.shape)}, but there are {len(tasks)} tasks. Return one "
                f"weight for each, ({len(tasks)},)."
            )
        weights = self.weights = weights.detach()
        if not known:  # once: a GPU would have to be waited for each time
            rates = [plan.rates.get(task) for task in tasks]  # one with a val part alone has none
            self._turns = weights.new_tensor([rate.turns if rate else 0.0 for rate in rates])
            self._pieces = weights.new_tensor([rate.micro_batches * plan.parts if rate else 1 for rate in rates])
        total = (weights * self._turns).sum()
        if not self._weighting.changes and total == 0:
            raise ValueError("model.weights: all tasks that are trained have weight 0. Give one of them a weight.")
        # on a GPU once: it would have to be waited for each time
        looked_at = not known or weights.device.type == "cpu"
        if looked_at and not ((weights >= 0).all() and 0 < total < torch.inf):
            given = ", ".join(f"{task} {weight:.3g}" for task, weight in zip(tasks, weights.tolist(), strict=True))
            raise ValueError(
                f"{name}.forward gives the weights {given}. Return finite weights that are not negative, and not all "
                "0: a task of negative weight would be unlearned."
            )
        self._scalars = dict(zip(tasks, (weights / total / self._pieces).to(like).unbind(), strict=True))
