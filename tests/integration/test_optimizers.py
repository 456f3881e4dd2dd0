"""Optimizers, schedules and groups by class_path, in a whole run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import MemoryReader, small_encoder, trainer_of
from lightning.pytorch.cli import ReduceLROnPlateau

from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization, ParameterGroups


def test_all_of_it_comes_from_a_config_and_a_file_of_ones_own(config: dict[str, Any], tmp_path: Path) -> None:
    config["model"] |= {
        "optimization": {
            "optimizer": {"class_path": "own_training.SignDescent", "init_args": {"lr": 0.01}},
            "lr_scheduler": {"class_path": "own_training.Staircase", "init_args": {"every": 1}},
            "groups": {"class_path": "own_training.HeadsTwiceAsFast"},
            "clip": None,
        },
        "weighting": {"class_path": "own_training.SlowestFirst", "init_args": {"power": 2.0}},
        "aggregator": {"class_path": "own_training.KeepTasksApart"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    options = ["--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1", "--trainer.limit_val_batches", "0"]
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run"), *options])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert [float(row["train/learning_rate"]) for row in rows] == [0.02, 0.01, 0.005]
    assert all(row[f"train/{task}/weight"] for row in rows for task in config["data"]["tasks"])
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["aggregator"] == {"rounds": 3}
    assert saved["weighting"].keys() == {"means", "last", "rounds"}
    groups = saved["optimizer_states"][0]["param_groups"]
    assert {name.split(".")[1] for name in groups[0]["param_names"]} == {"tasks"}


@pytest.mark.parametrize(
    ("optimization", "words"),
    [
        ({"optimizer": {"class_path": "torch.optim.LBFGS"}}, "optimization.optimizer: LBFGS evaluates the loss"),
        ({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": -1}}}, "Invalid learning rate: -1"),
        ({"optimizer": {"class_path": "torch.optim.SGD"}, "learning_rate": 0.1}, "would have no effect"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    optimization: dict[str, Any], words: str, config: dict[str, Any], tmp_path: Path
) -> None:
    config["model"]["optimization"] = optimization
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as found:
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")])
    assert words in str(found.value)


def plateau_of(**options: Any) -> tuple[MultiTaskModule, MultiTaskDataModule]:
    reader = MemoryReader("class")
    data = MultiTaskDataModule({"a": TaskData(train=reader, val=reader, batch_size=2)}, num_workers=0)

    def schedule(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, patience=0, factor=0.5, **options)

    optimization = Optimization(learning_rate=1e-30, lr_scheduler=schedule)
    return MultiTaskModule(data.specs, small_encoder(), optimization=optimization), data


def test_a_plateau_is_looked_for_after_each_validation() -> None:
    module, data = plateau_of(monitor="val/a/loss")
    trainer = trainer_of(max_epochs=4, limit_val_batches=1.0)
    trainer.fit(module, data)  # nothing is learnt, so that the loss stays as it is
    assert trainer.global_step == 12
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-30 * 0.5**3)


@pytest.mark.parametrize(
    ("monitor", "validation", "words"),
    [
        ("val/a/los", 1.0, r"goes by val/a/los .*no such metric\. Alike are val/a/loss"),
        ("val/score", 0.0, r"goes by val/score after each validation, but there is none"),
    ],
)
def test_a_plateau_that_cannot_be_seen_is_refused(monitor: str, validation: float, words: str) -> None:
    module, data = plateau_of(monitor=monitor)
    with pytest.raises(ValueError, match=words):
        trainer_of(max_epochs=1, limit_val_batches=validation).fit(module, data)


def test_frozen_stages_stay_bit_by_bit_through_validations_and_the_others_learn() -> None:
    reader = MemoryReader("class")
    data = MultiTaskDataModule({"a": TaskData(train=reader, val=reader, batch_size=2)}, num_workers=0)
    optimization = Optimization(learning_rate=0.01, groups=ParameterGroups(frozen_stages=3, layer_decay=0.5))
    module = MultiTaskModule(data.specs, small_encoder("test_resnet"), optimization=optimization)
    stages = [{name for name, _ in stage} for stage in module.model.encoder.parameter_stages()]
    frozen = {name.rpartition(".")[0] for stage in stages[:3] for name in stage}
    before = {name: value.clone() for name, value in module.model.encoder.state_dict().items()}
    trainer_of(max_epochs=2, limit_val_batches=1.0).fit(module, data)
    for name, value in module.model.encoder.state_dict().items():
        layer = name.rpartition(".")[0]
        assert torch.equal(value, before[name]) == (layer in frozen), name
