"""`umedpt medmnist`, and its figures beside those of the sets' own evaluator."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import WIDTHS, spec_of

from umedpt_lightning.cli import main
from umedpt_lightning.tasks import default_task
from umedpt_lightning.tasks.answers import metrics_of
from umedpt_lightning.transfer import evaluation
from umedpt_lightning.transfer.medmnist import PUBLISHED, SETS, accuracy, file_of

CONFIG = Path(__file__).parents[2] / "configs" / "transfer" / "medmnist.yaml"


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "REPLICATES", 5)


def _write(folder: Path, name: str, size: int, labels: int = 1) -> None:
    rng = np.random.default_rng(size)
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_labels"] = rng.integers(0, 3 if labels == 1 else 2, (20, labels)).astype(np.uint8)
        arrays[f"{part}_images"] = rng.integers(0, 256, (20, size, size), dtype=np.uint8)
        arrays[f"{part}_images"][:, :14, :14] //= 1 + arrays[f"{part}_labels"][:, :1, None]  # something to learn
    folder.mkdir(exist_ok=True)
    np.savez(file_of(folder, name, size), **arrays)


def _run(tmp_path: Path, *arguments: str) -> Path:
    content = yaml.safe_load(CONFIG.read_text())
    content["medmnist"]["methods"]["imagenet"]["init_args"] = {"name": "test_resnet"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    given = [
        "--config",
        str(tmp_path / "config.yaml"),
        "--root",
        str(tmp_path / "sets"),
        "--run",
        str(tmp_path / "run"),
    ]
    main(["medmnist", *given, *arguments])
    return tmp_path / "run"


def test_sets_that_are_there_are_measured_and_the_others_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = tmp_path / "sets"
    for name, size, labels in (("pathmnist", 28, 1), ("bloodmnist", 28, 1), ("chestmnist", 64, 14)):
        _write(sets, name, size, labels)
    run = _run(tmp_path)
    rows = list(csv.DictReader((run / "medmnist.csv").open()))
    assert [(row["set"], row["size"]) for row in rows] == [
        ("pathmnist", "28"),
        ("bloodmnist", "28"),
        ("chestmnist", "64"),
    ]
    shown = capsys.readouterr().out
    assert "pathmnist_64.npz" in shown
    assert "chestmnist.npz" in shown
    assert "bloodmnist.npz" not in shown
    table = (run / "medmnist.md").read_text()
    mean = [np.mean([100 * float(row[key]) for row in rows[:2]]) for key in ("accuracy", "auc")]
    assert f"{mean[0]:.2f} / {mean[1]:.2f} (2 of 12 sets)" in table
    published = PUBLISHED["ResNet-18, end to end", 28]
    assert f"{published[0]:.2f} / {published[1]:.2f}" in table
    assert "DINO" not in table, "nothing was measured at 224 pixels"

    monkeypatch.setattr("umedpt_lightning.transfer.sweep.Sweep._measure", lambda *_: pytest.fail("run again"))
    _run(tmp_path)
    assert (run / "medmnist.md").read_text() == table


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="sets holds none of the 12 sets"):
        _run(tmp_path)


@pytest.mark.parametrize(("name", "columns"), [("pneumoniamnist", 2), ("bloodmnist", 8), ("chestmnist", 14)])
def test_the_figures_are_those_of_the_sets_own_evaluator(name: str, columns: int, tmp_path: Path) -> None:
    evaluator = pytest.importorskip("medmnist.evaluator")
    rng = np.random.default_rng(0)
    several = name == "chestmnist"
    labels = rng.integers(0, 2 if several else columns, (300, columns if several else 1))
    stated = rng.random((300, columns)).astype(np.float32)
    stated[np.arange(300), labels[:, 0]] += 0.3
    if not several:
        stated /= stated.sum(1, keepdims=True)
    np.savez(tmp_path / f"{name}.npz", test_labels=labels)
    theirs = evaluator.Evaluator(name, "test", root=str(tmp_path)).evaluate(stated)
    targets = labels if several else labels[:, 0]
    spec = spec_of("multilabel" if several else "class", count=columns)
    outputs = torch.from_numpy(stated if several else np.log(stated))  # of labels only the order counts
    found = metrics_of(default_task(spec, "x")(spec, WIDTHS), outputs, torch.from_numpy(targets))
    assert (accuracy(stated, targets), found["auroc"]) == pytest.approx((theirs.ACC, theirs.AUC), abs=1e-6)


def test_the_sets_are_those_of_the_package() -> None:
    info = pytest.importorskip("medmnist.info").INFO
    assert set(SETS) == {name for name in info if not name.endswith("3d")}
    assert [name for name in SETS if info[name]["task"].startswith("multi-label")] == ["chestmnist"]
