"""What the processes of a run tell each other, and what it means where one does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def several_ranks() -> bool:
    """Whether there are other processes to agree with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def explained_loss_of_ranks() -> Iterator[None]:
    """Says what it means where an exchange with the other ranks fails inside.

    Raises:
        RuntimeError: Another rank is gone, or has not answered in time.
    """
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"Rank {dist.get_rank()} of {dist.get_world_size()} could not exchange what all ranks need: another rank "
            "has ended or does not answer. Why is in that rank's output. Go on from the last checkpoint with "
            "--ckpt_path last. The time that ranks wait for each other is trainer.strategy.init_args.timeout."
        ) from error


def gather_objects(own: T) -> list[T]:
    """What every rank has, by rank; all of them must call it."""
    if not several_ranks():
        return [own]
    gathered: list[T] = [own] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return gathered
