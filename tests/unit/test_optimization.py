"""The optimizer's groups and the learning rate over the steps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from umedpt_lightning.training.optimization import Optimization


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def rates(steps: int, extra: int = 0, **options: Any) -> list[float]:
    """The learning rate of each step, and of `extra` ones beyond the last."""
    optimization = Optimization(**options)
    optimizer = optimization.optimizer(network(), fused=False)
    schedule = optimization.schedule(optimizer, steps)
    found = []
    for _ in range(steps + extra):
        found.append(schedule.get_last_lr()[0])
        assert all(group["lr"] == found[-1] for group in optimizer.param_groups)
        optimizer.step()
        schedule.step()
    return found


# --- parameter groups -----------------------------------------------------------------------------------------------


def test_norms_and_biases_do_not_decay_and_all_else_does() -> None:
    module = network()
    groups = Optimization(weight_decay=0.3).optimizer(module, fused=False).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        vector = name.endswith("bias") or name.startswith(("1.", "3."))
        assert decay.pop(id(parameter)) == (0.0 if vector else 0.3), name
    assert decay == {}


def test_frozen_parameters_are_left_out() -> None:
    module = network()
    module[0].requires_grad_(False)
    groups = Optimization().optimizer(module, fused=False).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in module.parameters() if p.requires_grad}


def test_the_encoder_learns_with_its_share_of_the_rate_all_along() -> None:
    module = nn.ModuleDict({"model": nn.ModuleDict({"encoder": network(), "pixel_decoder": network()})})
    optimization = Optimization(learning_rate=0.1, encoder_share=0.5, warmup=0.5)
    optimizer = optimization.optimizer(module, fused=False)
    schedule = optimization.schedule(optimizer, 4)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in module.parameters()}
    encoder = {id(p) for p in module["model"]["encoder"].parameters()}
    for _ in range(5):
        rate = optimizer.param_groups[0]["lr"]  # as the log shows it
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert group["lr"] == pytest.approx(rate * (0.5 if id(parameter) in encoder else 1))
        optimizer.step()
        schedule.step()


def test_its_options_reach_adamw() -> None:
    optimizer = Optimization(learning_rate=0.1, betas=(0.5, 0.6)).optimizer(network(), fused=True)
    assert optimizer.defaults["lr"] == 0.1
    assert all(g["betas"] == (0.5, 0.6) and g["fused"] for g in optimizer.param_groups)


# --- the schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 10, 101])
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5, 3, 50])
@pytest.mark.parametrize("final", [0, 0.1, 1])
def test_the_rate_rises_to_the_peak_then_falls_and_is_never_zero_nor_above(
    steps: int, warmup: float, final: float
) -> None:
    found = rates(steps, learning_rate=2.0, warmup=warmup, final=final)
    assert all(0 < rate <= 2.0 for rate in found)
    top = found.index(max(found))
    assert all(a <= b for a, b in pairwise(found[: top + 1]))
    assert all(a >= b for a, b in pairwise(found[top:]))


def test_the_warm_up_is_counted_in_rounds_or_as_a_share_of_all() -> None:
    for warmup in (10, 0.1):
        found = rates(100, learning_rate=1.0, warmup=warmup)
        assert found.index(max(found)) == 10
        assert max(found) == 1.0
        steps = [b - a for a, b in pairwise(found[:11])]
        assert steps == pytest.approx([steps[0]] * 10)


def test_the_fall_is_half_a_cosine_and_its_end_holds() -> None:
    found = rates(100, extra=20, learning_rate=1.0, warmup=0, final=0.2)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.6)
    assert found[25] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert found[100:] == pytest.approx([0.2] * 20)


def test_without_warm_up_and_fall_the_rate_is_constant() -> None:
    assert rates(20, learning_rate=0.5, warmup=0, final=1) == [0.5] * 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": -1e-3}, "-0.001"),
        ({"warmup": -1}, "warmup not negative"),
        ({"final": 1.5}, "final between 0 and 1.*1.5"),
        ({"clip": 0.0}, r"optimization\.clip must be positive, or null"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Optimization(**options)
