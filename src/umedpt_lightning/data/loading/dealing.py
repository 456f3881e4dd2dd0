"""The micro-batches of a round dealt out to the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from umedpt_lightning.types import Place


def deal(places: Sequence[Place], costs: Mapping[str, float], ranks: int) -> list[list[Place]]:
    """Shares micro-batches out so that the ranks have about the same to do.

    The longest is dealt out first, each to the rank that has the least so far: Graham, Bounds on Multiprocessing Timing
    Anomalies, SIAM J. Appl. Math. 17 (1969); the slowest rank takes at most a third longer than it must.

    Args:
        places: The micro-batches.
        costs: Seconds that a micro-batch of each task takes.
        ranks: How many ranks there are.

    Returns:
        The micro-batches of each rank, in the order they were given; some have none where there are more ranks.
    """
    loads = [0.0] * ranks
    hands: list[list[int]] = [[] for _ in range(ranks)]
    # ties go by the order of micro-batches and of ranks, so that every rank deals alike
    for i in sorted(range(len(places)), key=lambda i: -costs[places[i].task]):
        rank = min(range(ranks), key=lambda rank: loads[rank])
        loads[rank] += costs[places[i].task]
        hands[rank].append(i)
    return [[places[i] for i in sorted(hand)] for hand in hands]
