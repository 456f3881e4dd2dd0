"""Losses and gradients that are not finite: left out as if they had never been there, told, and stopped at."""

from __future__ import annotations

import copy
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from builders import SMALL_DETECTION, SMALL_PIXELS, MemoryReader, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.loaders import RoundLoader
from umedpt_lightning.tasks import Classification
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.non_finite import NonFiniteCounts, NonFiniteMicroBatch
from umedpt_lightning.training.running_statistics import RunningStatistics
from umedpt_lightning.types import MicroBatchId, TaskBatch

TINY_STEP = Optimization(learning_rate=1e-30, clip=None)


class WildReader(MemoryReader):
    """Float images, those of some samples infinite."""

    def __init__(self, kind: str, wild: set[int], **options: Any) -> None:
        super().__init__(kind, **options)
        self.images = self.images.astype(np.float32)
        for index in wild:
            self.images[index] = np.inf


class BadGradients(Classification):
    """A finite loss, but gradients of NaN for samples of one class."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return super().loss(output, targets) + (output[targets == 2].sum() * 0).sqrt()


def data_of(readers: dict[str, MemoryReader], **options: Any) -> MultiTaskDataModule:
    own = {"batch_size": options.pop("batch_size", 2)}
    micro_batches = options.pop("micro_batches", {})
    tasks = {
        name: TaskData(train=reader, val=reader, micro_batches=micro_batches.get(name, 1), **own)
        for name, reader in readers.items()
    }
    return MultiTaskDataModule(tasks, **{"num_workers": 0, **options})


def module_of(
    data: MultiTaskDataModule, encoder: str = "test_efficientnet_gn", drop_path: float = 0.0, **options: Any
) -> MultiTaskModule:
    torch.manual_seed(0)
    return MultiTaskModule(
        data.specs,
        Encoder(encoder, drop_path_rate=drop_path),
        pixel_decoder=SMALL_PIXELS,
        detection_decoder=SMALL_DETECTION,
        **options,
    )


class Watch(pl.Callback):
    """The gradients before a round's step, and what is logged after it."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        named = pl_module.model.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def is_wild(batch: TaskBatch) -> bool:
    return not bool(batch.images.float().isfinite().all())


# --- as if they had never been there --------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batches", [{"a": 2, "b": 1}, {"a": 1, "b": 2}], ids=["one of two", "all of a task"])
@pytest.mark.parametrize(
    ("kind", "encoder"), [("class", "test_resnet"), ("mask", "test_efficientnet_gn"), ("box", "test_efficientnet_gn")]
)
@pytest.mark.filterwarnings("ignore:Round 0")
def test_the_rest_of_a_round_trains_as_if_the_wild_micro_batch_had_never_been_in_it(
    micro_batches: dict[str, int], kind: str, encoder: str
) -> None:
    readers = {"a": WildReader(kind, {1}, size=2 * micro_batches["a"]), "b": WildReader("class", set(), size=4, seed=1)}
    data = data_of(readers, micro_batches=micro_batches)
    module = module_of(data, encoder, 0.3, weights={"b": 3.0}, optimization=TINY_STEP)
    model = copy.deepcopy(module.model)
    watch = Watch()
    trainer_of(max_steps=1, callbacks=[watch]).fit(module, data)

    batches = list(next(iter(data_of(readers, micro_batches=micro_batches).train_dataloader())))
    assert sum(map(is_wild, batches)) == 1
    module.randomness.start(0, 0)
    losses: dict[str, list[Tensor]] = {}
    counting = copy.deepcopy(model)
    for batch in batches:
        if not is_wild(batch):
            loss = model.task(batch.task).loss(model(batch.images, batch.task), batch.targets)
            losses.setdefault(batch.task, []).append(loss)
    module.randomness.start(0, 0)
    statistics = RunningStatistics(counting)
    with torch.no_grad(), statistics.round(readers):
        for batch in batches:
            if not is_wild(batch):
                counting(batch.images, batch.task)
                statistics.add(batch.task)
        statistics.move(statistics.sums())
    weights = {"a": 1.0, "b": 3.0}
    total = sum(weights[task] * torch.stack(of_task).mean() for task, of_task in losses.items())
    (total / sum(weights.values())).backward()  # type: ignore[union-attr]  # a task with none left skips the round

    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert expected.keys() == watch.gradients[0].keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(watch.gradients[0][name], gradient, atol=1e-6, rtol=1e-4)
    buffers = dict(counting.named_buffers())
    for name, buffer in module.model.named_buffers():  # running statistics too
        torch.testing.assert_close(buffer, buffers[name], msg=lambda m, n=name: f"{n}: {m}")
    assert watch.logged[0].keys() >= {"train/a/dropped"}
    assert all(np.isfinite(value) for value in watch.logged[0].values())


