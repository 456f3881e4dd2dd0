"""Every option and callback of Lightning works in a run of rounds, or is refused with what to do in its place."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch import callbacks

from umedpt_lightning.callbacks.progress import progress
from umedpt_lightning.cli import main
from umedpt_lightning.data.loading.loaders import RoundLoader
from umedpt_lightning.runs.trainer_options import REFUSED, REFUSED_CALLBACKS, check_callbacks, check_options

Config = dict[str, Any]
BASES = {"Callback", "Checkpoint", "BackboneFinetuning"}  # the last is one of BaseFinetuning
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "trainer.md").read_text()


@pytest.fixture
def small(config: Config) -> Config:
    """One task, an epoch of three rounds, no bar."""
    config["data"]["tasks"] = {"sizes": config["data"]["tasks"]["sizes"]}
    config["model"] = {"encoder": {"class_path": "Encoder", "init_args": {"name": "test_efficientnet_gn"}}}
    config["trainer"] |= {"max_epochs": 1, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    return config


def fit(config: Config, tmp_path: Path, *options: str) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run"), *options])
    return tmp_path / "run"


def test_the_page_tells_of_all_options_and_all_callbacks() -> None:
    options = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    told = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert told.keys() == options | (set(callbacks.__all__) - BASES)
    refused = {name: mend for name, (_, mend) in REFUSED.items()} | dict(REFUSED_CALLBACKS)
    assert {name: told[name] for name in refused} == refused


VALUES: dict[str, str] = {
    "accumulate_grad_batches": "2",
    "gradient_clip_val": "1.0",
    "gradient_clip_algorithm": "value",
    "use_distributed_sampler": "true",
    "reload_dataloaders_every_n_epochs": "1",
    "sync_batchnorm": "true",
    "barebones": "true",
    "limit_predict_batches": "1",
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_means_nothing_here_is_refused_with_the_mend(option: str, small: Config, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(small, tmp_path, f"--trainer.{option}={VALUES[option]}")
    assert f"trainer.{option} is" in str(stop.value)
    assert REFUSED[option][1] in str(stop.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_weights_of_half_precision_are_refused(precision: str, small: Config, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"trainer\.precision is {precision}.* Use bf16-mixed"):
        fit(small, tmp_path, "--trainer.precision", precision)


def test_a_decoder_may_be_null_where_no_task_needs_it(small: Config, tmp_path: Path) -> None:
    small["model"]["pixel_decoder"] = None
    assert (fit(small, tmp_path) / "metrics.json").is_file()


def test_a_decoder_that_is_null_is_told_where_a_task_needs_it(config: Config, tmp_path: Path) -> None:
    config["model"]["pixel_decoder"] = None
    with pytest.raises(SystemExit, match=r"needs the shared block 'pixels'.*It is null: leave that out"):
        fit(config, tmp_path)


@pytest.mark.parametrize(
    "option",
    ["save_top_k=3", "save_top_k=-1", "save_last=true", "enable_version_counter=true"],
)
def test_best_ckpt_stays_the_best(option: str, small: Config, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"checkpoint\.\w+ is .*best\.ckpt.*ModelCheckpoint of your own"):
        fit(small, tmp_path, f"--checkpoint.{option}")


class Finetuning(callbacks.BackboneFinetuning):
    """One of a user's own."""


