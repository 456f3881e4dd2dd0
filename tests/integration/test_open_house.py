"""An own label kind, encoder, weighting, optimizer and reader, each in a file outside the package, in every command."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from own_encoder import TwoMaps
from own_kind import LandmarkSpec, LandmarkTask
from PIL import Image

from umedpt_lightning import MultiTaskModel
from umedpt_lightning.app.service import AppService, Query
from umedpt_lightning.cli import main

SOURCE = Path(__file__).resolve().parents[2] / "src"
OWN = ("own_kind.LandmarkTask", "own_kind.LandmarkSpec", "own_encoder.TwoMaps")


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The folder with a user's own files, which `umedpt` itself adds where a command is run from it."""
    folder = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A config of a user's own parts beside one of the package's label kinds, and the run that it gives."""
    folder = tmp_path_factory.mktemp("own")
    landmarks = {
        part: {"class_path": "own_kind.LandmarkReader", "init_args": {"folder": str(project / part / "images")}}
        for part in ("train", "val", "test")
    }
    given = yaml.safe_load((project / "config.yaml").read_text())
    config: dict[str, Any] = {
        "root": str(project),
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False},
        "model": {
            "encoder": {"class_path": "own_encoder.TwoMaps", "init_args": {"in_channels": 1}},
            "tasks": {"landmarks": {"class_path": "own_kind.LandmarkTask", "init_args": {"scale": 0.5}}},
            "weighting": {"class_path": "own_training.SlowestFirst", "init_args": {"power": 0.5}},
            "optimization": {
                "optimizer": {"class_path": "own_training.SignDescent", "init_args": {"lr": 0.002}},
                "lr_scheduler": {"class_path": "own_training.Staircase", "init_args": {"every": 4}},
            },
        },
        "data": {
            "num_workers": 0,
            "steps_per_epoch": 3,
            "tasks": {"landmarks": landmarks | {"batch_size": 4}, "sizes": given["data"]["tasks"]["sizes"]},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(folder / "config.yaml"), "--run", str(folder / "run")])
    return folder


def test_no_line_of_the_package_knows_them() -> None:
    names = ("Landmark", "own_kind", "own_encoder", "own_training", "TwoMaps", "SlowestFirst", "SignDescent")
    text = "".join(file.read_text() for file in SOURCE.rglob("*.py"))
    assert [name for name in names if name in text] == []


def test_check_and_preview(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "--config", str(files / "config.yaml")])
    assert "landmarks" in capsys.readouterr().out
    main(["data", "preview", "--config", str(files / "config.yaml"), "--out", str(files / "preview")])
    assert any("landmarks" in str(file) for file in (files / "preview").rglob("*.png"))


def test_fit_with_pictures_weights_and_rates(files: Path) -> None:
    run = files / "run"
    assert (run / "pictures" / "val_landmarks.png").is_file()
    found = json.loads((run / "metrics.json").read_text())["val"]["metrics"]
    assert found["landmarks/nearness"] > 0
    with (run / "metrics.csv").open() as file:
        rates = [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert rates == pytest.approx([0.002] * 4 + [0.001] * 2)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation(command: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--config", str(files / "run" / "config.yaml"), "--ckpt_path", "best"])
    assert "nearness" in capsys.readouterr().out


def test_predictions_embeddings_and_overlays(files: Path, project: Path) -> None:
    out = files / "predictions"
    inputs = str(project / "test" / "images")
    options = ["--model", str(files / "run"), "--inputs", inputs, "--num_workers", "0", "--classes", *OWN]
    main(["predict", *options, "--out", str(out), "--overlays"])
    with next(out.rglob("*landmarks*.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(np.isfinite(float(value)) for key, value in rows[0].items() if key not in ("id", "group"))
    assert any("landmarks" in str(file) for file in out.rglob("*.png"))
    main(["embed", *options, "--task", "landmarks", "--out", str(files / "vectors.npy")])
    assert np.load(files / "vectors.npy").shape == (6, 16)


def test_export_and_from_pretrained(files: Path, project: Path) -> None:
    main(["export", "--run", str(files / "run"), "--out", str(files / "model"), "--classes", *OWN])
    classes = [LandmarkTask, LandmarkSpec, TwoMaps]
    image = np.array(Image.open(project / "test" / "images" / "0.png"))
    predicted = []
    for place in (files / "model", files / "run", files / "run" / "checkpoints" / "best.ckpt"):
        model = MultiTaskModel.from_pretrained(place, classes=classes)
        assert isinstance(model.encoder, TwoMaps)
        predicted.append(model.predict([image], "landmarks")[0])
    assert predicted[0].shape == (2, 2)
    for other in predicted[1:]:
        torch.testing.assert_close(other, predicted[0])
    with pytest.raises(ValueError, match="must be given"):
        MultiTaskModel.from_pretrained(files / "model")


def test_resumption(files: Path) -> None:
    again = ["fit", "--config", str(files / "config.yaml"), "--run", str(files / "run"), "--ckpt_path", "last"]
    main([*again, "--trainer.max_epochs", "3"])
    checkpoint = torch.load(files / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 9


def test_transfer_in_all_modes(files: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((files / "config.yaml").read_text())
    source = {
        "class_path": "PretrainedSource",
        "init_args": {"path": str(files / "run"), "classes": list(OWN)},
    }
    tasks = config["data"]["tasks"]
    for name, modes, task in (
        ("landmarks", ["frozen", "finetune"], config["model"]["tasks"]["landmarks"]),
        ("sizes", ["frozen", "knn", "finetune"], None),
    ):
        transfer: dict[str, Any] = {
            "data": tasks[name],
            "methods": {"own": source},
            "name": name,
            "fractions": [1.0],
            "seeds": 1,
            "modes": modes,
            "finetuning": {"steps": 4, "learning_rates": [0.001], "evaluations": 1},
        }
        if task:
            transfer["task"] = task
        (files / f"{name}.yaml").write_text(yaml.safe_dump({"root": str(project), "transfer": transfer}))
        main(["transfer", "--config", str(files / f"{name}.yaml"), "--run", str(files / f"transfer_{name}")])
        assert "own" in capsys.readouterr().out
        assert (files / f"transfer_{name}" / "report.html").is_file()


def test_the_answer_of_the_page(files: Path, project: Path) -> None:
    model = MultiTaskModel.from_pretrained(files / "run", classes=[LandmarkTask, LandmarkSpec, TwoMaps])
    service = AppService(model)
    answer = service.answers(str(project / "test" / "images" / "0.png"), Query(["landmarks"]))
    assert "landmarks" in answer
