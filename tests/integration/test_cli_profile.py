"""`umedpt profile` on a small project of all label types: its parts add up, and nothing is changed."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, readers_of, small_encoder
from torch import nn

from umedpt_lightning.cli import main
from umedpt_lightning.cli.profile import measure
from umedpt_lightning.cli.run_cost import RunCost, show
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.profiling import RoundTimer, TaskCost
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes
from umedpt_lightning.training.trial import fit_for
from umedpt_lightning.types import Round

TASKS = ("sizes", "places", "position", "squares", "boxes")


def _files(folder: Path) -> dict[str, float]:
    return {str(file.relative_to(folder)): file.stat().st_mtime for file in folder.rglob("*")}


@pytest.fixture(scope="module")
def found(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which it was called, with its output."""
    folder = tmp_path_factory.mktemp("found")
    before = _files(project)
    arguments = ["--config", str(project / "config.yaml"), "--out", "profile.json", "--rounds", "2"]
    options = ["--data.num_workers", "2", "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "7"]
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as shown:
        main(["profile", *arguments, *options])
    assert _files(project) == before
    (folder / "shown.txt").write_text(shown.getvalue())
    return folder


def test_it_writes_one_file_and_shows_every_task(found: Path) -> None:
    assert {file.name for file in found.iterdir()} == {"profile.json", "shown.txt"}
    shown = (found / "shown.txt").read_text()
    assert all(task in shown for task in TASKS)
    assert "bf16-mixed" in shown


def test_every_task_has_its_cost(found: Path) -> None:
    content = json.loads((found / "profile.json").read_text())
    assert set(content["tasks"]) == set(content["loading"]) == set(TASKS)
    for name, task in content["tasks"].items():
        assert task["micro_batches"] == 1
        assert task["images"] == [4, 1, 32, 32], name
        assert all(task[phase] > 0 for phase in ("transfer", "forward", "backward"))
        assert task["batch_bytes"] >= 4 * 32 * 32
        assert task["saved_bytes"] > task["batch_bytes"]
    # a mask's decoder keeps maps at full resolution
    assert content["tasks"]["squares"]["saved_bytes"] > content["tasks"]["sizes"]["saved_bytes"]
    assert content["samples"] == dict.fromkeys(TASKS, 12)
    assert (content["epoch_rounds"], content["run_rounds"]) == (3, 21)
    assert content["peak_bytes"]["process"] > 2**26


def test_the_parts_add_up(found: Path) -> None:
    content = json.loads((found / "profile.json").read_text())
    phases = sum(task[phase] for task in content["tasks"].values() for phase in ("transfer", "forward", "backward"))
    assert content["round"] == pytest.approx(phases + content["step"] + content["waiting"])
    validation = content["validations_per_epoch"] * content["validation"]
    assert validation > 0
    assert content["epoch"] == pytest.approx(3 * content["round"] + validation)
    assert content["run"] == pytest.approx(7 * content["epoch"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be positive, but it is 0"),
        (["--trainer.max_epochs", "-1"], r"set trainer\.max_steps or trainer\.max_epochs"),
        (["--model.weights", "{typo: 1.0}"], r"model\.weights\.typo.*Known from data\.tasks"),
    ],
)
def test_wrong_options_are_told_in_a_line(project: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["profile", "--config", str(project / "config.yaml"), *arguments])


def _measure(frozen: bool = False, batch_norm: bool = False, rounds: int = 2, **trainer: Any) -> tuple[RunCost, Any]:
    tasks = {
        name: TaskData(train=reader, val=reader, batch_size=2, micro_batches=2 if name == "a_mask" else 1)
        for name, reader in readers_of().items()
    }
    data = MultiTaskDataModule(tasks, num_workers=0)
    encoder = small_encoder()
    if batch_norm:
        encoder.net = nn.Sequential(nn.BatchNorm2d(3), encoder.net)
    if frozen:
        encoder.requires_grad_(False)
    module = MultiTaskModule(data.specs, encoder, pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options = {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False} | quiet | trainer
    cost = measure(pl.Trainer(**options), module, data, rounds)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    return cost, module


def test_weights_and_running_statistics_stay() -> None:
    _, module = _measure(batch_norm=True)
    assert any("running_mean" in name for name in module.state_dict())


def test_several_micro_batches_count_as_such_and_a_short_run_is_measured_beyond_its_end() -> None:
    cost, _ = _measure(rounds=3, max_steps=2, limit_val_batches=0)
    assert {name: task.micro_batches for name, task in cost.tasks.items()} == {
        f"a_{kind}": 2 if kind == "mask" else 1 for kind in KINDS
    }
    assert len(cost.measured_rounds) == 3
    assert cost.run_rounds == 2
    assert cost.validation == cost.validations_per_epoch == 0
    assert cost.waiting == cost.per_round("waiting") > 0, "without workers the process reads itself"


def test_a_frozen_encoder_keeps_less_for_the_backward_pass() -> None:
    trained, frozen = _measure()[0], _measure(frozen=True)[0]
    for name, task in frozen.tasks.items():
        assert 0 < task.saved_bytes < trained.tasks[name].saved_bytes, name


@pytest.mark.parametrize(
    ("options", "validations"),
    [
        ({"check_val_every_n_epoch": 2}, 0.5),
        ({"val_check_interval": 1}, 3),
        ({"check_val_every_n_epoch": None, "val_check_interval": 6}, 0.5),
    ],
)
def test_validations_come_as_often_as_configured(options: dict[str, Any], validations: float) -> None:
    cost, _ = _measure(rounds=1, **options)
    assert cost.epoch_rounds == 3
    assert cost.validations_per_epoch == validations


class Packed(MultiTaskModule):
    """Takes the tasks of a round through the encoder together."""

    def training_step(self, batch: Round, batch_idx: int) -> dict[str, torch.Tensor]:
        optimizer, batches = self.optimizers(), list(batch)
        optimizer.zero_grad()
        images = torch.cat([self.model.normalise(b.images, b.task) for b in batches])
        features = self.model.pooling(self.model.encoder(images)).split([len(b) for b in batches])
        heads = [self.model.task(b.task) for b in batches]
        loss = sum(head.loss(head(f), b.targets) for head, f, b in zip(heads, features, batches, strict=True))
        self.manual_backward(loss)
        optimizer.step()
        return {"loss": loss.detach()}


def test_tasks_that_are_packed_together_share_the_cost_by_their_pixels() -> None:
    readers = readers_of({"a": "class", "b": "multilabel"})
    sizes = {"a": 1, "b": 3}
    data = MultiTaskDataModule(
        {name: TaskData(train=reader, batch_size=sizes[name]) for name, reader in readers.items()}, num_workers=0
    )
    timer = RoundTimer(1)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
    fit_for(trainer, Packed(data.specs, small_encoder()), data, 4, timer)
    a, b = timer.tasks["a"], timer.tasks["b"]
    assert b.forward == pytest.approx(3 * a.forward)
    assert b.backward == pytest.approx(3 * a.backward)
    assert b.saved_bytes == pytest.approx(3 * a.saved_bytes, rel=0.01)
    assert min(a.forward, a.backward, a.saved_bytes, a.transfer, b.transfer) > 0


def _cost(workers: int, load: float, waiting: float) -> RunCost:
    task = TaskCost(1, (4, 1, 8, 8), 256, 1024, 0, waiting, 0.0, 0.1, 0.2)
    return RunCost({"a": task}, {"a": 40, "b": 3}, {"a": load}, workers, 0.1, [0.4], 10, 20)


def test_slow_workers_are_seen_through_what_they_have_read_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    quick, slow = _cost(1, 0.2, 0.0), _cost(1, 2.0, 0.0)
    assert (quick.bound, quick.round) == ("model", pytest.approx(0.4))
    assert (slow.bound, slow.round, slow.workers_needed) == ("loader", pytest.approx(2.0), 5)
    assert _cost(0, 2.0, 2.5).round == pytest.approx(2.9)
    show(slow)
    shown = capsys.readouterr().out
    assert "5 with a core each" in shown
    assert "did not come up: b" in shown


def test_saved_bytes_count_a_storage_once_and_no_parameters() -> None:
    layer = nn.Linear(8, 8)
    images = torch.randn(4, 8)
    meter = SavedBytes()
    with meter:
        loss = (layer(images).exp() + layer(images)).sum()
    assert meter.peak == images.nbytes + 4 * 8 * 4, "the input once, and what exp keeps"
    loss.backward()
    with meter:
        layer(images).sum()
    assert meter.peak == images.nbytes + 4 * 8 * 4, "what is gone is not counted again"
