"""BatchNorm's running statistics: once a round, by all micro-batches together."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from umedpt_lightning.blocks.batch_norm import PerTaskBatchNorm, TaskSwitch
from umedpt_lightning.training.running_statistics import RunningStatistics


class Net(nn.Module):
    """A layer of all tasks, one that only some use, and one a task."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.switch = TaskSwitch()
        self.shared = nn.BatchNorm2d(3, momentum=momentum)
        self.some = nn.BatchNorm2d(3, momentum=momentum)
        self.own = PerTaskBatchNorm(nn.BatchNorm2d(3, momentum=momentum), ["a", "b"], self.switch)

    def forward(self, x: Tensor, task: str) -> Tensor:
        self.switch.task = task
        x = self.own(self.shared(x))
        return self.some(x) if task == "a" else x


def images(number: int) -> Tensor:
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(number)) * (number + 1) + number


def round_of(net: Net, statistics: RunningStatistics, batches: list[tuple[str, int]]) -> None:
    with statistics.round(dict.fromkeys(task for task, _ in batches)):
        for task, number in batches:
            net(images(number), task)
            statistics.add(task)
        statistics.move(statistics.sums())


def test_a_layer_moves_once_towards_the_mean_over_its_micro_batches() -> None:
    net = Net()
    round_of(net, RunningStatistics(net), [("a", 0), ("b", 1), ("a", 2)])
    batches = [images(number) for number in range(3)]
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variance = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in batches]).mean(0)
    torch.testing.assert_close(net.shared.running_mean, 0.1 * mean)
    torch.testing.assert_close(net.shared.running_var, 0.9 + 0.1 * variance)
    # what comes in has a variance of 1, and the pass between two of its own adds nothing
    torch.testing.assert_close(net.some.running_var, torch.ones(3), rtol=0, atol=0.02)
    assert net.shared.num_batches_tracked == net.some.num_batches_tracked == 1
    assert net.shared.momentum == 0.1


def test_with_one_micro_batch_a_round_it_is_torchs_own_running_mean() -> None:
    for momentum in (0.1, None):
        net = Net(momentum)
        expected, statistics = copy.deepcopy(net), RunningStatistics(net)
        for number, task in enumerate("aabab"):
            round_of(net, statistics, [(task, number)])
            expected(images(number), task)
        for name, buffer in expected.named_buffers():
            torch.testing.assert_close(net.get_buffer(name), buffer, msg=lambda m, n=name: f"{n}: {m}")


def test_the_order_of_micro_batches_makes_no_difference() -> None:
    one, other = Net(), Net()
    for net, batches in ((one, [("a", 0), ("b", 1), ("a", 2)]), (other, [("a", 2), ("a", 0), ("b", 1)])):
        round_of(net, RunningStatistics(net), batches)
    for name, buffer in one.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), buffer)


def test_a_layer_that_a_pass_uses_twice_has_statistics_of_one_use() -> None:
    layer = nn.BatchNorm2d(3)
    statistics = RunningStatistics(layer)
    with statistics.round(["a"]):
        layer(layer(images(1)))
        statistics.add("a")
        statistics.move(statistics.sums())
    torch.testing.assert_close(layer.running_var, torch.ones(3), atol=0.01, rtol=0)  # what the first use gives has 1


def test_layers_that_a_round_does_not_use_stay_as_they_are() -> None:
    net = Net()
    statistics = RunningStatistics(net)
    round_of(net, statistics, [("a", 0)])
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    round_of(net, statistics, [("b", 1)])
    changed = {
        name.rpartition(".")[0] for name, value in before.items() if not torch.equal(net.get_buffer(name), value)
    }
    assert changed == {"shared", "own.by_task.b"}


def test_frozen_layers_normalise_by_what_they_have_and_keep_it() -> None:
    net = Net()
    net.shared.running_mean.fill_(3.0)
    net.shared.eval()
    expected = copy.deepcopy(net)(images(1), "b")
    statistics = RunningStatistics(net)
    with statistics.round(["b"]):
        for _ in range(2):
            torch.testing.assert_close(net(images(1), "b"), expected)
            statistics.add("b")
        statistics.move(statistics.sums())
    assert torch.equal(net.shared.running_mean, torch.full((3,), 3.0))


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_round_that_is_given_up_leaves_no_trace(error: type[Exception] | None) -> None:
    net = Net()
    statistics = RunningStatistics(net)
    round_of(net, statistics, [("a", 0)])
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        with statistics.round(["a"]):
            net(images(1) * float("nan"), "a")
            statistics.add("a")
            if error is not None:
                raise error
            statistics.move(statistics.sums())
            statistics.restart()
    except ValueError:
        pass
    assert all(torch.equal(net.get_buffer(name), value) for name, value in before.items())
    assert net.shared.momentum == 0.1


def test_a_round_begun_anew_forgets_what_was_not_finite() -> None:
    net, expected = Net(), Net()
    round_of(expected, RunningStatistics(expected), [("a", 0)])
    statistics = RunningStatistics(net)
    with statistics.round(["a"]):
        net(images(1) * float("nan"), "a")
        statistics.add("a")
        statistics.restart()
        net(images(0), "a")
        statistics.add("a")
        statistics.move(statistics.sums())
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(net.get_buffer(name), buffer)


def test_only_the_layers_of_a_rounds_tasks_are_told_of() -> None:
    net = Net()
    statistics = RunningStatistics(net)
    with statistics.round(["b"]):
        assert [len(one) for one in statistics.sums()] == [12, 2, 6, 1]  # two shared layers, one of task b
    assert statistics.size == 4 * (2 * 3 + 1)
