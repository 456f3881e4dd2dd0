"""Which round counts: early stopping, the best checkpoint of all and of each task, averaged weights, the same twice."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import MemoryReader, small_encoder, trainer_of

from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule

TASKS = {"sizes": "auroc", "squares": "dice", "position": "r2"}

Fit = Callable[..., Path]


@pytest.fixture
def fit(config: dict[str, Any], tmp_path: Path) -> Fit:
    """Trains three tasks with some callbacks and options; returns the run's folder."""

    def run(name: str = "run", callbacks: list[dict[str, Any]] | None = None, arguments: tuple[str, ...] = ()) -> Path:
        config["data"]["tasks"] = {task: config["data"]["tasks"][task] for task in TASKS}
        config["trainer"] |= {"callbacks": callbacks or [], "max_epochs": 2}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
        main(["fit", "--config", str(tmp_path / f"{name}.yaml"), "--run", str(tmp_path / name), *arguments])
        return tmp_path / name

    return run


def metrics(run: Path, key: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


def test_a_run_stops_early_by_the_metric_of_one_task(fit: Fit) -> None:
    stop = callback("EarlyStopping", monitor="val/squares/dice_square", mode="max", patience=1, min_delta=10.0)
    run = fit(callbacks=[stop], arguments=("--trainer.max_epochs", "9"))
    assert len(metrics(run, "val/score")) == 2, "the first validation, and one that was no better"


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("EarlyStopping", "val/squares/dise", "val/squares/dice"),
        ("ModelCheckpoint", "val/square/dice", "val/squares/dice"),
    ],
)
def test_a_metric_that_will_not_be_there_is_told_before_the_first_round(
    fit: Fit, tmp_path: Path, name: str, wrong: str, right: str
) -> None:
    with pytest.raises(
        SystemExit, match=rf"^umedpt: error: {name} monitors {wrong}, but there will be no such metric.*{right}"
    ):
        fit(callbacks=[callback(name, monitor=wrong)])
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"max_steps": 1}, True),
        ({"max_epochs": 1, "check_val_every_n_epoch": 2}, True),
        ({"max_steps": 1, "val_check_interval": 1}, False),
        ({"max_steps": 1, "limit_val_batches": 0}, False),
        ({"max_epochs": 1}, False),
    ],
)
def test_a_run_that_ends_before_its_first_validation_is_told_so_at_the_start(
    recwarn: pytest.WarningsRecorder, options: dict[str, Any], warned: bool
) -> None:
    reader = MemoryReader("class")
    data = MultiTaskDataModule({"a": TaskData(train=reader, val=reader)}, num_workers=0, steps_per_epoch=3)
    trainer_of(**{"limit_val_batches": 1, "num_sanity_val_steps": 1, **options}).fit(
        MultiTaskModule(data.specs, small_encoder()), data
    )
    told = any("the first validation would be after" in str(warning.message) for warning in recwarn)
    assert told == warned


def test_each_task_keeps_its_best_checkpoint_over_an_interruption_too(fit: Fit) -> None:
    run = fit(arguments=("--best_per_task", "true"))
    main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    assert len(metrics(run, "val/score")) == 3
    folder = run / "checkpoints"
    kept = {"best.ckpt", "last.ckpt", "previous.ckpt", *(f"best_{t}.ckpt" for t in TASKS)}
    assert {file.name for file in folder.iterdir()} == kept
    for task, metric in TASKS.items():
        of_epochs = metrics(run, f"val/{task}/{metric}")
        saved = torch.load(folder / f"best_{task}.ckpt", weights_only=True)
        assert saved["epoch"] == of_epochs.index(max(of_epochs))
    main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "best_squares"])
    found = json.loads((run / "metrics.json").read_text())["val"]["metrics"]
    assert found["squares/dice"] == pytest.approx(max(metrics(run, "val/squares/dice")), abs=1e-5)


def test_averaged_weights_by_config_are_validated_saved_and_tested(fit: Fit) -> None:
    run = fit(callbacks=[callback("EMAWeightAveraging", decay=0.9)])
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    head = "model.tasks.sizes.head.weight"
    assert not torch.equal(saved["state_dict"][head], saved["current_model_state"][head])
    during = json.loads((run / "metrics.json").read_text())["val"]["metrics"]
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", "best"]
    main(["validate", *config])
    after = json.loads((run / "metrics.json").read_text())["val"]["metrics"]
    assert after == pytest.approx(during, abs=1e-5, nan_ok=True)
    main(["test", *config])
    assert "test" in json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_seed_gives_the_same_run_twice(fit: Fit, workers: int) -> None:
    options = ("--data.num_workers", str(workers), "--trainer.max_epochs", "1")
    runs = [fit(name, arguments=options) for name in ("one", "two")]
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs]
    assert all(torch.equal(value, states[1]["state_dict"][name]) for name, value in states[0]["state_dict"].items())
    logged = []
    for run in runs:
        with (run / "metrics.csv").open() as file:
            logged.append([{k: v for k, v in row.items() if "per_second" not in k} for row in csv.DictReader(file)])
    assert logged[0] == logged[1]
    other = fit("other", arguments=(*options, "--seed_everything", "1"))
    assert metrics(other, "train/loss") != metrics(runs[0], "train/loss")
