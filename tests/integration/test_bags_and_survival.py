"""Bags and times to an event through the commands: beside masks in one training, and risks that are found again."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
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
            "encoder": reader("Encoder", name="test_efficientnet_gn"),
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


def test_wandb_gets_bags_with_their_attention_and_curves(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged: dict[str, Any] = {}
    log = wandb.Run.log
    monkeypatch.setattr(wandb.Run, "log", lambda run, row, *args: (logged.update(row), log(run, row, *args))[1])
    content = yaml.safe_load(config.read_text())
    content["trainer"] |= {"logger": reader("WandbLogger", project="patients", save_dir=str(tmp_path)), "max_epochs": 1}
    content["data"]["steps_per_epoch"] = 1
    (tmp_path / "logged.yaml").write_text(yaml.safe_dump(content))
    try:
        main(["fit", "--config", str(tmp_path / "logged.yaml"), "--run", str(tmp_path / "run")])
    finally:
        wandb.finish()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]["metrics"]
    for name in ("death/cindex", "death/brier", "months/r2", "squares/dice"):
        assert logged[f"val/{name}"] == pytest.approx(metrics[name])
    assert len(logged["pictures/val/death"]) == 4
    assert "\n" in logged["pictures/val/death"][0]._caption  # a patient, and what is said of it
    assert set(logged["pictures/val/squares"][0]._masks) == {"ground_truth", "prediction"}
    media = next(tmp_path.glob("wandb/offline-run-*/files/media/images"))
    for kind in ("pictures", "charts"):  # the chart are the curves of the groups of risk
        files = list((media / kind / "val").glob("death_*.png"))
        assert len(files) == {"pictures": 4, "charts": 1}[kind]
        assert all(np.asarray(Image.open(file)).std() > 0 for file in files)


def of_part(folder: Path, part: str, file: Path) -> Path:
    """The rows of a part as a table without truth, in another order than that of the patients."""
    rows = [row for row in csv.DictReader((folder / "images.csv").open()) if row["split"] == part]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "patient"], *([row["path"], row["patient"]] for row in rows[::-1])])
    return file


def test_files_are_predicted_and_embedded_by_the_bags_of_the_training(run: Path, folder: Path, tmp_path: Path) -> None:
    table = of_part(folder, "test", tmp_path / "table.csv")
    common = ["--model", str(run), "--inputs", str(table), "--num_workers", "0", "--batch_size", "5"]
    root = ["--root", str(folder)]
    main(["predict", *common, *root, "--out", str(tmp_path / "out"), "--overlays"])
    rows = {row["id"]: row for row in csv.DictReader((tmp_path / "out" / "death.csv").open())}
    assert len(rows) == PARTS["test"]
    images = list(csv.DictReader((tmp_path / "out" / "death.images.csv").open()))
    model = MultiTaskModel.from_pretrained(run)
    for patient, row in rows.items():
        mine = [one for one in images if one["patient"] == patient]
        assert int(row["images"]) == len(mine) == 1 + int(patient.removeprefix("test")) % 4
        assert sum(float(one["attention"]) for one in mine) == pytest.approx(1, abs=1e-5)
        pictures = [np.asarray(Image.open(folder / one["id"])) for one in mine]
        found = model.predict([pictures], "death")[0]
        assert float(row["risk"]) == pytest.approx(float(found[0]), abs=1e-5)
        assert np.asarray(Image.open(tmp_path / "out" / "overlays" / "death" / f"{patient}.png")).std() > 0
    assert len(list(csv.DictReader((tmp_path / "out" / "squares.csv").open()))) == len(images)

    columns = ["--columns", json.dumps({"root": str(folder)})]
    main(["embed", *common, *columns, "--task", "death", "--out", str(tmp_path / "e.npy")])
    vectors = np.load(tmp_path / "e.npy")
    names = [row["id"] for row in csv.DictReader((tmp_path / "e.npy.csv").open())]
    assert sorted(names) == sorted(rows)
    features = torch.from_numpy(vectors[names.index("test3")])[None]
    risk = model.eval().task("death").predict(model.task("death")(features))[0, 0].detach()
    assert float(risk) == pytest.approx(float(rows["test3"]["risk"]), abs=1e-5)


def test_folders_are_bags_and_a_bag_with_a_bad_image_is_told(run: Path, folder: Path, tmp_path: Path) -> None:
    for patient, count in (("a", 2), ("b", 3)):
        (tmp_path / "in" / patient).mkdir(parents=True)
        for turn in range(count):
            shutil.copy(folder / f"test3_{turn}.png", tmp_path / "in" / patient)
    arguments = ["--model", str(run), "--out", str(tmp_path / "out"), "--tasks", "death", "--num_workers", "0"]
    (tmp_path / "in" / "b" / "test3_1.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"1 input could not be predicted(?s:.*)test3_1\.png"):
        main(["predict", *arguments, "--inputs", str(tmp_path / "in")])
    (row,) = csv.DictReader((tmp_path / "out" / "death.csv").open())
    assert (row["id"], row["images"]) == ("a", "2")
    shutil.copy(folder / "test3_1.png", tmp_path / "in" / "b")
    main(["predict", *arguments, "--inputs", str(tmp_path / "in")])  # only what is not there yet
    assert [one["id"] for one in csv.DictReader((tmp_path / "out" / "death.csv").open())] == ["a", "b"]
    arguments[3] = str(tmp_path / "flat")
    with pytest.raises(SystemExit, match=r"Nothing says which patient .*a/test3_0\.png is of .*--group"):
        main(["predict", *arguments, "--inputs", str(tmp_path / "in" / "a")])


def test_an_exported_model_predicts_bags(run: Path, folder: Path) -> None:
    model = MultiTaskModel.from_pretrained(run)
    pictures = [np.asarray(Image.open(folder / f"test3_{turn}.png")) for turn in range(4)]
    (found,) = model.predict([pictures], "death")
    row = model.task("death").spec.row(found.numpy())
    assert list(row) == ["risk", "survival at 12 months"]
    assert 0 <= row["survival at 12 months"] <= 1


@pytest.mark.slow
def test_the_commands_of_the_page_run(run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bags.md").read_text(encoding="utf-8")
    commands = re.search(r"^```bash\n(umedpt predict.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert commands
    monkeypatch.chdir(tmp_path)
    of_part(folder, "test", folder / "unlabelled.csv")
    for line in commands[1].splitlines():
        line = line.replace("runs/outcome", str(run)).replace("images.csv", str(folder / "unlabelled.csv"))
        main(re.sub(r"(--tasks?) outcome", r"\1 death", line).split()[1:])
    assert len(Path("predictions", "death.images.csv").read_text().splitlines()) > PARTS["test"]
    assert len(np.load("patients.npy")) == PARTS["test"]
    found = {file.name for file in Path("models", "outcome", "onnx").iterdir()}
    assert found >= {"images_death.onnx", "bag_death.onnx", "bag_months.onnx", "task_squares.onnx"}


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
    # with Cox the curves' shared hazards learn more slowly than the ranks
    most = {"hazard": 0.5, "cox": 0.75}[objective] * found["baseline"]["death/brier"]
    assert found["metrics"]["death/brier"] < most
    arguments = ["--inputs", str(tmp_path / "val0_0.png"), "--out", str(tmp_path / "out"), "--num_workers", "0"]
    main(["predict", "--model", str(tmp_path / "run"), *arguments])
    (row,) = csv.DictReader((tmp_path / "out" / "death.csv").open())
    assert "risk" in row
    assert sum(name.startswith("survival at") for name in row) == 3