def test_a_good_run_reads_nothing_twice_and_has_no_such_column(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of({"a": WildReader("class", set())})
    monkeypatch.setattr(RoundLoader, "_read_again", lambda *_: pytest.fail("read again"))
    watch = Watch()
    trainer_of(max_steps=3, callbacks=[watch]).fit(module_of(data), data)
    assert len(watch.logged) == 3
    assert not any("dropped" in key for logged in watch.logged for key in logged)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_round_can_be_read_again_as_often_as_needed(workers: int) -> None:
    data = data_of({"a": MemoryReader("class", size=5), "b": MemoryReader("mask", size=3)}, num_workers=workers)

    def key(batch: TaskBatch) -> tuple[str, list[str], bytes]:
        return batch.task, batch.names, batch.images.numpy().tobytes()

    for round_ in data.train_dataloader():
        first = [key(batch) for batch in round_]
        assert [key(batch) for batch in round_.again()] == first
        assert [key(batch) for batch in round_.again()] == first


# --- told and stopped at --------------------------------------------------------------------------------------------


def messages_of(data: MultiTaskDataModule, module: MultiTaskModule, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_of(**options).fit(module, data)
    return [str(warning.message) for warning in caught if "left out" in str(warning.message)]


def test_each_is_counted_and_told_with_task_samples_and_what_was_not_finite() -> None:
    data = data_of({"a": WildReader("class", {1}, size=4), "b": WildReader("class", set(), size=4)})
    watch = Watch()
    told = messages_of(data, module_of(data), max_steps=6, callbacks=[watch])
    assert len(told) == 3, "of six rounds, three have it"
    assert all("task 'a': the loss is nan with the samples" in text and "sample 1" in text for text in told)
    assert watch.logged[-1]["train/a/dropped"] == 3
    assert "train/b/dropped" not in watch.logged[-1]


def test_a_finite_loss_with_gradients_that_are_not_is_left_out_too() -> None:
    reader = WildReader("class", set(), size=2)
    reader.values = [0, 2]
    data = data_of({"a": reader, "b": WildReader("class", set())})
    module = module_of(data, tasks={"a": BadGradients})
    before = copy.deepcopy(module.model.state_dict())
    (told,) = messages_of(data, module, max_steps=1)
    assert "task 'a': the loss is " in told
    assert "but the gradients of encoder, pooling, tasks.a are not finite" in told
    after = module.model.state_dict()
    assert torch.equal(before["tasks.a.head.weight"], after["tasks.a.head.weight"])
    assert not torch.equal(before["tasks.b.head.weight"], after["tasks.b.head.weight"])


@pytest.mark.filterwarnings("ignore:Round")
def test_so_many_rounds_in_a_row_stop_the_run() -> None:
    always = data_of({"a": WildReader("class", {0, 1}, size=2), "b": WildReader("class", set())})
    with pytest.raises(
        FloatingPointError, match=r"In 3 rounds in a row.*task 'a'.*sample [01].*learning_rate"
    ) as raised:
        trainer_of(max_steps=9).fit(module := module_of(always, max_bad_rounds=3), always)
    assert "umedpt data check" in str(raised.value)
    assert module.gradients.non_finite.dropped == {"a": 3}
    sometimes = data_of({"a": WildReader("class", {0}, size=4), "b": WildReader("class", set())})
    module = module_of(sometimes, max_bad_rounds=3)
    trainer_of(max_steps=12).fit(module, sometimes)
    assert module.gradients.non_finite.dropped == {"a": 6}


@pytest.mark.filterwarnings("ignore:Round")
def test_a_round_in_which_a_task_is_finite_ends_its_row_whatever_others_are() -> None:
    counts = NonFiniteCounts(stop_after=2)
    for task in ("a", "b", "a", "b"):
        counts.add([NonFiniteMicroBatch(MicroBatchId(task, 0), "the loss is nan", [])], ("a", "b"), 0)
    with pytest.raises(FloatingPointError, match="In 2 rounds in a row"):
        counts.add([NonFiniteMicroBatch(MicroBatchId("b", 0), "the loss is nan", [])], ("a", "b"), 0)


@pytest.mark.filterwarnings("ignore:Round")
def test_the_count_in_a_row_goes_on_in_a_resumed_run(tmp_path: Path) -> None:
    data = data_of({"a": WildReader("class", {0, 1}, size=2), "b": WildReader("class", set())})
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)
    trainer_of(max_steps=2, callbacks=[saver], enable_checkpointing=True).fit(module_of(data), data)
    module = module_of(data, max_bad_rounds=3)
    with pytest.raises(FloatingPointError, match="In 3 rounds in a row"):
        trainer_of(max_steps=9).fit(module, data, ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert module.global_step == 2, "the first round that it makes is the third in a row"
    assert module.gradients.non_finite.dropped == {"a": 3}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.filterwarnings("ignore:Round")
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the scaler has passed over the first step
def test_a_round_with_nothing_left_changes_no_weight_but_counts(scaled: bool) -> None:
    data = data_of({"a": WildReader("class", {0, 1}, size=2), "b": WildReader("mask", {0, 1}, size=2)})
    module = module_of(data)
    before = copy.deepcopy(module.state_dict())
    trainer = trainer_of(max_steps=4, plugins=[half(2.0**10)] if scaled else None)
    trainer.fit(module, data)
    assert trainer.global_step == 4
    assert module.lr_schedulers().last_epoch == 4
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert float(trainer.callback_metrics["train/b/dropped"]) == 4


def test_a_round_without_faults_needs_a_positive_limit() -> None:
    data = data_of({"a": MemoryReader("class")})
    with pytest.raises(ValueError, match=r"model\.max_bad_rounds must be positive, but it is 0"):
        module_of(data, max_bad_rounds=0)


# --- half precision -------------------------------------------------------------------------------------------------


def half(scale: float) -> MixedPrecision:
    """16-mixed with a simulated scaler on the CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000))


def test_gradients_are_clipped_after_they_are_unscaled() -> None:
    found: dict[str, tuple[float, float, dict[str, Tensor]]] = {}
    for name, plugins in {"full": None, "half": [half(2.0**12)]}.items():
        data = data_of({"a": MemoryReader("class"), "b": MemoryReader("regression")})
        module = module_of(data, optimization=Optimization(clip=0.01))

        class Clipped(pl.Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters()}
                norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
                found[name] = (float(pl_module.gradients.norm), norm, gradients)  # noqa: B023  # used at once

        trainer_of(max_steps=1, plugins=plugins, callbacks=[Clipped()]).fit(module, data)
    (full_norm, full_clipped, full), (half_norm, half_clipped, halved) = found["full"], found["half"]
    assert full_norm > 0.1
    assert half_norm == pytest.approx(full_norm, rel=0.05)
    assert half_clipped == pytest.approx(full_clipped, rel=1e-3)
    assert full_clipped == pytest.approx(0.01, rel=1e-3)
    flat = [torch.cat([g.flatten() for g in gradients.values()]) for gradients in (full, halved)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99


def test_a_scaler_that_looks_for_its_scale_blames_no_sample() -> None:
    data = data_of({"a": MemoryReader("class"), "b": MemoryReader("regression")})
    module = module_of(data)
    before = copy.deepcopy(module.model.state_dict())
    precision = half(2.0**120)
    told = messages_of(data, module, max_steps=2, plugins=[precision])
    assert told == []
    assert module.gradients.non_finite.dropped == {}
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 2.0**118, "two steps passed over"
    assert all(torch.equal(value, before[name]) for name, value in module.model.state_dict().items())


def test_a_wild_loss_is_left_out_under_a_scaler_and_the_others_step() -> None:
    data = data_of({"a": WildReader("class", {0, 1}, size=2), "b": WildReader("class", set())})
    module = module_of(data)
    before = copy.deepcopy(module.model.state_dict())
    precision = half(2.0**10)
    (told,) = messages_of(data, module, max_steps=1, plugins=[precision])
    assert "task 'a': the loss is nan" in told
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 2.0**10
    after = module.model.state_dict()
    assert not torch.equal(before["tasks.b.head.weight"], after["tasks.b.head.weight"])


def test_gradients_are_blamed_on_samples_once_the_scale_cannot_be() -> None:
    reader = WildReader("class", set(), size=2)
    reader.values = [0, 2]
    data = data_of({"a": reader, "b": WildReader("class", set())})
    for scale, blamed in ((2.0**10, 0), (1.0, 1)):
        module = module_of(data, tasks={"a": BadGradients})
        assert len(messages_of(data, module, max_steps=1, plugins=[half(scale)])) == blamed


# --- two processes --------------------------------------------------------------------------------------------------


def _two_tasks(batch_size: int) -> MultiTaskDataModule:
    readers = {"a": WildReader("class", {3}, size=12), "b": WildReader("regression", set(), size=12, seed=1)}
    return data_of(readers, batch_size=batch_size, micro_batches={"a": 2})


def _train(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    module = module_of(data, optimization=Optimization(learning_rate=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer_of(max_steps=6, use_distributed_sampler=False, **options).fit(module, data)
    return module


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    module = _train(_two_tasks(2), strategy="ddp", devices=2)
    torch.save(
        {"state": module.state_dict(), "faults": module.gradients.non_finite.state_dict()}, f"{folder}/{rank}.pt"
    )


def test_two_ranks_leave_the_same_out_as_one_process(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_rank, (port, str(tmp_path)), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = _train(_two_tasks(4))  # the same samples: a micro-batch of one process is that of both ranks together
    assert alone.gradients.non_finite.dropped["a"] == 4, "six rounds of 8 samples are four passes of 12"
    for rank in ranks:
        assert rank["faults"] == alone.gradients.non_finite.state_dict()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(rank["state"][name], value, atol=1e-5, rtol=1e-4)


# --- a seed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:Round")
def test_a_seed_gives_the_same_run_twice_faults_included(workers: int) -> None:
    def run() -> tuple[dict[str, Tensor], dict[str, float]]:
        readers = {"a": WildReader("class", {1}, size=6), "b": MemoryReader("mask"), "c": MemoryReader("box")}
        data = data_of(readers, num_workers=workers, steps_per_epoch=3)
        module = module_of(data, "test_convnext", drop_path=0.3)
        trainer = trainer_of(max_epochs=2)
        trainer.fit(module, data)
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k != "train/samples_per_second"}
        return module.state_dict(), logged

    (one, logged), (two, logged_again) = run(), run()
    assert logged == logged_again
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_round_that_is_finite_only_one_by_one_is_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umedpt_lightning.training.round_gradients.find_non_finite", lambda *_, **__: [])
    data = data_of({"a": WildReader("class", {0, 1}, size=2), "b": WildReader("class", set())})
    module = module_of(data)
    before = copy.deepcopy(module.state_dict())
    told = messages_of(data, module, max_steps=1)
    assert ["task 'a'" in text for text in told] == [True, False]
    assert all("though they are one by one" in text for text in told)
    assert module.gradients.non_finite.dropped == {"a": 1, "b": 1}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
