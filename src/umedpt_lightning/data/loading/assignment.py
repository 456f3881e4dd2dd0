"""The micro-batches of a round assigned to the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from umedpt_lightning.types import MicroBatchId


def assign_to_ranks(
    micro_batches: Sequence[MicroBatchId], costs: Mapping[str, float], ranks: int
) -> list[list[MicroBatchId]]:
    """Assigns micro-batches so that the ranks have about the same to do.

    The longest is assigned first, each to the rank that has the least so far: Graham, Bounds on Multiprocessing Timing
    Anomalies, SIAM J. Appl. Math. 17 (1969); the slowest rank takes at most a third longer than it must.

    Args:
        micro_batches: The micro-batches.
        costs: Seconds that a micro-batch of each task takes.
        ranks: How many ranks there are.

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
