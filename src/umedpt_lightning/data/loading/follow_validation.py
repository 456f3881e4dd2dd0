"""Turns that go where validation says they are of use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from statistics import median
from typing import Any

from umedpt_lightning.data.loading.schedule import Schedule, TaskSize, even_turns
from umedpt_lightning.types import TaskRate

_BETTER = 1e-3  # a loss that falls by less of itself has not fallen


class FollowValidation(Schedule):
    """A task that has stopped improving gets fewer turns, and one that improves but lags gets more.

    All begin alike. After each validation a task whose loss has not been below its best for `patience` validations is
    divided by `factor`. One that still improves, but whose loss is a larger part of what it was at the first validation
    than that of the median of those that do, is multiplied by it. A round has the same number of turns throughout.
    Tasks without a val part stay as they are.

    Args:
        sizes: What is known of each task.
        per_round: Turns in a round, each of the task's ``micro_batches``; None for as many as there are tasks.
        lowest: A task has so many of the turns of an even share at least, before all are brought to the same sum.
        highest: And so many at most.
        factor: Of one change.
        patience: Validations without a better loss after which a task has stopped improving.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        sizes: Mapping[str, TaskSize],
        per_round: int | None = None,
        lowest: float = 0.5,
        highest: float = 2.0,
        factor: float = 1.25,
        patience: int = 2,
    ) -> None:
        if not 0 < lowest <= 1 <= highest or factor <= 1 or patience < 1 or (per_round is not None and per_round < 1):
            raise ValueError(
                "data.schedule: of FollowValidation lowest must be above 0 and at most 1, highest at least 1, factor "
                f"above 1, patience and per_round positive, but they are {lowest:g}, {highest:g}, {factor:g}, "
                f"{patience} and {per_round}."
            )
        self.lowest, self.highest, self.factor, self.patience = lowest, highest, factor, patience
        self.per_round = per_round or len(sizes)
        self.rates = {task: TaskRate(self.per_round / len(sizes), size.micro_batches) for task, size in sizes.items()}
        #: Turns by task over an even share, since which round, and the turns of each task before that.
        self.amounts = dict.fromkeys(sizes, 1.0)
        self._since, self._had = 0, dict.fromkeys(sizes, 0)
        self._first: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._waited: dict[str, int] = {}
        self._begin()

    def before(self, number: int) -> dict[str, int]:
        """Turns that each task has before a round; of those before the last change only what they come to is known."""
        counts = self._known(max(0, number - self._since))
        return {task: had + count for (task, had), count in zip(self._had.items(), counts, strict=True)}

    def follow(self, losses: Mapping[str, float], number: int) -> bool:
        """Changes the turns from the next round on."""
        losses = {task: loss for task, loss in losses.items() if task in self.rates and math.isfinite(loss)}
        for task, loss in losses.items():
            better = loss < self._best.get(task, math.inf) * (1 - _BETTER)
            self._waited[task] = 0 if better else self._waited.get(task, 0) + 1
            self._first.setdefault(task, loss)
            self._best[task] = min(loss, self._best.get(task, loss))
        left = {task: self._best[task] / self._first[task] for task in losses if self._first[task] > 0}
        improving = {task: part for task, part in left.items() if not self._waited[task]}
        amounts = dict(self.amounts)
        for task in left:
            if self._waited[task] >= self.patience:
                amounts[task] = max(self.lowest, amounts[task] / self.factor)
            elif task in improving and improving[task] > median(improving.values()):
                amounts[task] = min(self.highest, amounts[task] * self.factor)
        if amounts == self.amounts:
            return False
        self._had, self._since, self.amounts = self.before(number), number, amounts
        self._begin()
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that validation has changed."""
        names = ("amounts", "_since", "_had", "_first", "_best", "_waited")
        return {name.strip("_"): getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on; a task that is new begins as all have begun."""
        if "amounts" not in state:  # of another schedule
            return
        self._since = state["since"]
        self.amounts = {task: state["amounts"].get(task, 1.0) for task in self.rates}
        self._had = {task: state["had"].get(task, 0) for task in self.rates}
        self._first, self._best, self._waited = dict(state["first"]), dict(state["best"]), dict(state["waited"])
        self._begin()

    def _begin(self) -> None:
        total = sum(self.amounts.values())
        shares = [amount / total for amount in self.amounts.values()]
        self._known = lru_cache(maxsize=2)(lambda rounds: even_turns(shares, rounds * self.per_round))
