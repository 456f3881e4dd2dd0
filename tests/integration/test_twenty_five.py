"""All 25 real tasks in one training: memory of one, ranks, and runs that are killed."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks import resume
from benchmarks.memory import built, real_tasks, trainer_of
from benchmarks.micro_batches import round_of
from benchmarks.processes import in_fresh_process
from benchmarks.ranks import on_ranks
from umedpt_lightning.blocks import DetectionDecoder, Encoder, PixelDecoder
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes
from umedpt_lightning.types import TaskBatch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(shared_data: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all tasks, with a small encoder and two samples a micro-batch."""
    file = real_tasks(tmp_path_factory.mktemp("real"))
    content = yaml.safe_load(file.read_text())
    content["model"] = {
        "encoder": {"class_path": "Encoder", "init_args": {"name": "test_convnext", "drop_path_rate": 0.5}},
        "pixel_decoder": {"class_path": "PixelDecoder", "init_args": {"channels": 8}},
        "detection_decoder": {"class_path": "DetectionDecoder", "init_args": {"channels": 16}},
    }
    content["trainer"] = {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "enable_progress_bar": False}
    content["trainer"] |= {"limit_val_batches": 25, "num_sanity_val_steps": 0}
    content["data"] |= {"num_workers": 0, "steps_per_epoch": 3}
    content["last"] = {"rounds": 1}
    file.write_text(yaml.safe_dump(content))
    return file


def run(config: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    torch.manual_seed(0)
    main(["fit", "--config", str(config), "--run", str(folder), *arguments])
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def test_one_fit_trains_all_and_validates_all(config: Path, tmp_path: Path) -> None:
    found = run(config, tmp_path / "run")
    columns = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    tasks = {name.split("/")[1] for name in columns if name.startswith("val/") and name.count("/") == 2}
    assert len(tasks) == 25
    assert found["global_step"] == 3


@pytest.mark.parametrize("distribute", ["samples", "tasks"])
def test_two_ranks_train_all(distribute: str, config: Path, tmp_path: Path) -> None:
    options = ["--data.distribute", distribute, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    ranks = on_ranks(partial(_weights, config, tmp_path / "run", options), 2)
    assert ranks[0].keys() == ranks[1].keys()
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name]), name
    assert all(value.isfinite().all() for value in ranks[0].values())


def _weights(config: Path, folder: Path, options: list[str]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = run(config, folder, *options)["state_dict"]
    return state


class _FromMemory:
    """One round of micro-batches that are read when it comes to them."""

    def __init__(self, batches: list[TaskBatch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 2

    def __iter__(self):  # type: ignore[no-untyped-def]
        for _ in range(len(self)):
            yield round_of(self.batches)


@pytest.mark.filterwarnings("ignore:You defined a .validation_step.")
def test_what_autograd_keeps_is_that_of_the_largest(config: Path) -> None:
    data = MultiTaskDataModule(built(config), num_workers=0, steps_per_epoch=1)
    (batches,) = ([*one] for one in data.train_dataloader())
    assert len(batches) == 25

    def peak(some: list[TaskBatch]) -> int:
        module = MultiTaskModule(
            data.specs,
            Encoder("test_convnext"),
            pixel_decoder=partial(PixelDecoder, channels=8),
            detection_decoder=partial(DetectionDecoder, channels=16),
        )
        with tempfile.TemporaryDirectory() as folder, SavedBytes() as saved:
            trainer_of(folder, max_steps=2).fit(module, _FromMemory(some))
        return saved.peak

    assert peak(batches) <= 1.01 * max(peak([batch]) for batch in batches)


def test_packed_they_are_the_same_samples(config: Path, tmp_path: Path) -> None:
    main(["data", "pack", "--config", str(config), "--out", str(tmp_path / "shards"), "--workers", "0"])
    packed = built(tmp_path / "shards" / "tasks.yaml")
    for name, task in built(config).items():
        for part, reader in task.readers.items():
            other = packed[name].readers[part]
            assert other.spec == reader.spec
            assert len(other) == len(reader)
            for index in (0, len(reader) // 2, -1):
                mine, theirs = other[index], reader[index]
                assert mine.name == theirs.name
                np.testing.assert_array_equal(mine.image, theirs.image)
                np.testing.assert_equal(mine.target, theirs.target)


def test_killed_and_resumed_it_ends_alike(config: Path, tmp_path: Path) -> None:
    planned = [resume.Kill("round", 0.5), resume.Kill("writing", 0.4)]
    assert in_fresh_process(resume.differing_of, config, planned, tmp_path) == []
