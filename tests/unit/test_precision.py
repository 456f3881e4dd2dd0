"""Losses and metrics under autocast: in float32, from whatever the layers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, WIDTHS, detection_features, random_target, spec_of
from torch import Tensor

from umedpt_lightning.tasks import DEFAULT_TASKS, Task
from umedpt_lightning.tasks.detection import DetectionOutput
from umedpt_lightning.types import Boxes

HALVES = (torch.bfloat16, torch.float16)
any_half = pytest.mark.parametrize("half", HALVES, ids=str)
any_kind = pytest.mark.parametrize("kind", KINDS)


def task_of(kind: str) -> tuple[Task, Any, Any]:
    """A task with features and targets of two images."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    spec = spec_of(kind)
    task = DEFAULT_TASKS[type(spec)](spec, WIDTHS)  # type: ignore[call-arg]
    values = [random_target(kind, 64, rng) for _ in range(2)]
    if kind == "box":
        boxes = [Boxes(torch.from_numpy(v.boxes), torch.from_numpy(v.labels)) for v in values]
        return task, detection_features(2, 64), boxes
    features = torch.randn(2, WIDTHS.pixels, 64, 64) if kind == "mask" else torch.randn(2, WIDTHS.embedding)
    return task, features, torch.from_numpy(np.stack(values))


def leaves(output: Any) -> list[Tensor]:
    return list(output.raw.values()) if isinstance(output, DetectionOutput) else [output]


@any_kind
@any_half
def test_a_loss_is_float32_and_that_of_full_precision_within_that_of_the_layers(kind: str, half: torch.dtype) -> None:
    task, features, targets = task_of(kind)
    full = task.loss(task(features), targets)
    with torch.autocast("cpu", half):
        output = task(features)
        loss = task.loss(output, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(full.item(), rel=0.02)
    if not isinstance(output, DetectionOutput):
        assert output.dtype == half
        # of what the layers gave, nothing is lost: the same digits as without autocast
        torch.testing.assert_close(loss, task.loss(output.float(), targets), rtol=0, atol=0)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


@any_kind
@any_half
def test_metrics_are_those_of_the_same_outputs_in_float32(kind: str, half: torch.dtype) -> None:
    task, features, targets = task_of(kind)
    with torch.no_grad(), torch.autocast("cpu", half):
        output = task(features)
        task.update(output, targets)
        under = task.compute()
    task.reset()
    if not isinstance(output, DetectionOutput):
        output = output.float()
    task.update(output, targets)
    expected = task.compute()
    for name, value in under.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True)


@any_kind
@any_half
def test_large_outputs_do_not_overflow(kind: str, half: torch.dtype) -> None:
    task, features, targets = task_of(kind)
    with torch.autocast("cpu", half):
        output = task(features)
        large = 3e4  # its square, its exponential and a sum of a few are beyond float16
        if isinstance(output, DetectionOutput):
            output.raw = {key: torch.full_like(value, large) for key, value in output.raw.items()}
        else:
            output = torch.full_like(output, large)
            output[..., ::2] *= -1
        loss = task.loss(output, targets)
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    for value in leaves(output):
        assert value.isfinite().all()
