"""Mean losses of tasks, over rounds and ranks."""

from __future__ import annotations

import pytest
import torch

from benchmarks.ranks import on_ranks
from umedpt_lightning.training.tracker import LossTracker

CPU = torch.device("cpu")


def test_a_mean_is_over_all_micro_batches_since_the_last_reading() -> None:
    tracker = LossTracker(["a", "b", "c"])
    tracker.add(["a", "b", "a"], torch.tensor([1.0, 5.0, 3.0], requires_grad=True), [2, 3, 1])
    tracker.add(["a"], torch.tensor([0.5]), [1])
    tracker.add([], torch.zeros(0), [])
    assert tracker.read(CPU) == ({"a": 1.5, "b": 5.0}, 7)
    assert tracker.read(CPU) == ({}, 0)


def test_it_holds_no_graph_and_changes_no_loss() -> None:
    tracker, weight = LossTracker(["a"]), torch.tensor(2.0, requires_grad=True)
    losses = [weight * 3, weight * 4]
    for loss in losses:
        tracker.add(["a"], loss[None], [1])
    assert not tracker._sums.requires_grad
    assert [loss.item() for loss in losses] == [6.0, 8.0]


def _read() -> tuple[dict[str, float], int]:
    torch.distributed.init_process_group("gloo")
    tracker = LossTracker(["a", "b", "c"])
    rank = torch.distributed.get_rank()
    tracker.add(["a"], torch.tensor([1.0 + rank]), [2])
    if rank:  # the first rank has never seen it
        tracker.add(["b", "b"], torch.tensor([4.0, 2.0]), [1, 1])
    return tracker.read(CPU)


def test_every_rank_reads_the_tasks_of_all_ranks() -> None:
    first, second = on_ranks(_read, 2)
    assert first == second
    losses, samples = first
    assert losses == pytest.approx({"a": 1.5, "b": 3.0})
    assert samples == 6