@pytest.mark.parametrize(
    "callback",
    [
        callbacks.StochasticWeightAveraging(swa_lrs=0.1),
        callbacks.GradientAccumulationScheduler({0: 2}),
        callbacks.BatchSizeFinder(),
        callbacks.LearningRateFinder(),
        callbacks.ModelPruning("l1_unstructured"),
        Finetuning(),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_a_callback_that_breaks_rounds_is_refused(callback: callbacks.Callback) -> None:
    with pytest.raises(ValueError, match=f"{type(callback).__name__} cannot be used here. \\S"):
        check_callbacks([callback], validates=True)


@pytest.mark.parametrize("name", ["best", "last", "previous", "best_sizes"])
def test_a_checkpoint_by_the_name_of_one_of_the_runs_own_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"filename='\w+'.*the same file.*another filename"):
        check_callbacks([callbacks.ModelCheckpoint(filename=name)], validates=True)
    check_callbacks([callbacks.ModelCheckpoint(tmp_path, filename=name)], validates=True)
    check_callbacks([callbacks.ModelCheckpoint(filename="bestial"), callbacks.ModelCheckpoint()], validates=True)


def test_another_checkpoint_leaves_last_ckpt_alone(tmp_path: Path) -> None:
    mine = callbacks.ModelCheckpoint(save_last=True, every_n_train_steps=1)
    with pytest.warns(UserWarning, match=r"save_last of ModelCheckpoint is off.*--last\.rounds"):
        check_callbacks([mine], validates=True)
    assert not mine.save_last
    elsewhere = callbacks.ModelCheckpoint(tmp_path, save_last=True)
    check_callbacks([elsewhere], validates=True)
    assert elsewhere.save_last


@pytest.mark.parametrize("batches", [1, 2])
def test_a_validation_that_leaves_tasks_out_is_told(batches: int, small: Config, tmp_path: Path) -> None:
    small["data"]["tasks"]["again"] = small["data"]["tasks"]["sizes"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(small, tmp_path, "--trainer.limit_val_batches", str(batches))
    told = [str(warning.message) for warning in caught if "leaves 1 micro-batches for 2 tasks" in str(warning.message)]
    assert len(told) == (batches == 1)


def test_an_epoch_without_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"limit_train_batches is 0: nothing would be trained"):
        check_options({"limit_train_batches": 0.0})


def test_early_stopping_without_validation_is_refused(small: Config, tmp_path: Path) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/score"}}
    small["trainer"] |= {"callbacks": stopping, "limit_val_batches": 0}  # one callback, not in a list
    with pytest.raises(SystemExit, match="EarlyStopping waits for val/score"):
        fit(small, tmp_path)


def test_a_callback_need_not_be_in_a_list(small: Config, tmp_path: Path) -> None:
    small["trainer"] |= {"callbacks": {"class_path": "EarlyStopping", "init_args": {"monitor": "val/score"}}}
    assert (fit(small, tmp_path) / "checkpoints" / "best.ckpt").is_file()


def test_fast_dev_run_runs_every_task_and_leaves_nothing(
    small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(small, tmp_path, "--trainer.fast_dev_run", "1")
    assert "nan" not in capsys.readouterr().out
    assert not run.exists()


def test_without_checkpoints_there_is_none(small: Config, tmp_path: Path) -> None:
    run = fit(small, tmp_path, "--trainer.enable_checkpointing", "false")
    assert not (run / "checkpoints").exists()
    assert json.loads((run / "metrics.json").read_text())["val"]["round"] == 3


@pytest.mark.parametrize(
    ("given", "rounds", "workers"),
    [
        *[("2", 2, 0), ("0.34", 1, 1)],
        pytest.param("2", 2, 1, marks=pytest.mark.slow),
        pytest.param("0.34", 1, 0, marks=pytest.mark.slow),
    ],
)
def test_overfit_batches_trains_on_the_same_rounds(
    given: str, rounds: int, workers: int, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], float]] = []
    once = RoundLoader.__iter__

    def watched(self: RoundLoader) -> Any:
        for batch in once(self):
            stream = batch.stream
            batch.stream = (seen.append((b.names, float(b.images.float().sum()))) or b for b in stream)
            yield batch

    monkeypatch.setattr(RoundLoader, "__iter__", watched)
    small["trainer"]["max_epochs"], small["data"]["num_workers"] = 3, workers
    small["data"]["tasks"]["sizes"]["augment"] = "xray"
    fit(small, tmp_path, "--trainer.overfit_batches", given)
    assert len(seen) == 3 * rounds
    assert seen[:rounds] == seen[rounds : 2 * rounds] == seen[2 * rounds :]


def test_a_bar_of_the_users_takes_the_place_of_the_runs_own(small: Config, tmp_path: Path) -> None:
    small["trainer"] |= {"enable_progress_bar": True, "callbacks": [{"class_path": "TQDMProgressBar"}]}
    fit(small, tmp_path)  # Lightning refuses two
    assert isinstance(progress(terminal=False), callbacks.ProgressBar)


RUNS: dict[str, list[str]] = {
    "precision": ["--trainer.precision", "bf16-mixed"],
    "double": ["--trainer.precision", "64-true"],
    "logger": ["--trainer.logger", "false"],
    "max_steps": ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"],
    "max_time": ["--trainer.max_time", "00:01:00:00"],
    "limit_train_batches": ["--trainer.limit_train_batches", "2"],
    "limit_val_batches": ["--trainer.limit_val_batches", "0"],
    "fractions": ["--trainer.limit_train_batches", "0.5", "--trainer.limit_val_batches", "0.5"],
    "val_check_interval": ["--trainer.val_check_interval", "2"],
    "check_val_every_n_epoch": ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "2"],
    "num_sanity_val_steps": ["--trainer.num_sanity_val_steps", "-1"],
    "enable_model_summary": ["--trainer.enable_model_summary", "true"],
    "deterministic": ["--trainer.deterministic", "true"],
    "benchmark": ["--trainer.benchmark", "true"],
    "inference_mode": ["--trainer.inference_mode", "false"],
    "profiler": ["--trainer.profiler", "simple"],
    "detect_anomaly": ["--trainer.detect_anomaly", "true"],
    "min_epochs": ["--trainer.min_epochs", "1", "--trainer.min_steps", "2"],
    "autolog": ["--trainer.enable_autolog_hparams", "false"],
    "callbacks": [
        "--trainer.callbacks",
        json.dumps(
            [
                {"class_path": "EMAWeightAveraging"},
                {"class_path": "ModelCheckpoint", "init_args": {"filename": "mine"}},
                {"class_path": "RichModelSummary"},
                {"class_path": "Timer", "init_args": {"duration": "00:01:00:00"}},
            ]
        ),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_an_option_works(options: list[str], small: Config, tmp_path: Path) -> None:
    run = fit(small, tmp_path, *options)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] in (2, 3, 6, 1)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trainer.accelerator", "tpu"], r"trainer \(accelerator tpu, devices auto\): \S"),
        (["--trainer.val_check_interval", "500"], r"trainer: `val_check_interval` \(500\)"),
        (["--trainer.limit_train_batches", "0.001"], r".*increase the `limit_train_batches`"),
        (["--checkpoint.monitor", "val/nope/x"], r"BestCheckpoint monitors val/nope/x, .* Alike are"),
    ],
)
def test_what_a_run_cannot_begin_with_is_told_in_a_line(
    options: list[str], told: str, small: Config, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=rf"^umedpt: error: {told}"):
        fit(small, tmp_path, *options)


def test_of_several_choices_all_are_named(small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit(small, tmp_path, "--trainer.precision", "17")
    choices = r"64, 32, 16, .*'bf16-mixed', .*'bf16', null"
    assert re.search(rf"trainer\.precision: 17 is given, but it must be one of {choices}\.", capsys.readouterr().err)
