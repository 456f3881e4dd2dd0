"""How the micro-batches of a round are dealt out to the ranks."""

from __future__ import annotations

from itertools import chain, product

import numpy as np
import pytest

from umedpt_lightning.data.loading.dealing import deal
from umedpt_lightning.types import Place

any_rounds = pytest.mark.parametrize("seed", range(20))
any_ranks = pytest.mark.parametrize("ranks", [1, 2, 3, 8])


def round_of(seed: int, tasks: int = 6) -> tuple[list[Place], dict[str, float]]:
    """Micro-batches of some tasks, and what they cost."""
    rng = np.random.default_rng(seed)
    costs = {f"t{i}": float(rng.choice([0.01, 0.1, 0.3, 1.0])) for i in range(tasks)}
    return [Place(task, i) for task in costs for i in range(rng.integers(0, 3))], costs


@any_ranks
@any_rounds
def test_every_micro_batch_is_dealt_to_one_rank_in_the_order_of_the_round(seed: int, ranks: int) -> None:
    places, costs = round_of(seed)
    hands = deal(places, costs, ranks)
    assert len(hands) == ranks
    assert sorted(chain.from_iterable(hands)) == sorted(places)
    assert all(hand == [place for place in places if place in hand] for hand in hands)


@pytest.mark.parametrize("ranks", [2, 3])
@any_rounds
def test_the_slowest_rank_takes_at_most_a_third_longer_than_it_must(seed: int, ranks: int) -> None:
    places, costs = round_of(seed, tasks=5)
    places = places[:7]

    def slowest(ranks_of: tuple[int, ...]) -> float:
        loads = np.zeros(ranks)
        np.add.at(loads, list(ranks_of), [costs[place.task] for place in places])
        return float(loads.max())

    best = min(map(slowest, product(range(ranks), repeat=len(places))))
    hands = deal(places, costs, ranks)
    found = max(sum(costs[place.task] for place in hand) for hand in hands)
    assert found <= best * (4 / 3) + 1e-9  # Graham, 1969


def test_more_ranks_than_micro_batches_leave_some_without() -> None:
    assert deal([Place("a", 0), Place("b", 0)], {"a": 1.0, "b": 2.0}, 3) == [[Place("b", 0)], [Place("a", 0)], []]
