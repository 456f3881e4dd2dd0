"""What a round is spared of Lightning's work, and what it is not."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest
import torch
from builders import MemoryReader, small_encoder, trainer_of
from torch import nn

from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.round_module import RoundModule
from umedpt_lightning.types import Round, TaskBatch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),  # Lightning's own
]

_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


class Watching(MultiTaskModule):
    """Takes down which batches Lightning's hooks for moving them are called with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moved: list[type] = []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.moved.append(type(batch))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


class WithoutIndex(MultiTaskModule):
    """Its step does not ask for the batch's index."""

    def training_step(self, batch: Round) -> Any:
        return super().training_step(batch, 0)


def data_of() -> MultiTaskDataModule:
    reader = MemoryReader("class")
    return MultiTaskDataModule({"a": TaskData(train=reader, val=reader, batch_size=2)}, num_workers=0)


def test_lightning_moves_micro_batches_of_validation_but_no_round() -> None:
    data = data_of()
    module = Watching(data.specs, small_encoder())
    trainer_of(max_epochs=1, limit_val_batches=1).fit(module, data)
    assert module.global_step == 3
    assert module.moved
    assert set(module.moved) == {TaskBatch}


def test_a_subclass_has_the_signature_of_its_own_step() -> None:
    assert list(inspect.signature(MultiTaskModule.training_step).parameters) == ["self", "batch", "batch_idx"]
    data = data_of()
    module = WithoutIndex(data.specs, small_encoder())
    trainer_of(max_steps=1, limit_val_batches=0).fit(module, data)
    assert module.global_step == 1


def test_attributes_are_set_as_torch_sets_them() -> None:
    module = RoundModule()
    module.layer_of_ones, module.weight = nn.Linear(2, 2), nn.Parameter(torch.ones(2))
    module._current_fx_name = "training_step"
    assert {name for name, _ in module.named_parameters()} == {"weight", "layer_of_ones.weight", "layer_of_ones.bias"}
    assert module._current_fx_name == "training_step"


@pytest.mark.parametrize("accelerated", [True, False])
def test_nvidia_library_is_asked_for_gpus_only_where_there_is_one(
    accelerated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_NVML, "1")  # as Lightning does
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerated)
    RoundModule().on_fit_start()
    assert (_NVML in os.environ) == accelerated
