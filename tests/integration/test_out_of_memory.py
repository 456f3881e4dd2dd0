"""Memory that runs out is told with the micro-batch that it was wanted for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import MemoryReader, small_encoder, trainer_of
from torch import Tensor

from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.tasks import Classification
from umedpt_lightning.training import MultiTaskModule


def cpu() -> None:
    torch.empty(2**60)


def windows() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:72] data. DefaultCPUAllocator: not enough memory: you tried to")


def gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def other() -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class Greedy(Classification):
    """Wants more memory than there is."""

    want = staticmethod(cpu)

    def forward(self, features: Tensor) -> Tensor:
        self.want()
        return super().forward(features)


class GreedyBackward(torch.autograd.Function):
    """Wants it in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        cpu()
        return gradient


class GreedyLater(Classification):
    """Wants it in the backward pass."""

    def forward(self, features: Tensor) -> Tensor:
        return GreedyBackward.apply(super().forward(features))  # type: ignore[no-untyped-call, no-any-return]


def run(method: str, task: Any) -> None:
    readers = {"modest": MemoryReader("class"), "greedy": MemoryReader("class", side=48)}
    data = MultiTaskDataModule(
        {name: TaskData(train=r, val=r, test=r, batch_size=3) for name, r in readers.items()}, num_workers=0
    )
    trainer = trainer_of(max_epochs=1, limit_val_batches=1.0)
    getattr(trainer, method)(MultiTaskModule(data.specs, small_encoder(), tasks={"greedy": task}), data)


@pytest.mark.parametrize("method", ["fit", "validate", "test"])
@pytest.mark.parametrize("want", [cpu, windows, gpu])
def test_it_names_task_size_and_mends(method: str, want: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greedy, "want", staticmethod(want))
    message = (
        r"Task 'greedy': memory ran out.*3 images of 3x48x48 uint8 at precision 32-true.*data\.tasks\.greedy\.batch"
    )
    with pytest.raises(MemoryError, match=message) as raised:
        run(method, Greedy)
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_it_is_told_in_the_backward_pass_too() -> None:
    with pytest.raises(MemoryError, match="Task 'greedy'"):
        run("fit", GreedyLater)


def test_other_errors_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greedy, "want", staticmethod(other))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run("fit", Greedy)
