"""Runs, checkpoints and model folders of the release before the open house load, resume and predict the same."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "legacy"
TASKS = ("sizes", "places", "position", "squares", "boxes")


@pytest.fixture
def legacy(tmp_path: Path, project: Path) -> Path:
    """The old run and model, with paths to the data of this test session."""
    with tarfile.open(FIXTURES / "legacy.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("DATA_FOLDER", str(project)))
    return tmp_path


def assert_predictions_are_as_they_were(model: MultiTaskModel, project: Path) -> None:
    expected = np.load(FIXTURES / "predictions.npz")
    images = [np.asarray(Image.open(project / "val" / "images" / f"{i}.png")) for i in range(3)]
    for task in TASKS:
        for i, prediction in enumerate(model.predict(images, task)):
            parts: dict[str, Any] = {f"{task}/{i}": prediction}
            if task == "boxes":
                parts = {f"{task}/{i}/{name}": getattr(prediction, name)[:20] for name in ("boxes", "scores", "labels")}
            for name, value in parts.items():
                np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_an_old_model_folder_predicts_the_same(legacy: Path, project: Path) -> None:
    assert_predictions_are_as_they_were(MultiTaskModel.from_pretrained(legacy / "model"), project)


def test_an_old_run_is_exported_and_predicts_the_same(legacy: Path, project: Path) -> None:
    main(["export", "--run", str(legacy / "run"), "--out", str(legacy / "again")])
    assert_predictions_are_as_they_were(MultiTaskModel.from_pretrained(legacy / "again"), project)


def test_an_old_run_goes_on_as_it_would_have_gone_on(legacy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = legacy / "run"
    (run / "checkpoints" / "best.ckpt").unlink()
    again = ["fit", "--config", str(run / "config.yaml"), "--run", str(run), "--ckpt_path", "last"]
    main([*again, "--trainer.enable_progress_bar", "false"])
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    expected = np.load(FIXTURES / "resumed.npz")
    state = {name: value for name, value in checkpoint["state_dict"].items() if value.is_floating_point()}
    assert expected.files
    for name in expected.files:
        if name.startswith("val_losses"):
            continue
        value = state[name].double().flatten()
        found = [value.mean(), value.norm(), *value[:: max(1, len(value) // 6)][:6]]
        np.testing.assert_allclose(np.array(found), expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_old_run_is_evaluated(legacy: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = legacy / "run"
    main([command, "--config", str(run / "config.yaml"), "--run", str(run), "--ckpt_path", "best"])
    assert "squares" in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["weights"] == {"places": 0.5}
