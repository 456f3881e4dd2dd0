"""How long tasks take: measured without a trace."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from umedpt_lightning.training import costs as module_of_costs
from umedpt_lightning.training.costs import measure_costs
from umedpt_lightning.types import TaskBatch


def batch(task: str) -> TaskBatch:
    return TaskBatch(task, torch.randn(4, 3), torch.zeros(4), ["x"] * 4, [(1, 1)] * 4)


def test_measuring_tells_the_slow_task_and_leaves_no_trace() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)

    def backward(found: TaskBatch) -> None:
        if found.task == "slow":
            time.sleep(0.02)
        module(found.images).sum().backward()

    batches = [batch("fast"), batch("slow")]
    torch.manual_seed(7)
    costs = measure_costs(module, batches, backward)
    assert list(costs) == ["fast", "slow"]
    assert costs["fast"] > 0
    assert costs["slow"] >= 0.02
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_one_time_that_is_far_off_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.2, 9.0, 0.1])
    monkeypatch.setattr(module_of_costs, "_seconds", lambda *_: next(seconds))
    module = nn.Linear(3, 3)
    assert measure_costs(module, [batch("a")], lambda found: module(found.images).sum().backward()) == {"a": 0.2}
