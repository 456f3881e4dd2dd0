"""Which tasks are in which round: a pure function of the round's number, but for what follows validation.

A task's *turn* is a fixed number of micro-batches, whose mean is its loss; a schedule says how many turns of which
tasks a round has. Every turn of a task weighs the same in whatever round it comes, so that over many rounds the mean
gradient is that of the sum of the tasks' losses, each times its weight and its turns a round:

- `RoundRobin`, `Fixed`: every task has one turn in every round, so all count by their weights alone.
- `SomeTasks`: every task has a turn equally often. The mean gradient is that of `RoundRobin`, that of a single round
  is noisier.
- `Proportional`, `FollowValidation`: a task with twice the turns counts twice as much; that is their purpose.

Of how many micro-batches a turn consists changes only how many samples a task's gradient is the mean of.
"""

from __future__ import annotations

import heapq
import math
import warnings
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from umedpt_lightning.types import TaskRate

_GOLDEN = (math.sqrt(5) - 1) / 2


class TaskSize(NamedTuple):
    """What a schedule is told of a task: samples of its train part, and its ``micro_batches`` in the config."""

    samples: int
    micro_batches: int = 1


class Schedule(ABC):
    """Says how many micro-batches of which tasks a round has.

    Attributes:
        rates: How often each task has its turn, and of how many micro-batches a turn consists.
    """

    rates: dict[str, TaskRate]

    @property
    def pace(self) -> dict[str, TaskRate]:
        """The `rates`, by their old name, which goes with the next release."""
        _warn_of_pace()
        return self.rates

    @pace.setter
    def pace(self, rates: dict[str, TaskRate]) -> None:
        _warn_of_pace()
        self.rates = rates

    @abstractmethod
    def before(self, number: int) -> dict[str, int]:
        """Turns that each task has in all rounds before that of a number, counted from 0; cheap for any number."""

    def round(self, number: int) -> dict[str, int]:
        """Micro-batches of each task that is in the round of a number, counted from 0, in the order of the tasks."""
        earlier, later = self.before(number), self.before(number + 1)
        turns = {task: later[task] - earlier[task] for task in self.rates}
        return {task: count * self.rates[task].micro_batches for task, count in turns.items() if count}

    def follow(self, losses: Mapping[str, float], number: int) -> bool:
        """Called after each validation of a training, with the same on all ranks.

        Args:
            losses: Of the tasks that were validated.
            number: Of the next round, from which on the schedule may be another.

        Returns:
            Whether it is.
        """
        return False

    def state_dict(self) -> dict[str, Any]:
        """What `follow` has changed, plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # most have no state
        """Goes on where `state` was taken, by whatever schedule."""


def _warn_of_pace() -> None:
    what = "Schedule.pace is called `rates` now; the old name goes with the next release. Rename it."
    warnings.warn(what, FutureWarning, stacklevel=3)


#: Builds a schedule from what is known of the tasks.
ScheduleFactory = Callable[[Mapping[str, TaskSize]], Schedule]


class RoundRobin(Schedule):
    """Every task in every round, with its ``micro_batches``."""

    def __init__(self, sizes: Mapping[str, TaskSize]) -> None:
        self.rates = {task: TaskRate(1.0, size.micro_batches) for task, size in sizes.items()}

    def before(self, number: int) -> dict[str, int]:
        """Turns that each task has before a round."""
        return dict.fromkeys(self.rates, number)


class Fixed(RoundRobin):
    """Every task in every round, with so many micro-batches.

    Args:
        sizes: What is known of each task.
        micro_batches: Micro-batches a round, for every task by its name.

    Raises:
        ValueError: A task is left out or has none, or there is no such task.
    """

    def __init__(self, sizes: Mapping[str, TaskSize], micro_batches: dict[str, int]) -> None:
        unknown = [task for task in micro_batches if task not in sizes]
        if unknown:
            raise ValueError(
                f"data.schedule: Fixed names {unknown[0]!r}, but there is no task of that name with a train part. "
                f"There are {', '.join(sizes)}. Rename or remove it."
            )
        for task in sizes:
            if micro_batches.get(task, 0) < 1:
                raise ValueError(
                    f"data.schedule: Fixed gives task {task!r} {micro_batches.get(task, 'no')} micro-batches, so it "
                    f"would never be trained. Give it at least 1, or remove it from data.tasks."
                )
        super().__init__({task: size._replace(micro_batches=micro_batches[task]) for task, size in sizes.items()})


class SomeTasks(Schedule):
    """Some of the tasks in each round, each with its ``micro_batches``; all tasks in turn.

    A pass over the tasks has each of them once, in another order than the pass before. A round may have the last of one
    pass and the first of the next, and never has a task twice.

    Args:
        sizes: What is known of each task.
        per_round: Tasks in a round.
        seed: Seeds the orders.

    Raises:
        ValueError: There are not so many tasks.
    """

    def __init__(self, sizes: Mapping[str, TaskSize], per_round: int, seed: int = 0) -> None:
        if not 1 <= per_round <= len(sizes):
            raise ValueError(
                f"data.schedule: SomeTasks is to have {per_round} tasks a round, but there are {len(sizes)} with a "
                f"train part. Set per_round to a number from 1 to {len(sizes)}."
            )
        self.per_round, self.seed = per_round, seed
        self.rates = {task: TaskRate(per_round / len(sizes), size.micro_batches) for task, size in sizes.items()}
        # after so many rounds a pass and a round end together, and the orders start anew
        self._rounds = len(sizes) // math.gcd(len(sizes), per_round)
        self._cycle = lru_cache(maxsize=2)(self._order)

    def before(self, number: int) -> dict[str, int]:
        """Turns that each task has before a round."""
        cycle, rounds = divmod(number, self._rounds)
        passes = cycle * self._rounds * self.per_round // len(self.rates)
        begun = Counter(self._cycle(cycle)[: rounds * self.per_round])
        return {task: passes + begun[task] for task in self.rates}

    def _order(self, cycle: int) -> list[str]:
        """The tasks of one round after the other, until a pass and a round end together."""
        generator = np.random.Generator(np.random.PCG64([self.seed, cycle]))
        tasks, order = list(self.rates), list[str]()
        while len(order) < self._rounds * self.per_round:
            begun = len(order) % self.per_round
            in_round = set(order[len(order) - begun :])
            permuted = [tasks[i] for i in generator.permutation(len(tasks))]
            # those that the round does not have yet complete it
            first = [task for task in permuted if task not in in_round][: self.per_round - begun if begun else 0]
            order += first + [task for task in permuted if task not in first]
        return order


class Proportional(Schedule):
    """A number of micro-batches a round, of each task in proportion to a power of its number of samples.

    A task's share is ``samples ** (1 / temperature)`` over the sum of all tasks' (Arivazhagan et al., Massively
    Multilingual Neural Machine Translation in the Wild, arXiv:1907.05019): 1 is by samples, infinity is equal. There
    nothing is drawn at random: every task has its turns at even distances.

    Args:
        sizes: What is known of each task; its ``micro_batches`` do not count here.
        temperature: How far the shares are evened out.
        per_round: Micro-batches in a round; None for as many as there are tasks.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, sizes: Mapping[str, TaskSize], temperature: float = 1.0, per_round: int | None = None) -> None:
        if not temperature > 0:
            raise ValueError(
                f"data.schedule: the temperature of Proportional must be positive, but it is {temperature}."
            )
        if per_round is not None and per_round < 1:
            raise ValueError(
                f"data.schedule: Proportional is to have {per_round} micro-batches a round. Give it at least 1, or "
                f"null for as many as there are tasks."
            )
        self.per_round = per_round or len(sizes)
        largest = max(size.samples for size in sizes.values())
        powers = {task: (size.samples / largest) ** (1 / temperature) for task, size in sizes.items()}
        never = [task for task, power in powers.items() if not power > 1e-9 * sum(powers.values())]
        if never:
            raise ValueError(
                f"data.schedule: the share of task {never[0]!r} is practically zero with temperature {temperature}, so "
                f"it would never be trained. Give Proportional a higher temperature."
            )
        self._shares = [power / sum(powers.values()) for power in powers.values()]
        self.rates = {
            task: TaskRate(self.per_round * share, 1) for task, share in zip(powers, self._shares, strict=True)
        }
        self._known = lru_cache(maxsize=2)(self._count)

    def before(self, number: int) -> dict[str, int]:
        """Turns that each task has before a round."""
        return dict(zip(self.rates, self._known(number), strict=True))

    def _count(self, number: int) -> list[int]:
        return even_turns(self._shares, number * self.per_round)


