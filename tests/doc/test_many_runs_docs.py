"""Searches that the page on many runs shows, as their agents start them, without a network."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
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
    assert not utils.sweep_config_err_text_from_jsonschema_violations([])
    sweep = utils.load_sweep_config(str(SWEEP))
    assert sweep is not None
    assert sweep["metric"]["name"] == "val/score"


def ends(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The first and the last value of each parameter."""
    values = {name: said.get("values") or [said["min"], said["max"]] for name, said in parameters.items()}
    return [{name: {"value": one[place]} for name, one in values.items()} for place in (0, -1)]


def test_an_agent_of_weights_and_biases_starts_runs_that_log_the_score(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(SWEEP.read_text())
    for number, values in enumerate(ends(sweep["parameters"])):
        filled = utils.create_sweep_command_args({"args": values}) | {"program": [sweep["program"]]}
        words = [
            filled[word[2:-1]] if word.startswith("${") else [word]
            for word in utils.create_sweep_command(list(sweep["command"]))
        ]
        program, *arguments = itertools.chain.from_iterable(words)
        assert program == "umedpt"
        arguments[arguments.index("configs/demo.yaml")] = str(project / "config.yaml")
        run = tmp_path / str(number)
        main([*arguments, "--run", str(run), "--trainer.max_epochs", "1", "--data.steps_per_epoch", "1"])
        rate = yaml.safe_load((run / "config.yaml").read_text())["model"]["optimization"]["learning_rate"]
        assert rate == values["model.optimization.learning_rate"]["value"]
        assert "val/score" in (run / "metrics.csv").read_text()
    assert len([*tmp_path.glob("wandb/offline-run-*")]) == 2


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
