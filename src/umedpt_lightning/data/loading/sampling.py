"""Which samples are read when: a pure function of the seed, the task and a counter.

Each task has one endless stream of samples: a permutation of its data, then another, and so on. A round takes the next
samples of each task's stream; the ranks share them out. So what is read depends neither on the number of workers nor on
that of ranks, and the whole state is one counter a task and the number of rounds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.loading.schedule import Schedule, rounds_until
from umedpt_lightning.types import MicroBatchId, RoundPlan

#: What the ranks share out: the samples of every micro-batch, or the micro-batches of a round.
Distribute = Literal["samples", "tasks"]


class SampleKey(NamedTuple):
    """A sample to read: its task, its index in the task's reader, and what seeds its augmentation."""

    task: str
    item: int
    seed: int


def derive_seed(*parts: int | str) -> int:
    """A 32-bit seed that depends on every part, the same on every machine and in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


class TaskStream:
    """The endless stream of the samples of a task, of which there are `size`; `seed` seeds order and augmentation."""

    def __init__(self, task: str, size: int, seed: int) -> None:
        self.task, self.size, self.seed = task, size, seed
        # two passes: a micro-batch may span the end of one and the start of the next
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def __getitem__(self, position: int) -> SampleKey:
        """The sample at any position >= 0 of the stream."""
        passed, offset = divmod(position, self.size)
        return self.key(passed, int(self._permutation(passed)[offset]))

    def key(self, passed: int, index: int) -> SampleKey:
        """The sample at `index` of the reader as it comes in a pass, counted from 0, wherever in it."""
        return SampleKey(self.task, index, derive_seed(self.seed, self.task, passed, index))

    def _permute(self, passed: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, self.task, passed)))
        return generator.permutation(self.size)


@dataclass(frozen=True)
class TaskSamples:
    """What a micro-batch takes of a task: its stream, and the number of images for one rank."""

    stream: TaskStream
    batch_size: int


class RoundSampler:
    """The micro-batches of round after round, from any counters on.

    Where the ranks share out samples, a micro-batch is ``world_size * batch_size`` consecutive samples of the stream,
    and every rank reads its own part of them. Where they share out tasks, it is ``batch_size`` samples, which one rank
    reads. The counters are the same on all ranks.

    Attributes:
        rounds: Rounds that have been handed out.
        consumed: Samples of each task's stream that all ranks together have been handed. They do not follow from the
            rounds where a run went on with another schedule, batch size or number of ranks.
        costs: Seconds that a micro-batch of each task takes; as long as it is empty all count the same.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskSamples],
        schedule: Schedule,
        rank: int = 0,
        world_size: int = 1,
        distribute: Distribute = "samples",
    ) -> None:
        self.tasks, self.schedule = dict(tasks), schedule
        self.rank, self.world_size, self.distribute = rank, world_size, distribute
        self.rounds = 0
        self.consumed = dict.fromkeys(tasks, 0)
        self.costs: dict[str, float] = {}

    def plan(self, number: int) -> RoundPlan:
        """What the round of a number, counted from 0, consists of."""
        micro_batches = self.schedule.round(number)
        mine = [MicroBatchId(task, i) for task, count in micro_batches.items() for i in range(count)]
        if self.distribute == "tasks":
            mine = assign_to_ranks(mine, dict.fromkeys(self.tasks, 1.0) | self.costs, self.world_size)[self.rank]
        return RoundPlan(micro_batches, mine, self._parts, self.schedule.rates)

    def advance(self) -> RoundPlan:
        """Counts one round as handed out."""
        plan = self.plan(self.rounds)
        self.rounds += 1
        for task, count in plan.micro_batches.items():
            self.consumed[task] += count * self.samples(task)
        return plan

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Micro-batches of this rank from the counters on, without end; does not move the counters."""
        return self._micro_batches(self.rounds, dict(self.consumed))  # as they are now, not at the first `next`

    def _micro_batches(self, number: int, position: dict[str, int]) -> Iterator[list[SampleKey]]:
        while True:
            plan = self.plan(number)
            for task, i in plan.mine:
                samples = self.tasks[task]
                first = position[task] + i * self.samples(task) + (self.rank % self._parts) * samples.batch_size
                yield [samples.stream[p] for p in range(first, first + samples.batch_size)]
            for task, count in plan.micro_batches.items():
                position[task] += count * self.samples(task)
            number += 1

    def rounds_in_a_pass(self) -> int:
        """Rounds, from the first on, until every task has been read once."""

        def done(rounds: int) -> bool:
            turns, rates = self.schedule.before(rounds), self.schedule.rates
            return all(
                turns[task] * rates[task].micro_batches * self.samples(task) >= samples.stream.size
                for task, samples in self.tasks.items()
            )

        return rounds_until(done)

    @property
    def _parts(self) -> int:
        """How many ranks share out the samples of a micro-batch."""
        return self.world_size if self.distribute == "samples" else 1

    def samples(self, task: str) -> int:
        """Samples in a micro-batch, on all ranks together."""
        return self.tasks[task].batch_size * self._parts


def assign_to_ranks(
    micro_batches: Sequence[MicroBatchId], costs: Mapping[str, float], ranks: int
) -> list[list[MicroBatchId]]:
    """Assigns micro-batches so that the ranks have about the same to do.

    The longest is assigned first, each to the rank that has the least so far: Graham, Bounds on Multiprocessing Timing
    Anomalies, SIAM J. Appl. Math. 17 (1969); the slowest rank takes at most a third longer than it must. `costs` are
    seconds that a micro-batch of each task takes.

    Returns:
        The micro-batches of each rank, in the order they were given; some have none where there are more ranks.
    """
    loads = [0.0] * ranks
    assigned: list[list[int]] = [[] for _ in range(ranks)]
    # ties go by the order of micro-batches and of ranks, so that every rank computes the same
    for i in sorted(range(len(micro_batches)), key=lambda i: -costs[micro_batches[i].task]):
        rank = min(range(ranks), key=lambda rank: loads[rank])
        loads[rank] += costs[micro_batches[i].task]
        assigned[rank].append(i)
    return [[micro_batches[i] for i in sorted(of_rank)] for of_rank in assigned]


class EvaluationSampler:
    """Every sample of every task once, the ranks sharing them out, tasks in turn; sizes count samples."""

    def __init__(
        self, sizes: Mapping[str, int], batch_sizes: Mapping[str, int], rank: int = 0, world_size: int = 1
    ) -> None:
        self.batches: list[list[SampleKey]] = []
        queues = {}
        for task, size in sizes.items():
            mine = range(rank, size, world_size)  # no sample twice, so a rank may have one less than another
            step = batch_sizes[task]
            queues[task] = [mine[i : i + step] for i in range(0, len(mine), step)]
        shares = {task: math.ceil(size / world_size) for task, size in sizes.items()}  # of the first rank
        self._most = sum(math.ceil(share / batch_sizes[task]) for task, share in shares.items())
        # in turn, so that the first few batches (Lightning's sanity check, limit_val_batches) show every task
        for turn in range(max(map(len, queues.values()), default=0)):
            for task, queue in queues.items():
                if turn < len(queue):
                    self.batches.append([SampleKey(task, index, 0) for index in queue[turn]])

    def __len__(self) -> int:
        """As many as the first rank has, who has the most: Lightning goes by it, and must do the same on all ranks."""
        return self._most

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self.batches)
