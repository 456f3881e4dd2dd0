"""Mean losses of tasks, over rounds and ranks."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ranks import on_ranks
from umedpt_lightning.training.task_losses import TaskLosses

CPU = torch.device("cpu")


def test_a_mean_is_over_all_micro_batches_since_the_last_reading() -> None:
    losses = TaskLosses(["a", "b", "c"])
    losses.add(["a", "b", "a"], torch.tensor([1.0, 5.0, 3.0], requires_grad=True), [2, 3, 1])
    losses.add(["a"], torch.tensor([0.5]), [1])
    losses.add([], torch.zeros(0), [])
    assert losses.read(CPU) == ({"a": 1.5, "b": 5.0}, 7)
    assert losses.read(CPU) == ({}, 0)


def test_it_holds_no_graph_and_changes_no_loss() -> None:
    losses, weight = TaskLosses(["a"]), torch.tensor(2.0, requires_grad=True)
    added = [weight * 3, weight * 4]
    for loss in added:
        losses.add(["a"], loss[None], [1])
    assert not losses._sums.requires_grad
    assert [loss.item() for loss in added] == [6.0, 8.0]


def _read() -> tuple[dict[str, float], int]:
    torch.distributed.init_process_group("gloo")
    losses = TaskLosses(["a", "b", "c"])
    rank = torch.distributed.get_rank()
    losses.add(["a"], torch.tensor([1.0 + rank]), [2])
    if rank:  # the first rank has never seen it
        losses.add(["b", "b"], torch.tensor([4.0, 2.0]), [1, 1])
    return losses.read(CPU)


def test_every_rank_reads_the_tasks_of_all_ranks() -> None:
    first, second = on_ranks(_read, 2)
    assert first == second
    means, samples = first
    assert means == pytest.approx({"a": 1.5, "b": 3.0})
    assert samples == 6
