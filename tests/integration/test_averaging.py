"""Averaged weights by Lightning's callback: what is averaged, validated, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from builders import MemoryReader
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from torch import Tensor

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization

DECAY, STEPS = 0.8, 6


def data_of() -> MultiTaskDataModule:
    readers = {"a": MemoryReader("class", size=8), "b": MemoryReader("regression", size=8, seed=1)}
    tasks = {name: TaskData(train=reader, val=reader, batch_size=2) for name, reader in readers.items()}
    return MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=3)


def module_of(data: MultiTaskDataModule, seed: int = 0) -> MultiTaskModule:
    torch.manual_seed(seed)
    encoder = Encoder("test_resnet")  # BatchNorm: statistics, and counters of int64
    encoder.register_buffer("table", torch.arange(100))  # as Swin's relative positions
    return MultiTaskModule(data.specs, encoder, optimization=Optimization(learning_rate=1e-2))


def trainer_of(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
    return pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[*callbacks, saver],
        **options,
    )


class ByHand(pl.Callback):
    """The same average, parameter by parameter, and the scores of each validation."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.scores: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: pl.LightningModule, *_: Any) -> None:
        for name, value in pl_module.state_dict().items():
            if name not in self.average or not value.is_floating_point():
                self.average[name] = value.clone()
            else:
                self.average[name] = DECAY * self.average[name] + (1 - DECAY) * value

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.scores.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ByHand, MultiTaskModule]:
    folder, by_hand, data = tmp_path_factory.mktemp("run"), ByHand(), data_of()
    module = module_of(data)
    trainer_of(folder, by_hand, EMAWeightAveraging(decay=DECAY)).fit(module, data)
    return folder, by_hand, module


def test_the_average_is_what_a_run_ends_with_and_saves_beside_the_weights_of_training(run: Any) -> None:
    folder, by_hand, module = run
    saved = torch.load(folder / f"step={STEPS}.ckpt", weights_only=True)
    for name, value in by_hand.average.items():
        torch.testing.assert_close(saved["state_dict"][name], value)
        torch.testing.assert_close(module.state_dict()[name], value)
    head = "model.tasks.a.head.weight"
    assert not torch.allclose(saved["current_model_state"][head], saved["state_dict"][head], rtol=1e-3)


def test_whole_numbers_are_not_averaged(run: Any) -> None:
    folder, _, module = run
    assert torch.equal(module.model.encoder.table, torch.arange(100))
    saved = torch.load(folder / f"step={STEPS}.ckpt", weights_only=True)["state_dict"]
    counters = [value for name, value in saved.items() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == STEPS for counter in counters), "they move once a round"


def test_a_plain_average_leaves_them_alone_too(tmp_path: Path) -> None:
    data = data_of()
    module = module_of(data)
    trainer_of(tmp_path, WeightAveraging()).fit(module, data)
    assert torch.equal(module.model.encoder.table, torch.arange(100))


def test_the_average_is_what_is_validated(run: Any, tmp_path: Path) -> None:
    folder, by_hand, _ = run
    data = data_of()
    (found,) = trainer_of(tmp_path).validate(
        module_of(data, 9), data, ckpt_path=folder / f"step={STEPS}.ckpt", weights_only=True, verbose=False
    )
    assert len(by_hand.scores) == 2
    assert found == pytest.approx(by_hand.scores[-1], abs=1e-5)
    assert found != pytest.approx(by_hand.scores[0], abs=1e-5)


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_ends_with_the_same_bits(run: Any, tmp_path: Path, step: int) -> None:
    folder, _, module = run
    data = data_of()
    again = module_of(data, 9)
    trainer_of(tmp_path, EMAWeightAveraging(decay=DECAY)).fit(again, data, ckpt_path=folder / f"step={step}.ckpt")
    last = [torch.load(place / f"step={STEPS}.ckpt", weights_only=True) for place in (folder, tmp_path)]
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert last[0][key].keys() == last[1][key].keys()
        assert all(torch.equal(value, last[1][key][name]) for name, value in last[0][key].items()), key
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
