"""Bags and times to an event through the commands: beside masks in one training, and risks that are found again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel

PARTS = {"train": 18, "val": 9, "test": 9}
SIDE = 32


def planted(folder: Path, parts: dict[str, int], seed: int = 0) -> Path:
    """Images of patients whose risk is how bright a square is; one to four an image each, a row an image."""
    rng = np.random.default_rng(seed)
    images, patients = [], []
    for part, count in parts.items():
        for number in range(count):
            risk = rng.random()
            time, end = np.exp(-4 * risk + 0.1 * rng.normal()) * 60, rng.uniform(5, 90)
            name = f"{part}{number}"
            patients.append([name, round(min(time, end), 3), int(time <= end)])
            for turn in range(1 + number % 4):
                image = rng.integers(0, 60, (SIDE, SIDE), dtype=np.uint8)
                mask = np.zeros_like(image)
                y, x = rng.integers(0, SIDE - 12, 2)
                image[y : y + 12, x : x + 12] = 60 + 190 * risk
                mask[y : y + 12, x : x + 12] = 1
                file = f"{name}_{turn}.png"
                Image.fromarray(image).save(folder / file)
                Image.fromarray(mask).save(folder / f"mask_{file}")
                images.append([file, f"mask_{file}", name, part, *patients[-1][1:]])
    for file, header, rows in (
        ("images.csv", ["path", "mask", "patient", "split", "months", "died"], images),
        ("patients.csv", ["patient", "months", "died"], patients),
    ):
        with (folder / file).open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])
    return folder


def reader(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


def config_of(folder: Path, tasks: dict[str, Any], epochs: int, steps: int, **data: Any) -> Path:
    content = {
        "root": str(folder),
        "trainer": {"accelerator": "cpu", "max_epochs": epochs, "log_every_n_steps": 1},
        "model": {
            "encoder": reader("Encoder", name="test_convnext"),
            "pixel_decoder": reader("PixelDecoder", channels=8),
        },
        "data": {"num_workers": 0, "steps_per_epoch": steps, "tasks": tasks, **data},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def bag_parts(of: str, columns: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    """A reader of bags for each part."""
    parts = {}
    for part in PARTS:
        images = {"table": {"file": "${root}/images.csv", "group": "patient"}, "split": part}
        inner = reader("ManifestNumbers", quantities={"months": "months"}, **images)
        told = {"table": {"file": "${root}/patients.csv", "path": "patient"}, "columns": columns} if columns else {}
        parts[part] = reader("Bags", reader=inner, of=of, **told, **options)
    return parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("planted"), PARTS)


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    survival = {"time": "months", "event": "died", "unit": "months", "times": [12]}
    masks = {
        part: reader("ManifestMasks", table="${root}/images.csv", split=part, classes=["background", "square"])
        for part in PARTS
    }
    tasks = {
        "death": bag_parts("patient", survival, max_instances=2) | {"batch_size": 6},
        "months": bag_parts("patient", None) | {"batch_size": 6, "cache": "ram"},
        "squares": masks | {"batch_size": 4},
    }
    return config_of(folder, tasks, 2, 2)


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    place = config.parent / "run"
    main(["fit", "--config", str(config), "--run", str(place)])
    return place


def test_bags_are_checked_and_drawn(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "--config", str(config), "--json", str(tmp_path / "check.json")])
    shown = capsys.readouterr().out
    assert "death: bags (patient), time to an event" in shown
    assert "images a patient" in shown
    assert json.loads((tmp_path / "check.json").read_text())["errors"] == 0
    main(["data", "preview", "--config", str(config), "--out", str(tmp_path)])
    assert np.asarray(Image.open(tmp_path / "death.png")).std() > 0


def test_bags_beside_masks_have_metrics_baselines_and_pictures(run: Path) -> None:
    report = json.loads((run / "metrics.json").read_text())["val"]
    for metric in ("death/cindex", "death/brier", "months/r2", "squares/dice"):
        assert report["metrics"][metric] is not None
        assert report["baseline"][metric] is not None
    assert report["baseline"]["death/cindex"] == 0.5
    for picture in ("val_death.png", "val_death_chart.png", "val_months.png", "val_squares.png"):
        assert np.asarray(Image.open(run / "pictures" / picture)).std() > 0


def test_an_exported_model_predicts_bags_and_says_what_it_cannot(run: Path, folder: Path, tmp_path: Path) -> None:
    model = MultiTaskModel.from_pretrained(run)
    pictures = [np.asarray(Image.open(folder / f"test3_{turn}.png")) for turn in range(4)]
    (found,) = model.predict([pictures], "death")
    row = model.task("death").spec.row(found.numpy())
    assert list(row) == ["risk", "survival at 12 months"]
    assert 0 <= row["survival at 12 months"] <= 1
    arguments = ["--inputs", str(folder / "test3_0.png"), "--out", str(tmp_path), "--task", "death"]
    with pytest.raises(SystemExit, match=r"'death' sees the images of a patient together.*MultiTaskModel\.predict"):
        main(["predict", "--model", str(run), *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["hazard", "cox"])
def test_planted_risks_are_found_again(tmp_path: Path, objective: str) -> None:
    planted(tmp_path, {"train": 300, "val": 100})
    images = {"table": "${root}/images.csv", "unit": "months", "time": "months", "event": "died"}
    task = {part: reader("ManifestSurvival", split=part, **images) for part in ("train", "val")}
    config = config_of(tmp_path, {"death": task | {"batch_size": 32}}, 6, 40)
    content = yaml.safe_load(config.read_text())
    content["model"]["tasks"] = {"death": reader("Survival", objective=objective)}
    content["model"]["optimization"] = {"learning_rate": 0.002}
    config.write_text(yaml.safe_dump(content))
    main(["fit", "--config", str(config), "--run", str(tmp_path / "run")])
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]
    assert found["metrics"]["death/cindex"] >= 0.9
    if objective == "hazard":  # with Cox the curves' shared hazards learn more slowly than the ranks
        assert found["metrics"]["death/brier"] < found["baseline"]["death/brier"] / 2
    arguments = ["--inputs", str(tmp_path / "val0_0.png"), "--out", str(tmp_path / "out"), "--num_workers", "0"]
    main(["predict", "--model", str(tmp_path / "run"), *arguments])
    (row,) = csv.DictReader((tmp_path / "out" / "death.csv").open())
    assert "risk" in row
    assert sum(name.startswith("survival at") for name in row) == 3
