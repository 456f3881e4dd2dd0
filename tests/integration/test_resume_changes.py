"""A run that goes on by another config: what the config says counts and is told, or is refused with the mend."""

from __future__ import annotations

import copy
import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import small_encoder, spec_of
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from umedpt_lightning.blocks import PixelDecoder
from umedpt_lightning.cli import main
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.runs.folder import claim, new_folder, wandb_id
from umedpt_lightning.training.checkpoints import CheckpointError
from umedpt_lightning.training.resume.callbacks import match_callbacks
from umedpt_lightning.training.resume.init_from import init_from, read_state
from umedpt_lightning.training.resume.optimizer import match_optimizer_state, match_schedule, name_parameters, resumable
from umedpt_lightning.training.resume.weights import fit_checkpoint

Config = dict[str, Any]


def fit(config: Config, folder: Path, run: Path, *options: str) -> dict[str, Any]:
    """A run, and its last checkpoint."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    main(["fit", "--config", str(file), "--run", str(run), "--trainer.enable_progress_bar", "false", *options])
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint


def of_two_tasks(config: Config) -> Config:
    """Two heads of equal shape, in one epoch of three rounds; no validation but at the end."""
    tasks = config["data"]["tasks"]
    config["data"]["tasks"] = {"sizes": tasks["sizes"], "again": tasks["sizes"]}
    config["trainer"] |= {"max_epochs": 1, "limit_val_batches": 2}
    config["model"] = {"encoder": {"class_path": "Encoder", "init_args": {"name": "test_efficientnet_gn"}}}
    config["model"]["weights"] = {"sizes": 1.0, "again": 0.1}
    return config


@pytest.fixture
def two_tasks(config: Config) -> Config:
    return of_two_tasks(config)


@pytest.fixture(scope="module")
def begun_once(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    fit(of_two_tasks(yaml.safe_load((project / "config.yaml").read_text())), folder, folder / "run")
    return folder / "run"


@pytest.fixture
def begun(begun_once: Path, tmp_path: Path) -> Path:
    """The folder of a run of one epoch, to be changed at will."""
    shutil.copytree(begun_once, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(begun_once), str(tmp_path / "run")))
    return tmp_path / "run"


def rates(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]


def test_the_order_of_tasks_makes_no_difference(
    two_tasks: Config, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = two_tasks | {"trainer": two_tasks["trainer"] | {"max_epochs": 2}}
    turned = more | {"data": more["data"] | {"tasks": dict(reversed(two_tasks["data"]["tasks"].items()))}}
    shutil.copytree(begun, tmp_path / "turned")
    state = fit(more, tmp_path, begun, "--ckpt_path", "last")["state_dict"]
    other = fit(turned, tmp_path, tmp_path / "turned", "--ckpt_path", "last")["state_dict"]
    assert state.keys() == other.keys()
    for name, value in state.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_a_new_learning_rate_and_a_longer_run_count_and_are_told(
    two_tasks: Config, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_tasks["trainer"]["max_epochs"] = 2
    two_tasks["model"]["optimization"] = {"learning_rate": 0.01, "warmup": 0, "weight_decay": 0.3}
    checkpoint = fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    said = capsys.readouterr().out
    assert "model.optimization.learning_rate: the default before, 0.01 now" in said
    assert "trainer.max_epochs: 1 before, 2 now" in said
    half_way = 0.01 * (0.01 + 0.99 * 0.5)  # a cosine over six rounds, three of which are done
    assert rates(begun)[3] == pytest.approx(half_way, rel=1e-5)
    assert {group["weight_decay"] for group in checkpoint["optimizer_states"][0]["param_groups"]} == {0.0, 0.3}


def test_another_seed_is_told_to_have_no_effect(
    two_tasks: Config, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = torch.load(begun / "checkpoints" / "last.ckpt", weights_only=True)["randomness"]
    two_tasks["trainer"]["max_epochs"] = 2
    checkpoint = fit(two_tasks, tmp_path, begun, "--ckpt_path", "last", "--seed_everything", "12345")
    assert re.search(
        r"seed_everything: .* before, 12345 now; it counts at the start of a run alone", capsys.readouterr().out
    )
    assert checkpoint["randomness"] == seed


def test_the_config_of_a_run_is_what_was_last_trained_and_the_one_before_is_kept(
    two_tasks: Config, begun: Path, tmp_path: Path
) -> None:
    two_tasks["trainer"]["max_epochs"] = 2
    two_tasks["data"]["tasks"]["sizes"]["size"] = 48
    fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    sizes = [yaml.safe_load((begun / name).read_text())["data"]["tasks"]["sizes"]["size"] for name in configs(begun)]
    assert configs(begun) == ["config.yaml", "config_1.yaml"]
    assert sizes == [48, None]


def configs(run: Path) -> list[str]:
    return sorted(file.name for file in run.glob("config*.yaml"))


def test_a_run_that_goes_on_unchanged_says_nothing_and_keeps_one_config(
    two_tasks: Config, begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    assert "another config" not in capsys.readouterr().out
    assert configs(begun) == ["config.yaml"]


def test_a_task_that_is_added_starts_at_its_beginning_and_one_that_is_removed_is_dropped(
    two_tasks: Config, config: Config, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = torch.load(begun / "checkpoints" / "last.ckpt", weights_only=True)
    main_tasks = two_tasks["data"]["tasks"]
    project = yaml.safe_load((Path(two_tasks["root"]) / "config.yaml").read_text())
    two_tasks["data"]["tasks"] = {"squares": project["data"]["tasks"]["squares"], "sizes": main_tasks["sizes"]}
    two_tasks["model"] |= {"weights": {}, "pixel_decoder": project["model"]["pixel_decoder"]}
    two_tasks["trainer"]["max_epochs"] = 2
    after = fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    said = caplog.text
    assert "Task 'squares' is new" in said
    assert "Task 'again' is no longer trained" in said
    assert after["global_step"] == 6
    assert not any(".again." in name for name in after["state_dict"])
    assert any(name.startswith("model.pixel_decoder.") for name in after["state_dict"])
    steps = {
        name: int(state["step"])
        for group in after["optimizer_states"][0]["param_groups"]
        for name, index in zip(group["param_names"], group["params"], strict=True)
        if (state := after["optimizer_states"][0]["state"].get(index))
    }
    assert {steps[name] for name in steps if ".squares." in name} == {3}
    assert {steps[name] for name in steps if ".sizes." in name} == {6}
    assert before["global_step"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder": {"class_path": "Encoder", "init_args": {"name": "test_resnet"}}},
            r"encoder.*test_resnet.*init_from",
        ),
        ({"classes": ["small", "large"]}, r"data\.tasks\.sizes: classes were \['large', 'small'\].*same order"),
    ],
)
def test_what_cannot_go_on_is_refused_with_key_and_mend(
    change: Config, message: str, two_tasks: Config, begun: Path, tmp_path: Path
) -> None:
    kept = (begun / "config.yaml").read_text()
    if "encoder" in change:
        two_tasks["model"] |= change
    for part in ("train", "val", "test") if "classes" in change else ():
        two_tasks["data"]["tasks"]["sizes"][part]["init_args"] |= change
    with pytest.raises(SystemExit, match=r"(?s)" + message):
        fit(two_tasks, tmp_path, begun, "--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert (begun / "config.yaml").read_text() == kept


def test_a_new_run_starts_from_all_that_fits(
    two_tasks: Config, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = two_tasks["data"]["tasks"]
    two_tasks["data"]["tasks"] = {"sizes": tasks["sizes"], "other": tasks["sizes"]}
    two_tasks["model"] |= {"weights": {}, "optimization": {"learning_rate": 1e-12}}
    state = fit(two_tasks, tmp_path, tmp_path / "new", "--init_from", str(begun))["state_dict"]
    said = caplog.text
    assert "taken are encoder, pooling, the head of sizes; new are the head of other" in said
    best = torch.load(begun / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in best.items():
        if name.startswith(("model.encoder", "model.tasks.sizes")) and value.is_floating_point():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-8)
    two_tasks["model"]["encoder"]["init_args"]["name"] = "test_resnet"
    two_tasks["data"]["tasks"] = {"another": tasks["sizes"]}
    with pytest.raises(SystemExit, match="nothing in it fits"):
        fit(two_tasks, tmp_path, tmp_path / "newer", "--init_from", str(begun))


def test_of_a_run_the_best_weights_are_the_start_and_else_the_last(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for number, name in enumerate(("best", "last")):
        torch.save({"state_dict": {"model.a": torch.tensor(number)}}, tmp_path / "checkpoints" / f"{name}.ckpt")
    assert read_state(tmp_path) == {"a": torch.tensor(0)}
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    assert read_state(tmp_path) == {"a": torch.tensor(1)}


def test_a_head_of_another_shape_is_new_and_one_without_a_task_is_not_used(tmp_path: Path) -> None:
    of_three = {"a": spec_of("class", count=3), "gone": spec_of("class")}
    MultiTaskModel(small_encoder(), of_three).save_pretrained(tmp_path)
    model = MultiTaskModel(small_encoder(), {"a": spec_of("class", count=4)})
    told = "taken are encoder, pooling; new are the head of a; not used are the head of gone."
    assert init_from(model, tmp_path) == f"init_from {tmp_path}: {told}"


def test_a_block_of_another_shape_is_refused() -> None:
    """One whose parameters have the names of before, which torch alone would tell."""
    was, now = (
        nn.ModuleDict(
            {"model": MultiTaskModel(small_encoder(), {"a": spec_of("mask")}, None, partial(PixelDecoder, channels=n))}
        )
        for n in (8, 16)
    )
    saved = was.state_dict()
    fit_checkpoint({"state_dict": dict(saved)}, was, was["model"], True)
    with pytest.raises(CheckpointError, match=r"model\.pixel_decoder: the checkpoint does not fit.*\(128, .*\(256, "):
        fit_checkpoint({"state_dict": dict(saved)}, now, now["model"], True)


def test_a_task_that_was_never_trained_is_not_evaluated(two_tasks: Config, begun: Path) -> None:
    config = yaml.safe_load((begun / "config.yaml").read_text())
    config["data"]["tasks"]["other"] = config["data"]["tasks"]["sizes"]
    (begun / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=r"has no task 'other', which the config has: its head was never trained"):
        main(["validate", "--config", str(begun / "config.yaml"), "--ckpt_path", "best"])


def test_a_plateau_is_waited_for_on_with_the_patience_of_now() -> None:
    def plateau(patience: int) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), patience=patience)

    before, now = plateau(2), plateau(5)
    initial = copy.deepcopy(before.state_dict())
    before.step(1.0)
    before.step(2.0)
    saved = before.state_dict()
    match_schedule(now, saved, initial)
    now.load_state_dict(saved)
    assert (now.best, now.num_bad_epochs, now.patience) == (1.0, 1, 5)


def stepped(kind: Any, shape: int) -> Optimizer:
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.ones(shape)
    optimizer = resumable(kind([("w", parameter)], lr=0.1))
    optimizer.step()
    return optimizer


def test_moments_of_another_shape_or_optimizer_are_left() -> None:
    adam, momentum = torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)
    saved = stepped(adam, 3).state_dict()
    same, other = stepped(adam, 3), stepped(adam, 4)
    for optimizer in (same, other):
        optimizer.state.clear()
        optimizer.load_state_dict(saved)
    assert [len(optimizer.state) for optimizer in (same, other)] == [1, 0]
    with pytest.warns(UserWarning, match="The optimizer was SGD, and AdamW begins without its state"):
        same.load_state_dict(stepped(momentum, 3).state_dict())


def test_moments_that_an_earlier_release_did_not_name_are_left_where_they_fit_nothing() -> None:
    saved = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0], "lr": 1.0}]}
    with pytest.warns(UserWarning, match="begins without state"):
        name_parameters(saved, {"model.a": torch.Size([2])})
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([{"params": [parameter], "param_names": ["model.a"]}])
    assert match_optimizer_state(optimizer, saved, [{"lr": 1e-3}])["state"] == {}


def test_a_run_is_evaluated_from_any_folder(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((begun / "config.yaml").read_text()) | {"run": "runs/as_it_was_called_there"}
    (begun / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["validate", "--config", str(begun / "config.yaml"), "--ckpt_path", "best"])
    assert "val: score" in capsys.readouterr().out


def test_two_runs_that_start_in_the_same_second_have_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("time.strftime", lambda form: "runs/now")
    assert [str(new_folder()) for _ in range(3)] == ["runs/now", "runs/now-2", "runs/now-3"]


def test_an_agent_of_a_sweep_starts_several_runs_in_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert [str(new_folder()) for _ in range(2)] == ["runs/slurm-7"] * 2  # it was queued again
    monkeypatch.setenv("WANDB_SWEEP_ID", "xyz")
    assert str(new_folder()) == "runs/slurm-7-abc"


def _started(claims: Callable[[Path, Any], None], folder: Path) -> Any:
    """Another process, which has claimed a folder."""
    context = multiprocessing.get_context("fork")
    claimed = context.Event()
    other = context.Process(target=claims, args=(folder, claimed))
    other.start()
    assert claimed.wait(60)
    return other


def _claim(folder: Path, claimed: Any) -> None:
    claim(folder)
    claimed.set()
    time.sleep(60)


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    other = _started(_claim, tmp_path)
    with pytest.raises(ValueError, match=f"another process trains in this folder .process {other.pid} on"):
        claim(tmp_path)
    other.kill()
    other.join()
    claim(tmp_path)  # however the other has ended


def _claim_and_read(folder: Path, claimed: Any) -> None:
    claim(folder)
    if os.fork():
        claimed.set()
    time.sleep(60)


def test_a_worker_that_outlives_a_killed_run_does_not_keep_its_folder(tmp_path: Path) -> None:
    other = _started(_claim_and_read, tmp_path)
    (worker,) = (int(pid) for pid in Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split())
    other.kill()
    other.join()
    try:
        claim(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_folder_that_cannot_be_made_is_told_in_a_line(two_tasks: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"umedpt: error: .*file"):
        fit(two_tasks, tmp_path, tmp_path / "file" / "run")


def test_of_a_run_that_went_on_the_best_checkpoint_is_evaluated_too(
    two_tasks: Config, begun: Path, tmp_path: Path
) -> None:
    two_tasks["trainer"]["max_epochs"] = 2
    fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    assert yaml.safe_load((begun / "config.yaml").read_text())["ckpt_path"] is None


def _as_good_as_can_be(begun: Path) -> None:
    """Writes into the last checkpoint that the best score was 1."""
    last = begun / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    for key, state in checkpoint["callbacks"].items():
        if "val/score" in key:  # as good as it can be
            state["best_model_score"] = state["kth_value"] = torch.tensor(1.0)
            state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(1.0))
            state["best_model_path"] = str(begun / "checkpoints" / "best.ckpt")
        if key == "Report":
            state["best"]["score"] = 1.0
    torch.save(checkpoint, last)


@pytest.mark.parametrize("change", ["samples", "pixels", "limit", "nothing"])
def test_a_best_score_of_other_samples_or_pixels_does_not_count(
    change: str, two_tasks: Config, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _as_good_as_can_be(begun)
    two_tasks["trainer"]["max_epochs"] = 2
    sizes = two_tasks["data"]["tasks"]["sizes"]
    match change:
        case "samples":
            sizes["val"] = {
                "class_path": "Subset",
                "init_args": {"reader": sizes["val"], "stop": 0.5},
            }
        case "pixels":
            sizes |= {"evaluate_at": "resized", "size": 32}
        case "limit":
            two_tasks["trainer"]["limit_val_batches"] = 1.0
    before = (begun / "checkpoints" / "best.ckpt").read_bytes()
    fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    told = "Validation is of other samples or pixels than before: the best is looked for anew." in caplog.text
    assert told == (change != "nothing")
    assert ((begun / "checkpoints" / "best.ckpt").read_bytes() != before) == told


def test_a_best_score_of_other_tasks_does_not_count(
    two_tasks: Config, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _as_good_as_can_be(begun)
    two_tasks["data"]["tasks"]["new"] = two_tasks["data"]["tasks"]["sizes"]
    two_tasks["trainer"] |= {"max_epochs": 2, "limit_val_batches": 3}
    fit(two_tasks, tmp_path, begun, "--ckpt_path", "last")
    best = torch.load(begun / "checkpoints" / "best.ckpt", weights_only=True)
    assert any(name.startswith("model.tasks.new.") for name in best["state_dict"])
    assert "new/auroc" in json.loads((begun / "metrics.json").read_text())["val"]["metrics"]
    assert "val/score is of other tasks than before" in caplog.text


def test_weights_that_are_no_longer_averaged_are_those_that_the_optimizer_has_moments_of() -> None:
    checkpoint = {"state_dict": {"w": 1}, "current_model_state": {"w": 2}, "callbacks": {}}
    assert match_callbacks(checkpoint, [EMAWeightAveraging()]) == []
    assert checkpoint["state_dict"] == {"w": 1}
    assert "no longer averaged" in match_callbacks(checkpoint, [])[0]
    assert checkpoint["state_dict"] == {"w": 2}


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (torch.optim.AdamW, "amsgrad", True),
        (torch.optim.RMSprop, "momentum", 0.9),
        (torch.optim.RMSprop, "centered", True),
    ],
)
def test_an_optimizer_that_keeps_more_than_before_begins_anew(kind: Any, option: str, value: Any) -> None:
    saved = stepped(kind, 3).state_dict()
    optimizer = stepped(partial(kind, **{option: value}), 3)
    optimizer.state.clear()
    with pytest.warns(UserWarning, match=f"{kind.__name__} had no {option} before, and begins without its state"):
        optimizer.load_state_dict(saved)
    optimizer.step()
    assert int(optimizer.state[optimizer.param_groups[0]["params"][0]]["step"]) == 1


def test_a_run_has_one_id_at_weights_and_biases(tmp_path: Path) -> None:
    first = wandb_id(tmp_path / "run")
    assert len(first) == 8
    assert wandb_id(tmp_path / "run") == first
    assert wandb_id(tmp_path / "other") != first
