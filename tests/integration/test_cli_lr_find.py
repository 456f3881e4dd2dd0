"""`umedpt lr-find` on a small project of all label types."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from builders import SMALL_DETECTION, SMALL_PIXELS, MemoryReader, small_encoder
from PIL import Image

from umedpt_lightning.cli import main
from umedpt_lightning.cli.lr_find import show
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.lr_finder import RateCurve, RateSweep, suggest, sweep
from umedpt_lightning.training.trial import fit_for

TASKS = ("sizes", "places", "position", "squares", "boxes")
ROUNDS = 12


def _files(folder: Path) -> dict[str, float]:
    return {str(file.relative_to(folder)): file.stat().st_mtime for file in folder.rglob("*")}


def _find(config: Path, out: Path) -> RateCurve:
    main(["lr-find", "--config", str(config), "--out", str(out), "--rounds", str(ROUNDS)])
    return _read(out)


def _read(out: Path) -> RateCurve:
    return RateCurve(**json.loads((out / "lr-find.json").read_text())["curve"])


@pytest.fixture(scope="module")
def found(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which it was called, with its output."""
    folder = tmp_path_factory.mktemp("found")
    before = _files(project)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as shown:
        _find(project / "config.yaml", Path("out"))
    assert _files(project) == before
    (folder / "shown.txt").write_text(shown.getvalue())
    return folder


def test_it_writes_curve_and_picture_and_nothing_else(found: Path) -> None:
    files = {str(file.relative_to(found)) for file in found.rglob("*") if file.is_file()}
    assert files - {"shown.txt"} == {"out/curve.csv", "out/lr-find.json", "out/lr-find.png"}
    assert Image.open(found / "out" / "lr-find.png").width > 1000
    shown = (found / "shown.txt").read_text()
    assert all(task in shown for task in TASKS)


def test_the_rate_grows_exponentially_and_the_total_is_the_mean_of_the_tasks(found: Path) -> None:
    curve = _read(found / "out")
    assert set(curve.tasks) == set(TASKS)
    assert curve.rates[0] == pytest.approx(1e-6)
    ratios = np.array(curve.rates[1:]) / curve.rates[:-1]
    assert ratios == pytest.approx(np.full(len(ratios), 1e6 ** (1 / (ROUNDS - 1))))
    assert curve.end or curve.rates[-1] == pytest.approx(1)
    with (found / "out" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(curve.losses)
    means = [np.mean([float(row[task]) for task in TASKS]) for row in rows]
    assert curve.losses == pytest.approx(means, rel=1e-4)


def test_the_same_seed_gives_the_same_curve(project: Path, found: Path, tmp_path: Path) -> None:
    assert _find(project / "config.yaml", tmp_path) == _read(found / "out")


def test_the_line_that_is_printed_is_an_option_of_fit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = np.logspace(-6, 0, 100).tolist()
    curve = RateCurve(100, rates, np.linspace(1, 0.5, 100).tolist())
    suggestion = suggest(curve)
    show(curve, suggestion, Path("out"))
    printed = re.search(r"(--model\.\S+) (\S+)", capsys.readouterr().out)
    assert printed is not None
    assert float(printed[2]) == pytest.approx(suggestion.steepest, rel=0.05)
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(project / "config.yaml"), printed[1], printed[2], "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["optimization"]["learning_rate"] == float(printed[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "5"], r"--rounds is 5.*at least 10"),
        (["--min_lr", "0.1", "--max_lr", "0.01"], r"--min_lr must be positive and below --max_lr.*0\.1 and 0\.01"),
        (["--model.weights", "{typo: 1.0}"], r"model\.weights\.typo.*Known from data\.tasks"),
    ],
)
def test_wrong_options_are_told_in_a_line(project: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["lr-find", "--config", str(project / "config.yaml"), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def _module(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    return MultiTaskModule(
        data.specs, small_encoder(), pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION, **options
    )


def _trainer() -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)


def _data() -> MultiTaskDataModule:
    reader = MemoryReader("class", size=4)  # the same few samples in every round: a loss without noise
    return MultiTaskDataModule({"a": TaskData(train=reader, batch_size=4)}, num_workers=0)


def test_a_sweep_leaves_the_weights_and_ends_where_the_loss_diverges() -> None:
    data = _data()
    module = _module(data, optimization=Optimization(clip=None, weight_decay=0.0))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    curve = sweep(_trainer(), module, data, min_lr=1e-5, max_lr=1e3, rounds=25)
    assert "loss" in curve.end
    assert 5 < len(curve.losses) < 25
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_sweep_with_a_message() -> None:
    data = _data()
    module = _module(data)
    with torch.no_grad():
        for parameter in module.model.tasks.parameters():
            parameter.fill_(torch.nan)
    with pytest.warns(UserWarning, match="task 'a': the loss is nan"):
        curve = sweep(_trainer(), module, data, rounds=20)
    assert len(curve.losses) == 1
    assert "not finite" in curve.end


def test_the_sweep_uses_the_rate_and_not_that_of_the_schedule() -> None:
    """A step of Adam moves a weight by about the learning rate, whatever the gradient."""
    data = _data()
    module = _module(data, optimization=Optimization(learning_rate=0.5, weight_decay=0.0))
    moved: list[float] = []

    class Watch(RateSweep):
        def on_train_batch_start(self, *_: Any) -> None:
            self.before = _vector(module)

        def on_train_batch_end(self, *arguments: Any) -> None:
            moved.append(float((_vector(module) - self.before).abs().max()))
            super().on_train_batch_end(*arguments)

    watch = Watch(1e-5, 1e-3, 10)
    fit_for(_trainer(), module, data, 10, watch)
    assert moved == pytest.approx(watch.curve.rates, rel=0.7)
    assert moved[0] == pytest.approx(1e-5, rel=0.1)


def test_the_sweep_keeps_the_share_of_the_encoder() -> None:
    data = _data()
    module = _module(data, optimization=Optimization(encoder_share=0.1, weight_decay=0.0))
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    fit_for(_trainer(), module, data, 1, RateSweep(1e-4, 1e-2, 10))
    moved = {name: float((value.detach() - before[name]).abs().max()) for name, value in module.named_parameters()}
    assert max(m for name, m in moved.items() if ".encoder." in name) == pytest.approx(1e-5, rel=0.1)
    assert max(m for name, m in moved.items() if ".tasks." in name) == pytest.approx(1e-4, rel=0.1)


def _vector(module: MultiTaskModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])
