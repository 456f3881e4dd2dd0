"""How the micro-batches of a round are assigned to the ranks."""

from __future__ import annotations

from itertools import chain, product

import numpy as np
import pytest

from umedpt_lightning.data.loading.sampling import assign_to_ranks
from umedpt_lightning.types import MicroBatchId

any_rounds = pytest.mark.parametrize("seed", range(20))
any_ranks = pytest.mark.parametrize("ranks", [1, 2, 3, 8])


def round_of(seed: int, tasks: int = 6) -> tuple[list[MicroBatchId], dict[str, float]]:
    """Micro-batches of some tasks, and what they cost."""
    rng = np.random.default_rng(seed)
    costs = {f"t{i}": float(rng.choice([0.01, 0.1, 0.3, 1.0])) for i in range(tasks)}
    return [MicroBatchId(task, i) for task in costs for i in range(rng.integers(0, 3))], costs


@any_ranks
@any_rounds
def test_every_micro_batch_is_assigned_to_one_rank_in_the_order_of_the_round(seed: int, ranks: int) -> None:
    ids, costs = round_of(seed)
    assigned = assign_to_ranks(ids, costs, ranks)
    assert len(assigned) == ranks
    assert sorted(chain.from_iterable(assigned)) == sorted(ids)
    assert all(of_rank == [micro_batch for micro_batch in ids if micro_batch in of_rank] for of_rank in assigned)


@pytest.mark.parametrize("ranks", [2, 3])
@any_rounds
def test_the_slowest_rank_takes_at_most_a_third_longer_than_it_must(seed: int, ranks: int) -> None:
    ids, costs = round_of(seed, tasks=5)
    ids = ids[:7]

    def slowest(ranks_of: tuple[int, ...]) -> float:
        loads = np.zeros(ranks)
        np.add.at(loads, list(ranks_of), [costs[micro_batch.task] for micro_batch in ids])
        return float(loads.max())

    best = min(map(slowest, product(range(ranks), repeat=len(ids))))
    assigned = assign_to_ranks(ids, costs, ranks)
    found = max(sum(costs[micro_batch.task] for micro_batch in of_rank) for of_rank in assigned)
    assert found <= best * (4 / 3) + 1e-9  # Graham, 1969


def test_more_ranks_than_micro_batches_leave_some_without() -> None:
    assert assign_to_ranks([MicroBatchId("a", 0), MicroBatchId("b", 0)], {"a": 1.0, "b": 2.0}, 3) == [
        [MicroBatchId("b", 0)],
        [MicroBatchId("a", 0)],
        [],
    ]
