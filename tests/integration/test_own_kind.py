"""Label kinds of a user's own, each with its head in one file outside the package, through every command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import own_kind
import pytest
import yaml
from PIL import Image

from umedpt_lightning.app.service import AppService, Query
from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.transfer import evaluation

CLASSES = [f"own_kind.{name}" for name in ("LandmarkSpec", "LandmarkTask", "RiseSpec", "RiseTask")]


@pytest.fixture(scope="module")
def own_config(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes, and two kinds that the package does not know."""
    content: dict[str, Any] = yaml.safe_load((project / "config.yaml").read_text())
    tasks = {"sizes": content["data"]["tasks"]["sizes"]}
    for name, reader in (("points", "LandmarkReader"), ("rise", "RiseReader")):
        tasks[name] = {
            part: {"class_path": f"own_kind.{reader}", "init_args": {"folder": f"${{root}}/{part}/images"}}
            for part in ("train", "val", "test")
        } | {"batch_size": 4}
    tasks["points"]["cache"] = tasks["rise"]["cache"] = "ram"
    content["data"]["tasks"] = tasks
    content["model"]["tasks"] = {
        "points": {"class_path": "own_kind.LandmarkTask", "init_args": {"scale": 0.5}},
        "rise": {"class_path": "own_kind.RiseTask"},
    }
    file = tmp_path_factory.mktemp("own") / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def run(own_config: Path) -> Path:
    folder = own_config.parent / "run"
    main(["fit", "--config", str(own_config), "--run", str(folder)])
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    folder = run.parent / "exported"
    main(["export", "--run", str(run), "--out", str(folder), "--classes", *CLASSES])
    return folder


@pytest.fixture(scope="module")
def model(exported: Path) -> MultiTaskModel:
    classes = [getattr(own_kind, path.rpartition(".")[2]) for path in CLASSES]
    return MultiTaskModel.from_pretrained(exported, classes=classes)


def test_data_are_checked_and_drawn(own_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "check", "--config", str(own_config), "--json", str(tmp_path / "check.json")])
    assert "points: LandmarkSpec, 1 channel" in capsys.readouterr().out
    assert json.loads((tmp_path / "check.json").read_text())["errors"] == 0
    main(["data", "preview", "--config", str(own_config), "--out", str(tmp_path)])
    for task in ("points", "rise"):
        assert np.asarray(Image.open(tmp_path / f"{task}.png")).std() > 0


def test_a_run_has_their_metrics_and_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("points", "rise"):
        assert np.asarray(Image.open(run / "pictures" / f"val_{task}.png")).std() > 0
    main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", "best"])
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", "best"])
    shown = capsys.readouterr()
    assert "No picture of task" not in shown.err
    report = json.loads((run / "metrics.json").read_text())
    for part in ("val", "test"):
        assert report[part]["metrics"]["points/nearness"] is not None
        assert report[part]["metrics"]["rise/fit"] is not None
        assert not any(key.startswith(("points", "rise")) for key in report[part]["baseline"])
    assert (run / "pictures" / "test_points.png").is_file()


def test_a_run_goes_on(run: Path) -> None:
    main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert sum(bool(row["train/points/loss"]) for row in rows) == 9


def test_without_a_head_the_config_is_told_the_mend(own_config: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(own_config.read_text())
    del content["model"]["tasks"]["points"]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit, match=r"'points' has targets of the kind LandmarkSpec.*model\.tasks\.points"):
        main(["fit", "--config", str(file), "--run", str(tmp_path / "run")])


def test_predictions_are_tabled_and_drawn(project: Path, exported: Path, model: MultiTaskModel, tmp_path: Path) -> None:
    inputs = project / "test" / "images"
    arguments = ["--inputs", str(inputs), "--out", str(tmp_path), "--overlays", "--num_workers", "0"]
    main(["predict", "--model", str(exported), *arguments, "--classes", *CLASSES])
    points = {row["id"]: row for row in csv.DictReader((tmp_path / "points.csv").open())}
    rise = {row["id"]: row for row in csv.DictReader((tmp_path / "rise.csv").open())}
    for file in inputs.iterdir():
        image = np.array(Image.open(file))
        found = model.predict([image], "points")[0].flatten().tolist()
        columns = ("middle_x", "middle_y", "corner_x", "corner_y")
        assert [float(points[file.name][name]) for name in columns] == pytest.approx(found, rel=1e-4)
        assert float(rise[file.name]["height"]) == pytest.approx(
            float(model.predict([image], "rise")[0].height), rel=1e-3
        )
        for task in ("points", "rise"):
            assert (tmp_path / "overlays" / task / f"{file.stem}.png").is_file()


def test_images_are_embedded(project: Path, exported: Path, tmp_path: Path) -> None:
    arguments = ["--inputs", str(project / "test" / "images"), "--out", str(tmp_path / "e.npy"), "--task", "points"]
    main(["embed", "--model", str(exported), *arguments, "--classes", *CLASSES])
    assert len(np.load(tmp_path / "e.npy")) == 6


@pytest.mark.parametrize("task", ["points", "rise"])
def test_a_new_task_of_the_kind_is_learned(
    own_config: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "REPLICATES", 3)
    content = yaml.safe_load(own_config.read_text())
    protocol = {
        "name": "new",
        "data": {key: value for key, value in content["data"]["tasks"][task].items() if key != "cache"},
        "methods": {"random": {"class_path": "TimmSource", "init_args": {"name": "test_efficientnet_gn"}}},
        "fractions": [0.5],
        "seeds": 1,
        "modes": ["frozen", "knn", "finetune"] if task == "points" else ["frozen", "finetune"],
        "task": content["model"]["tasks"][task],
        "finetuning": {"steps": 2, "evaluations": 1, "learning_rates": [0.001]},
    }
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"root": str(project), "transfer": protocol}))
    main(["transfer", "--config", str(tmp_path / "t.yaml"), "--run", str(tmp_path / "run")])
    rows = list(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    assert [row["mode"] for row in rows] == protocol["modes"]
    assert all(float(row["nearness" if task == "points" else "fit"]) for row in rows)
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "best.png").is_file() == (task == "points"), "maps are not kept"


def test_the_page_answers(model: MultiTaskModel, project: Path) -> None:
    page = AppService(model).answers(str(project / "test" / "images" / "0.png"), Query(["points", "rise"]))
    assert "could not be computed" not in page
    for words in ("points", "middle_x", "rise", "height", "slope_mean"):
        assert words in page
