"""Sketches: inner products of vectors, what is added, rows of gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umedpt_lightning.training.aggregation.gram import Gram, inner_products
from umedpt_lightning.training.aggregation.sketch import Sketch
from umedpt_lightning.training.aggregation.task_rows import SketchedRows, WholeRows, shared_parts
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import MicroBatchId, RoundPlan, TaskRate


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


def sketched(vector: Tensor, buckets: int) -> Tensor:
    half = len(vector) // 3
    return Sketch([vector[:half], vector[half:]], buckets)()


@pytest.mark.parametrize("wanted", [-0.9, -0.2, 0.0, 0.5])
@pytest.mark.parametrize("kind", ["noise", "layers"])
def test_cosines_of_sketches_are_those_of_the_vectors(wanted: float, kind: str) -> None:
    generator = torch.Generator().manual_seed(3)

    def vector() -> Tensor:
        if kind == "noise":
            return torch.randn(1_000_000, generator=generator)
        # as the gradient of a layer: each row a multiple of one row, as long as the buckets go evenly into
        return torch.outer(torch.randn(2000, generator=generator), torch.randn(512, generator=generator)).flatten()

    one, noise = vector(), vector()
    noise -= (noise @ one) / (one @ one) * one
    other = wanted * one / one.norm() + (1 - wanted**2) ** 0.5 * noise / noise.norm()
    assert cosine(one, other) == pytest.approx(wanted, abs=1e-4)
    assert cosine(sketched(one, 65536), sketched(other, 65536)) == pytest.approx(wanted, abs=0.02)


def test_over_many_vectors_the_error_is_as_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 100_000, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    sketches = torch.stack([sketched(row, 4096) for row in rows])
    errors = (sketches @ sketches.T - rows @ rows.T)[~torch.eye(40, dtype=torch.bool)]
    assert float(errors.mean().abs()) < 0.003
    assert float(errors.std()) == pytest.approx(4096**-0.5, rel=0.2)


def test_a_vector_of_one_sign_keeps_its_length() -> None:
    """Without random signs, or with the same ones in each piece, its elements would add up instead of their squares."""
    vector = torch.ones(100_000)
    assert float(sketched(vector, 1024).square().sum()) == pytest.approx(100_000, rel=0.2)


def test_what_is_added_has_the_difference_for_a_sketch() -> None:
    vector = torch.randn(5000, dtype=torch.float64)
    sketch = Sketch([vector], 256)
    before, added = sketch(), torch.randn(5000, dtype=torch.float64)
    vector += added
    torch.testing.assert_close(sketch() - before, Sketch([added], 256)())


def test_a_vector_that_is_shorter_keeps_all_its_elements() -> None:
    vector = torch.randn(100)
    assert torch.equal(Sketch([vector], 4096)().abs()[:100], vector.abs())


def test_a_sketch_keeps_no_sign_for_each_element() -> None:
    assert Sketch([torch.zeros(3_400_000)], 65536).bytes < 0.05 * 3_400_000 * 4


def test_inner_products_are_those_of_all_columns() -> None:
    rows = torch.randn(3, 200_000, dtype=torch.float64)
    torch.testing.assert_close(inner_products(rows, torch.device("cpu")), rows @ rows.T)
    half = rows.bfloat16()
    torch.testing.assert_close(
        inner_products(half, torch.device("cpu")), half.double() @ half.double().T, rtol=1e-4, atol=1
    )


def test_a_gradient_of_zero_has_no_direction_and_no_share() -> None:
    gram = Gram(["a", "b"], torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert gram.cosines.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert gram.shares == {"a": 1.0, "b": 0.0}


def test_shared_parts_are_all_but_the_heads() -> None:
    parameters = {
        "encoder.a": nn.Parameter(torch.zeros(300)),
        "tasks.x.weight": nn.Parameter(torch.zeros(7)),
        "tasks.y.weight": nn.Parameter(torch.zeros(3, 3)),
        "pixel_decoder.b": nn.Parameter(torch.zeros(5)),
    }
    buffer = GradientBuffer(parameters)
    buffer.zero()
    for number, gradient in enumerate(buffer.gradients.values(), 1):
        gradient += number
    assert sum(float(part.sum()) for part in shared_parts(buffer)) == 300 * 1 + 5 * 4
    for part in shared_parts(buffer):
        part.zero_()
    assert [float(g.sum()) for g in buffer.gradients.values()] == [0.0, 14.0, 27.0, 0.0]


@pytest.mark.parametrize("rows", [lambda: SketchedRows(4096), lambda: WholeRows(on_cpu=True)])
@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_rows_are_of_the_losses_whatever_share_and_scale_they_come_with(rows: Any, scale: float) -> None:
    parameters = {
        "encoder.a": nn.Parameter(torch.zeros(500).double()),
        "tasks.x.b": nn.Parameter(torch.zeros(3).double()),
    }
    buffer, kept = GradientBuffer(parameters), rows()
    ids = [MicroBatchId(task, number) for task, number in (("x", 0), ("x", 1), ("y", 0), ("x", 2))]
    rates = {"x": TaskRate(1.0, 3), "y": TaskRate(1.0, 1)}
    gradients = torch.randn(4, 500, dtype=torch.float64)
    for _ in range(2):  # a round leaves nothing to the next
        buffer.zero()
        kept.plan_round(RoundPlan({"x": 3, "y": 1}, ids, 1, rates), scale)
        kept.start_round(buffer)
        for id_, gradient in zip(ids, gradients, strict=True):
            buffer.gradients["encoder.a"] += gradient * scale / 2  # half, as one of two tasks
            buffer.gradients["tasks.x.b"] += 7.0
            kept.after_micro_batch(id_.task)
        of_tasks = torch.stack([gradients[[0, 1, 3]].sum(0), gradients[2]])
        torch.testing.assert_close(kept.products(), of_tasks @ of_tasks.T)
