"""Schedules in a real run: what gradients they give, and what is shown of them."""

from __future__ import annotations

import csv
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from builders import readers_of
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from test_round import TINY_STEP, data_of, gradients_of, module_of, trainer_of
from torch import Tensor

from umedpt_lightning.callbacks.task_shares import TaskShares, draw_shares
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.follow_validation import FollowValidation
from umedpt_lightning.data.loading.schedule import Fixed, Proportional, RoundRobin, ScheduleFactory, SomeTasks

TASKS = {"a": "class", "b": "regression", "c": "multilabel"}


def scheduled(schedule: ScheduleFactory, sizes: tuple[int, int, int] = (2, 2, 2)) -> MultiTaskDataModule:
    readers = {
        task: readers_of({task: kind}, size=size)[task] for (task, kind), size in zip(TASKS.items(), sizes, strict=True)
    }
    return data_of(readers, schedule=schedule, steps_per_epoch=12)


@cache
def mean_gradients(schedule: ScheduleFactory) -> dict[str, Tensor]:
    """The mean over six rounds, in which every task has the same two samples each time and no weight moves."""
    data = scheduled(schedule)
    module = module_of(data, weights={"a": 2.0, "b": 1.0, "c": 0.5}, optimization=TINY_STEP).double()
    steps = gradients_of(data, module, rounds=6)
    names = {name for step in steps for name in step}
    return {n: sum(step.get(n, torch.tensor(0.0)) for step in steps) / len(steps) for n in names}


@pytest.mark.parametrize(
    "schedule",
    [
        partial(SomeTasks, per_round=1),
        partial(SomeTasks, per_round=2),
        partial(Fixed, micro_batches={"a": 1, "b": 2, "c": 1}),
        # all of one size, so all have one micro-batch in three
        partial(Proportional, per_round=1),
        partial(Proportional, per_round=5),
    ],
    ids=["one task", "two tasks", "fixed", "one micro-batch", "five micro-batches"],
)
def test_the_mean_gradient_over_rounds_is_that_of_all_tasks_in_each(schedule: ScheduleFactory) -> None:
    expected, found = mean_gradients(RoundRobin), mean_gradients(schedule)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_a_task_with_more_turns_counts_more() -> None:
    data = scheduled(partial(Proportional, per_round=4), (2, 4, 2))
    weights = {"a": 2.0, "b": 1.0, "c": 1.0}
    plan = next(iter(data.train_dataloader())).plan
    scales = module_of(data, weights=weights).gradients.coefficients.of_round(0, plan, torch.empty(0))
    rates = plan.rates
    assert {task: rate.turns for task, rate in rates.items()} == pytest.approx({"a": 1, "b": 2, "c": 1})
    assert {task: float(scales[task]) * rates[task].turns for task in rates} == pytest.approx(
        {"a": 0.4, "b": 0.4, "c": 0.2}
    )


def test_the_samples_of_each_task_are_logged_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = scheduled(partial(Proportional, per_round=4), (10, 30, 10))
    logger = CSVLogger(tmp_path, name="", version="")
    trainer_of(max_epochs=2, logger=logger, callbacks=[TaskShares()]).fit(module_of(data), data)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/a/samples"]]
    counts = [[float(row[f"train/{task}/samples"]) for task in TASKS] for row in rows]
    assert [sum(epoch) for epoch in counts] == [12 * 4 * 2, 24 * 4 * 2]
    assert np.array(counts[-1]) / sum(counts[-1]) == pytest.approx([0.2, 0.6, 0.2], abs=0.03)
    assert (tmp_path / "pictures" / "schedule.png").is_file()
    printed = capsys.readouterr().out
    for part in ("Proportional, 12 rounds an epoch", "60.0%", "2.4 x 2", "1.92"):
        assert part in printed, part


def test_a_bar_is_as_long_as_its_share() -> None:
    requested, realised = {"a": 0.25, "_b": 0.75}, {"a": 0.1, "_b": 0.9}
    figure = draw_shares(requested, realised, "now")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.9]
    assert [line[0][0] for line in axes.collections[0].get_segments()] == [0.25, 0.75]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "_b"]
    assert axes.patches[0].get_y() < axes.patches[1].get_y()
    assert axes.yaxis_inverted(), "the first is on top"
    assert {"10.00% / 25.00%", "90.00% / 75.00%"} <= {text.get_text() for text in axes.texts}


def test_a_schedule_is_set_in_a_config_and_one_that_does_not_fit_is_told(
    config: dict[str, Any], tmp_path: Path
) -> None:
    config["data"]["schedule"] = {"class_path": "SomeTasks", "init_args": {"per_round": 9}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=r"data\.schedule: SomeTasks is to have 9 tasks a round, but there are 5"):
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")])


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_follows_validation_goes_on_with_the_same_bits(workers: int, tmp_path: Path) -> None:
    def run(checkpoint: Path | None) -> tuple[dict[str, Tensor], Any]:
        readers = {task: readers_of({task: kind}, size=6)[task] for task, kind in TASKS.items()}
        follow = partial(FollowValidation, per_round=4, patience=1)
        tasks = {name: TaskData(train=reader, val=reader, batch_size=2) for name, reader in readers.items()}
        data = MultiTaskDataModule(tasks, num_workers=workers, schedule=follow, steps_per_epoch=6)
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
        options = {"max_epochs": 3, "val_check_interval": 3, "limit_val_batches": 1.0, "enable_checkpointing": True}
        module, taken = module_of(data), Plans()
        trainer_of(callbacks=[saver, taken], **options).fit(module, data, ckpt_path=checkpoint)
        return module.state_dict(), (data.state_dict(), taken.found)

    state, (counts, plans) = run(None)
    assert set(counts["schedule"]["amounts"].values()) != {1.0}
    for step in (4, 8, 16):  # not just before a validation, where `LastCheckpoint` writes none
        again, (counts_again, plans_again) = run(tmp_path / f"step={step}.ckpt")
        assert counts_again == counts
        assert plans_again == plans[step:]
        assert all(torch.equal(again[name], value) for name, value in state.items())


class Plans(pl.Callback):
    """Keeps what was in each round."""

    def __init__(self) -> None:
        self.found: list[dict[str, int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(dict(batch.plan.micro_batches))
