"""How long a micro-batch of each task takes, for ranks that share tasks out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from umedpt_lightning.training.ranks import several_ranks
from umedpt_lightning.types import TaskBatch

_RUNS = 3


def measure_costs(
    module: nn.Module, batches: Iterable[TaskBatch], backward: Callable[[TaskBatch], None]
) -> dict[str, float]:
    """Seconds of forward and backward pass, the mean over all ranks; leaves no trace in module and random numbers.

    Args:
        module: What is trained.
        batches: One of each task, in the same order on every rank.
        backward: Both passes of a micro-batch.
    """
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    device = next(module.parameters()).device
    costs: dict[str, float] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for batch in batches:
            backward(batch)  # the first of its size also chooses kernels and claims memory
            costs[batch.task] = statistics.median(_seconds(backward, batch, device) for _ in range(_RUNS))
    module.zero_grad()
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(kept[name])
    return dict(zip(costs, _mean(list(costs.values()), device), strict=True))


def _seconds(backward: Callable[[TaskBatch], None], batch: TaskBatch, device: torch.device) -> float:
    start = time.perf_counter()
    backward(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _mean(values: list[float], device: torch.device) -> list[float]:
    """The mean over all ranks, the same bits on each."""
    if not several_ranks():
        return values
    mean: Tensor = torch.tensor(values, device=device)
    dist.all_reduce(mean)
    result: list[float] = (mean / dist.get_world_size()).tolist()
    return result
