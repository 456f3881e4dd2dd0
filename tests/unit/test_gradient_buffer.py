"""The flat gradient buffer: its views, what becomes of parameters that a round does not reach, two real ranks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.ranks import Collectives, on_ranks
from umedpt_lightning.training.gradient_buffer import GradientBuffer

#: Of each parameter, the gradient on each of two ranks; None where no pass reaches it.
CASES: dict[str, tuple[float | None, float | None]] = {
    "both": (1.0, 3.0),
    "first": (4.0, None),
    "second": (None, 5.0),
    "neither": (None, None),
    "zero_and_none": (0.0, None),
    "huge": (1e30, 1e30),
}
SHAPES = dict(zip(CASES, [(2, 3), (4,), (), (5, 1), (3,), (2,)], strict=True))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.Flatten(), nn.Linear(5, 2), nn.Linear(2, 1))


def buffer_of(module: nn.Module, room: int = 0) -> GradientBuffer:
    return GradientBuffer(dict(module.named_parameters()), room)


def backward(module: nn.Sequential, layers: int = 5) -> None:
    """A pass through the first layers."""
    dtype = next(module.parameters()).dtype
    images = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    module[:layers](images).square().sum().backward()


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def assert_same(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] is None) == (gradient is None), name
        assert gradient is None or torch.equal(found[name], gradient), name


# --- one process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [5, 4, 1])
def test_gradients_are_those_without_a_buffer_and_unreached_parameters_have_none(layers: int) -> None:
    plain, module = network(), network()
    buffer = buffer_of(module)
    for _ in range(2):  # nothing is left from a round before, in which all were reached
        buffer.zero()
        backward(module)
        buffer.exchange()
        buffer.zero()
        plain.zero_grad()
        for net in (plain, module):
            backward(net, layers)
            backward(net, layers)
        buffer.exchange()
        assert_same(gradients(module), gradients(plain))


def test_every_gradient_is_a_view_of_the_flat_tensor() -> None:
    module = network()
    buffer = buffer_of(module)
    buffer.zero()
    backward(module)
    buffer.exchange()
    buffer.flats[0].fill_(7.0)
    assert all((p.grad == 7).all() for p in module.parameters())
    assert buffer.gradients.keys() == dict(module.named_parameters()).keys()
    assert all(p.grad is buffer.gradients[name] for name, p in module.named_parameters())
    assert all(p.grad.data_ptr() % 16 == 0 for p in module.parameters()), "kernels read 16 bytes at once"


def test_a_gradient_of_zeros_is_not_the_same_as_none() -> None:
    module = nn.Linear(2, 1)
    buffer = buffer_of(module)
    buffer.zero()
    (module(torch.ones(1, 2)) * 0).sum().backward()
    buffer.exchange()
    assert torch.equal(module.weight.grad, torch.zeros(1, 2))


def test_parameters_without_a_gradient_are_not_moved_by_decay_or_momentum() -> None:
    plain, module = network(), network()
    buffer = buffer_of(module)
    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5) for net in (plain, module)]
    for layers in (5, 1, 4, 1):
        plain.zero_grad()
        buffer.zero()
        for net in (plain, module):
            backward(net, layers)
        buffer.exchange()
        for optimizer in optimizers:
            optimizer.step()
    for (name, p), q in zip(plain.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("how", ["cast", "freeze", "cast without gradients", "cast a part", "channels_last"])
def test_it_follows_parameters_that_are_moved_cast_or_frozen(how: str) -> None:
    plain, module = network(), network()
    buffer = buffer_of(module)
    for net in (plain, module):
        if net is module:
            buffer.zero()
        backward(net)
        if net is module:
            buffer.exchange()
            if how == "cast without gradients":
                net.zero_grad()
        match how:
            case "freeze":
                net[0].requires_grad_(False)
            case "channels_last":
                net.to(memory_format=torch.channels_last)
            case "cast a part":
                net[4].double()
                net[4].register_forward_pre_hook(lambda _, args: (args[0].double(),))
            case _:
                net.double()
    plain.zero_grad()
    buffer.zero()
    for net in (plain, module):
        backward(net)
    buffer.exchange()
    assert_same(gradients(module), gradients(plain))
    assert len(buffer.flats) == (2 if how == "cast a part" else 1)
    strides = {name: p.grad.stride() for name, p in module.named_parameters() if p.grad is not None}
    assert strides == {name: p.stride() for name, p in module.named_parameters() if p.requires_grad}
    for flat in buffer.flats:
        flat.fill_(7.0)
    assert all((p.grad == 7).all() for p in module.parameters() if p.requires_grad)


def test_the_norm_is_that_of_all_gradients_together() -> None:
    module = network()
    buffer = buffer_of(module)
    buffer.zero()
    backward(module, 4)
    buffer.exchange()
    found = [p.grad for p in module.parameters() if p.grad is not None]
    torch.testing.assert_close(buffer.norm(), nn.utils.get_total_norm(found))
    buffer.multiply(torch.tensor(0.5))
    torch.testing.assert_close(buffer.norm(), nn.utils.get_total_norm(found))
    for value in (float("nan"), float("inf")):
        module[0].weight.grad[0, 0, 0, 0] = value
        assert not buffer.norm().isfinite()


def test_the_norm_of_many_numbers_is_exact_where_torchs_own_is_not() -> None:
    parameter = nn.Parameter(torch.zeros(8_000_000))
    buffer = GradientBuffer({"a": parameter})
    buffer.zero()
    buffer.flats[0].normal_(generator=torch.Generator().manual_seed(0))
    expected = buffer.flats[0].double().norm()
    assert float((buffer.norm() / expected - 1).abs()) < 1e-6


def test_a_copy_of_the_module_has_a_buffer_of_its_own() -> None:
    module = network()
    module.buffer = buffer_of(module)  # as the averaged model of Lightning's callback has it
    module.buffer.zero()
    other = copy.deepcopy(module)
    other.buffer.zero()
    backward(other)
    other.buffer.exchange()
    assert float(module.buffer.norm()) == 0
    assert all(p.grad is other.buffer.gradients[name] for name, p in other.named_parameters())


# --- two ranks --------------------------------------------------------------------------------------------------------


def _exchanged() -> dict[str, Any]:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    parameters = {name: nn.Parameter(torch.zeros(SHAPES[name])) for name in CASES}
    parameters["frozen"] = nn.Parameter(torch.zeros(2), requires_grad=False)
    buffer = GradientBuffer(parameters, room=3)
    others = [torch.tensor(rank + 0.5), torch.tensor([[rank, 7]])]
    buffer.zero()
    for name, values in CASES.items():
        if (value := values[rank]) is not None:
            (parameters[name] * value).sum().backward()
    views = [p.grad for p in parameters.values()]
    with Collectives() as collectives:
        sums = buffer.exchange(others)
    return {
        "sums": sums,
        "gradients": {name: p.grad for name, p in parameters.items()},
        "calls": len(collectives.calls),
        "in_place": all(p.grad is None or p.grad is view for p, view in zip(parameters.values(), views, strict=True)),
    }


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return on_ranks(_exchanged, 2)


@pytest.mark.parametrize("name", [name for name, values in CASES.items() if any(v is not None for v in values)])
def test_a_gradient_is_the_sum_over_the_ranks_where_a_missing_one_is_zero(
    results: list[dict[str, Any]], name: str
) -> None:
    expected = sum(value or 0.0 for value in CASES[name])
    for result in results:
        torch.testing.assert_close(result["gradients"][name], torch.full(SHAPES[name], expected))


@pytest.mark.parametrize("name", ["neither", "frozen"])
def test_a_parameter_without_a_gradient_on_every_rank_stays_without(results: list[dict[str, Any]], name: str) -> None:
    assert all(result["gradients"][name] is None for result in results)


def test_there_is_exactly_one_collective_in_place(results: list[dict[str, Any]]) -> None:
    assert [result["calls"] for result in results] == [1, 1]
    assert all(result["in_place"] for result in results)


def test_what_travels_along_is_summed_in_its_own_shape_and_dtype(results: list[dict[str, Any]]) -> None:
    for result in results:
        number, table = result["sums"]
        assert torch.equal(number, torch.tensor(2.0))
        assert torch.equal(table, torch.tensor([[1, 14]]))
        assert table.dtype == torch.int64


def _of_two_dtypes() -> list[Tensor | None]:
    dist.init_process_group("gloo")
    parameters = {str(dtype): nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.float64)}
    buffer = GradientBuffer(parameters)
    buffer.zero()
    for parameter in parameters.values():
        (parameter * (dist.get_rank() + 1)).sum().backward()
    buffer.exchange()
    return [parameter.grad for parameter in parameters.values()]


def test_gradients_of_every_dtype_are_summed() -> None:
    for result in on_ranks(_of_two_dtypes, 2):
        assert [gradient.tolist() for gradient in result] == [[3.0, 3.0], [3.0, 3.0]]
