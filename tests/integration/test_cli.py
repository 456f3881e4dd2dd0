"""The command line on a small project: what a run leaves, and what a wrong config is told."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from umedpt_lightning.cli import COMMANDS, main

TASKS = ("sizes", "places", "position", "squares", "boxes")


def _fit(config: Path, run: Path, *arguments: str) -> None:
    main(["fit", "--config", str(config), "--run", str(run), *arguments])


def _metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    _fit(project / "config.yaml", folder, "--map.every", "null", "--trainer.max_epochs", "2")
    return folder


def test_a_run_leaves_config_metrics_pictures_and_checkpoints(run: Path) -> None:
    assert {p.name for p in (run / "pictures").iterdir()} == {
        "schedule.png",
        "tasks.png",
        *(f"val_{task}.png" for task in TASKS),
    }
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    for task in TASKS:
        assert np.asarray(Image.open(run / "pictures" / f"val_{task}.png")).std() > 0
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["run"] == str(run)
    assert "${root}" not in (run / "config.yaml").read_text()


def test_losses_and_metrics_of_every_task_are_logged(run: Path) -> None:
    rows = _metrics(run)
    for task in TASKS:
        assert sum(bool(row[f"train/{task}/loss"]) for row in rows) == 6, "two epochs of three rounds"
        assert sum(bool(row[f"val/{task}/loss"]) for row in rows) == 2
    for key in ("train/loss", "train/learning_rate", "train/gradient_norm", "train/samples_per_second", "val/score"):
        assert any(row[key] for row in rows), key


def test_metrics_json_has_the_metrics_of_the_best_round_beside_the_majority_baselines(run: Path) -> None:
    report = json.loads((run / "metrics.json").read_text())["val"]
    best = max(float(row["val/score"]) for row in _metrics(run) if row["val/score"])
    assert report["score"] == pytest.approx(best)
    mains = {"sizes": "auroc", "places": "auroc", "position": "r2", "squares": "dice", "boxes": "map50"}
    assert report["score"] == pytest.approx(np.mean([report["metrics"][f"{t}/{m}"] for t, m in mains.items()]))
    assert report["baseline"]["sizes/auroc"] == 0.5
    assert report["baseline"]["squares/dice"] == 0
    assert report["baseline"]["boxes/map50"] == 0


def test_test_and_validate_run_from_the_saved_config(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", "best"])
    assert "baseline" in capsys.readouterr().out
    main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "best"])
    report = json.loads((run / "metrics.json").read_text())
    assert set(report) == {"val", "test"}
    assert (run / "pictures" / "test_boxes.png").is_file()


@pytest.mark.parametrize("chosen", [["--ckpt_path", "best"], []], ids=["best", "none asked for"])
def test_validation_of_the_best_checkpoint_gives_the_metrics_it_was_saved_with(run: Path, chosen: list[str]) -> None:
    before = json.loads((run / "metrics.json").read_text())["val"]
    main(["validate", "--config", str(run / "config.yaml"), *chosen])
    after = json.loads((run / "metrics.json").read_text())["val"]
    assert after["metrics"] == pytest.approx(before["metrics"], abs=1e-5, nan_ok=True)


def test_weights_that_nothing_has_trained_are_told(project: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no checkpoint in .*empty: .* the config begins with\. Give trained ones"):
        main(["validate", "--config", str(project / "config.yaml"), "--run", str(tmp_path / "empty")])


def test_predict_takes_a_run_or_a_checkpoint_as_the_model(project: Path, run: Path, tmp_path: Path) -> None:
    for out, model in (("of_run", run), ("of_file", run / "checkpoints" / "best.ckpt")):
        inputs = ["--inputs", str(project / "test" / "images"), "--out", str(tmp_path / out), "--device", "cpu"]
        main(["predict", "--model", str(model), *inputs])
        assert all((tmp_path / out / f"{task}.csv").is_file() for task in TASKS)
    assert (tmp_path / "of_run" / "sizes.csv").read_bytes() == (tmp_path / "of_file" / "sizes.csv").read_bytes()


def test_an_interrupted_run_goes_on_and_appends_to_its_metrics(project: Path, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = project / "config.yaml"
    _fit(config, folder, "--ckpt_path", "last")  # nothing to go on from: starts
    assert len([row for row in _metrics(folder) if row["val/score"]]) == 1
    _fit(config, folder, "--ckpt_path", "last", "--trainer.max_epochs", "2")
    rows = _metrics(folder)
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(6))
    assert len([row for row in rows if row["val/score"]]) == 2
    assert len(list(folder.glob("config*.yaml"))) == 2


def test_a_second_run_into_the_same_folder_is_refused(project: Path, run: Path) -> None:
    before = (run / "metrics.csv").read_bytes()
    with pytest.raises(SystemExit, match=r"already holds a run.*--ckpt_path last"):
        _fit(project / "config.yaml", run)
    assert (run / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(tasks={"size": {"class_path": "Classification"}}), r"model\.tasks\.size.*sizes"),
        (lambda c: c["model"].update(weights={"box": 2}), r"model\.weights\.box.*boxes"),
        (lambda c: c["data"]["tasks"].update(empty={}), r"data\.tasks\.empty has no data"),
        (lambda c: c["data"]["tasks"].update({"a.b": c["data"]["tasks"]["boxes"]}), r"a\.b.*Rename"),
        (
            lambda c: c["data"]["tasks"]["boxes"]["val"]["init_args"].update(annotations="none.json"),
            r"data\.tasks\.boxes\.val: .*none\.json",
        ),
        (
            lambda c: c["data"]["tasks"]["sizes"]["train"]["init_args"].update(split="trian"),
            r"data\.tasks\.sizes\.train: .*trian.*train",
        ),
        (
            lambda c: c["data"]["tasks"]["places"]["val"]["init_args"].update(labels=["left", "low", "label"]),
            r"data\.tasks\.places\.val: 6 faults; `umedpt data check` names all:\n.*line 14: label is ",
        ),
        (lambda c: c["model"]["encoder"]["init_args"].update(name="resnet81"), r"model\.encoder: .*resnet81.*resnet18"),
        (lambda c: c["data"].update(tasks={}), r"no task"),
        (
            lambda c: [task.pop("val") for task in c["data"]["tasks"].values()],
            r"No task has a val part: .*<name>\.val, or train without validation: --trainer\.limit_val_batches 0",
        ),
        (lambda c: [task.pop("train") for task in c["data"]["tasks"].values()], r"No task has a train part"),
    ],
)
def test_a_wrong_config_is_told_with_key_and_mend(
    config: dict[str, Any], tmp_path: Path, change: Any, message: str
) -> None:
    change(config)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=message):
        _fit(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["/proc/run", "/dev/null/run", "FILE/run", "FILE"])
def test_a_run_that_cannot_be_written_is_told(project: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    folder = Path(place.replace("FILE", str(tmp_path / "file")))
    with pytest.raises(SystemExit, match=rf"--run {folder}: this folder cannot be written to \(.*Give another one"):
        _fit(project / "config.yaml", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data"]["tasks"]["boxes"].update(batch_size="many"), "batch_size"),
        (lambda c: c["data"]["tasks"]["sizes"]["train"]["init_args"]["table"].update(grup="x"), "'grup' is not accept"),
        (lambda c: c["data"]["tasks"]["boxes"].update(batchsize=4), "batchsize"),
        (lambda c: c["model"].update(optimisation={"clip": 1}), "optimisation"),
        (lambda c: c["trainer"].update(max_epoch=3), "max_epoch"),
    ],
)
def test_unknown_keys_and_wrong_types_are_told(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    change(config)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        _fit(file, tmp_path / "run")
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.optimization.clip=.nan", r"model\.optimization\.clip is \.nan"),
        ("--model.weights={sizes: .nan}", r"model\.weights\.sizes is \.nan"),
        ("--last.minutes=.nan", r"last\.minutes is \.nan"),
        ("--model.optimization.weight_decay=-1", r"model\.optimization\.optimizer cannot be built: .*-1"),
        ("--seed_everything=-1", r"seed_everything: -1 is not in bounds"),
        ("--init_from=", r"--init_from is empty"),
        # str or Path, which of the two comes first depends on what was imported before: an empty Path is "."
        ("--ckpt_path=", r"--ckpt_path( is empty|: there is no checkpoint \.)"),
        ("--run=", r"--run is empty"),
        ("--data.num_workers=-1", r"data\.num_workers must be 0 or more, but it is -1"),
        ("--data.tasks.sizes.size=-32", r"data\.tasks\.sizes\.size must be positive"),
        ("--trainer.devices=-1", r"trainer \(accelerator cpu, devices -1\): "),
        ("--trainer.val_check_interval=0", r"trainer\.val_check_interval is 0, but it must be positive"),
        ("--trainer.check_val_every_n_epoch=0", r"trainer\.check_val_every_n_epoch is 0, but it must be positive"),
        ("--trainer.max_epochs=0", r"trainer\.max_epochs is 0: nothing would be trained"),
    ],
)
def test_a_value_that_makes_no_sense_is_told_in_a_line(
    project: Path, tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=rf"umedpt: error: {message}"):
        _fit(project / "config.yaml", tmp_path / "run", option)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(trainer=None), "trainer: nothing stands under it"),
        (lambda c: c.update(pictures=None), "pictures: nothing stands under it"),
        (lambda c: c["data"].update(num_workers=None), r"data\.num_workers is null, but it needs a value"),
        (lambda c: c["data"].update(schedule=None), r"data\.schedule is null, but it needs a value"),
    ],
)
def test_nothing_where_a_value_is_needed_is_told(
    config: dict[str, Any], tmp_path: Path, change: Any, message: str
) -> None:
    change(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=f"umedpt: error: {message}"):
        _fit(tmp_path / "config.yaml", tmp_path / "run")


def test_options_on_the_command_line_win_over_the_config(project: Path, tmp_path: Path) -> None:
    changed = (
        "--trainer.max_epochs",
        "1",
        "--model.optimization.learning_rate",
        "0.5",
        "--checkpoint.filename",
        "{epoch}",
    )
    _fit(project / "config.yaml", tmp_path / "run", *changed)
    assert max(int(row["step"]) for row in _metrics(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "checkpoints" / "epoch=0.ckpt").exists()
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["optimization"]["learning_rate"] == 0.5
    )


def test_they_win_wherever_they_stand(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ["--trainer.max_epochs", "7", "--model.optimization.learning_rate=0.5", "--model.weights.sizes", "-1"]
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *first, "--config", str(project / "config.yaml"), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["model"]["optimization"]["learning_rate"] == 0.5
    assert printed["model"]["weights"] == {"sizes": -1.0}


def test_help_lists_every_command_and_imports_no_library() -> None:
    code = "import sys; from umedpt_lightning.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'lightning', 'timm', 'albumentations', 'wandb') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("[]")
    assert all(command in shown for command in COMMANDS)


def test_bf16_mixed_runs_to_the_end(project: Path, tmp_path: Path) -> None:
    _fit(project / "config.yaml", tmp_path / "run", "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1")
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert np.isfinite(report["val"]["score"])


@pytest.mark.slow
def test_two_processes_run_to_the_end_with_the_metrics_of_one(project: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(project / "config.yaml"), "--run", str(tmp_path / "run")]
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "2"]
    command = [sys.executable, "-m", "umedpt_lightning"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "fit", *arguments, *ddp], check=True, env=environment, timeout=300)
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    consumed = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["consumed"]
    assert consumed == dict.fromkeys(TASKS, 2 * 6 * 4), "two ranks, six rounds, batches of four"

    validate = ["validate", "--config", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", "last"]
    subprocess.run([*command, *validate], check=True, env=environment, timeout=300)
    two = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    main([*validate, "--trainer.devices", "1", "--trainer.strategy", "auto"])
    one = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    # a loss is a mean over micro-batches, and the ranks cut them differently
    metrics = [{k: v for k, v in report["metrics"].items() if not k.endswith("/loss")} for report in (one, two)]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5, nan_ok=True)
    assert two["baseline"] == pytest.approx(one["baseline"], abs=1e-5, nan_ok=True)


def test_options_of_heads_weights_and_callbacks_reach_the_run(config: dict[str, Any], tmp_path: Path) -> None:
    config["model"]["tasks"] = {
        "sizes": {"class_path": "Classification", "init_args": {"class_weights": "balanced", "label_smoothing": 0.1}},
        "squares": {"class_path": "Segmentation", "init_args": {"loss": "ce"}},
    }
    config["model"]["weights"] = {"boxes": 0.5}
    impossible = {"monitor": "val/score", "mode": "max", "patience": 1, "min_delta": 10.0}
    config["trainer"] |= {"max_epochs": 9, "callbacks": [{"class_path": "EarlyStopping", "init_args": impossible}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    _fit(tmp_path / "config.yaml", tmp_path / "run")
    rows = _metrics(tmp_path / "run")
    assert len([row for row in rows if row["val/score"]]) == 2, "the first validation, and one that was no better"
    row = next(row for row in rows if row["train/loss"])
    weights = {task: 0.5 if task == "boxes" else 1.0 for task in TASKS}
    mean = sum(weights[task] * float(row[f"train/{task}/loss"]) for task in TASKS) / sum(weights.values())
    assert float(row["train/loss"]) == pytest.approx(mean, rel=1e-5)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["tasks"]
    assert saved["sizes"]["init_args"]["label_smoothing"] == 0.1
