"""Gradients over ranks, with two real processes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from umedpt_lightning.training.gradients import average_gradients

RANKS = 2
#: The gradient's value on each rank; None where it has none.
CASES: dict[str, tuple[float | None, float | None]] = {
    "both": (1.0, 3.0),
    "first": (4.0, None),
    "second": (None, 5.0),
    "neither": (None, None),
    "zero_and_none": (0.0, None),
    "huge": (1e30, 1e30),
}
LOSSES = (1.0, 4.0)
SHAPES = {name: shape for name, shape in zip(CASES, [(2, 3), (4,), (), (5, 1), (3,), (2,)], strict=True)}


def parameters(rank: int) -> dict[str, nn.Parameter]:
    found = {name: nn.Parameter(torch.zeros(SHAPES[name])) for name in CASES}
    for name, values in CASES.items():
        value = values[rank]
        if value is not None:
            found[name].grad = torch.full(SHAPES[name], value)
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    return found | {"frozen": frozen}


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    calls: list[int] = []
    collectives = ["all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "all_gather_object"]
    for name in collectives:
        original = getattr(dist, name)

        def counted(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(1)
            return _original(*args, **kwargs)

        setattr(dist, name, counted)
    mine = parameters(rank)
    kept = mine["both"].grad
    loss = average_gradients(iter(mine.values()), torch.tensor(LOSSES[rank]))
    result = {
        "gradients": {name: p.grad for name, p in mine.items()},
        "calls": len(calls),
        "in_place": mine["both"].grad is kept,
        "loss": loss,
    }
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    # forked, as a data loader's workers are: spawned ones would import torch and Lightning anew, for 10 seconds
    mp.start_processes(_rank, (str(folder),), nprocs=RANKS, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("name", [name for name, values in CASES.items() if any(v is not None for v in values)])
def test_a_gradient_is_the_mean_over_the_ranks_where_a_missing_one_is_zero(
    results: list[dict[str, Any]], name: str
) -> None:
    expected = sum(value or 0.0 for value in CASES[name]) / RANKS
    for result in results:
        torch.testing.assert_close(result["gradients"][name], torch.full(SHAPES[name], expected))


@pytest.mark.parametrize("name", ["neither", "frozen"])
def test_a_parameter_without_a_gradient_on_every_rank_stays_without(results: list[dict[str, Any]], name: str) -> None:
    assert all(result["gradients"][name] is None for result in results)


def test_there_is_exactly_one_collective(results: list[dict[str, Any]]) -> None:
    assert [result["calls"] for result in results] == [1, 1]


def test_gradients_are_changed_in_place(results: list[dict[str, Any]]) -> None:
    assert all(result["in_place"] for result in results)


def test_the_loss_comes_back_as_the_mean_over_the_ranks(results: list[dict[str, Any]]) -> None:
    assert [result["loss"].item() for result in results] == [2.5, 2.5]


def test_without_ranks_nothing_happens() -> None:
    mine = parameters(0)
    before = {name: None if p.grad is None else p.grad.clone() for name, p in mine.items()}
    assert average_gradients(mine.values(), torch.tensor(2.0)) == 2
    for name, parameter in mine.items():
        assert (parameter.grad is None) == (before[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, before[name])