def even_turns(shares: Sequence[float], total: int) -> list[int]:
    """So many turns shared out, at even distances: a task has its n-th at ``(start + n) / share``, counted from 0.

    Args:
        shares: Of each task; their sum is 1.
        total: As many turns as there is room for, in their order.
    """
    # where tasks begin is spread evenly, so that those of equal share do not all come at once
    starts = [(i + 1) * _GOLDEN % 1 for i in range(len(shares))]
    # so early all tasks together have had at most as many turns as were asked for; that many are not gone through
    early = max(0, total - len(shares))
    counts = [max(0, math.floor(share * early - start)) for share, start in zip(shares, starts, strict=True)]
    due = [((start + n) / share, i) for i, (n, start, share) in enumerate(zip(counts, starts, shares, strict=True))]
    heapq.heapify(due)
    for _ in range(total - sum(counts)):
        task = due[0][1]
        counts[task] += 1
        heapq.heapreplace(due, ((starts[task] + counts[task]) / shares[task], task))
    return counts


def rounds_until(reached: Callable[[int], bool]) -> int:
    """The smallest positive number of rounds for which something holds that goes on to hold."""
    last = 1
    while not reached(last):
        last *= 2
    return bisect_left(range(last), True, last // 2 + 1, key=reached)  # it is not yet reached at half of it
