"""Searches that the page on many runs shows, as their agents start them, without a network."""

from __future__ import annotations

import itertools
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps import utils

from umedpt_lightning.cli import main

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "many-runs.md").read_text(encoding="utf-8")
SWEEP = ROOT / "configs" / "sweeps" / "wandb.yaml"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_the_page_shows_the_sweep_as_it_is() -> None:
    assert blocks("yaml") == [SWEEP.read_text()]
    sweep = utils.load_sweep_config(str(SWEEP))
    assert sweep is not None
    assert sweep["metric"]["name"] == "val/score"


def command_of(sweep: dict[str, Any], place: int) -> tuple[list[str], float]:
    """What an agent starts with the first or the last value of each parameter, and the learning rate."""
    said = sweep["parameters"]
    values = {name: {"value": (one.get("values") or [one["min"], one["max"]])[place]} for name, one in said.items()}
    filled = utils.create_sweep_command_args({"args": values}) | {"program": [sweep["program"]]}
    chunks = utils.create_sweep_command(list(sweep["command"]))
    words = [filled[chunk[2:-1]] if chunk.startswith("${") else [chunk] for chunk in chunks]
    return [*itertools.chain.from_iterable(words)], values["model.optimization.learning_rate"]["value"]


@pytest.mark.slow
def test_an_agent_of_weights_and_biases_starts_a_run_that_logs_the_score(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for place, more in (-1, ["--print_config"]), (0, ["--trainer.max_epochs=1", "--data.steps_per_epoch=1"]):
        (program, *arguments), rate = command_of(yaml.safe_load(SWEEP.read_text()), place)
        assert program == "umedpt"
        arguments[arguments.index("configs/demo.yaml")] = str(project / "config.yaml")
        with pytest.raises(SystemExit, match="0") if place else nullcontext():
            main([*arguments, "--run", str(tmp_path / "run"), *more])
        text = capsys.readouterr().out if place else (tmp_path / "run" / "config.yaml").read_text()
        assert yaml.safe_load(text)["model"]["optimization"]["learning_rate"] == rate
    wandb.finish()
    assert "val/score" in (tmp_path / "run" / "metrics.csv").read_text()
    assert len([*tmp_path.rglob("offline-run-*")]) == 1


@pytest.mark.slow
def test_the_search_with_optuna_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(project)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names: dict[str, Any] = {}
    (block,) = blocks("python")
    exec(block.replace("edgenext_xx_small", "test_resnet").replace("n_trials=3", "n_trials=2"), names)
    study = names["study"]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert 0 <= study.best_value <= 1
    assert (tmp_path / "runs" / "search" / "1" / "checkpoints" / "best.ckpt").is_file()
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    study.optimize(names["objective"], n_trials=1)
    assert study.trials[-1].state.name == "PRUNED"
