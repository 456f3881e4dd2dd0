"""Several real ranks under Lightning's DDP against one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, MemoryReader, readers_of, small_encoder, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from benchmarks.ranks import Collectives, free_port, on_ranks, torchrun_variables
from umedpt_lightning.blocks import ViTEncoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.schedule import SomeTasks
from umedpt_lightning.training import MultiTaskModule, Optimization

TASKS = {f"a_{kind}": kind for kind in KINDS}
STEPS = 20
#: What the ranks share out, and how many there are.
SETTINGS = [
    ("tasks", 2),
    pytest.param("samples", 2, marks=pytest.mark.slow),
    pytest.param("samples", 4, marks=pytest.mark.slow),
    pytest.param("tasks", 4, marks=pytest.mark.slow),
]
any_setting = pytest.mark.parametrize(("distribute", "world_size"), SETTINGS)


def data_of(distribute: str = "samples", times: int = 1, per_round: int = 4) -> MultiTaskDataModule:
    """Five tasks, one of which skips each round, the boxes with twice as many micro-batches; all `times` as many."""
    micro_batches = {task: times * (2 if kind == "box" else 1) for task, kind in TASKS.items()}
    readers = readers_of(TASKS, size=7)  # so that ranks have different numbers to validate
    readers["a_box"] = MemoryReader("box", size=7, side=64)  # GroupNorm needs more than one place a channel
    tasks = {
        name: TaskData(train=reader, val=reader, batch_size=2, micro_batches=micro_batches[name])
        for name, reader in readers.items()
    }
    schedule = partial(SomeTasks, per_round=per_round)
    return MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=STEPS, schedule=schedule, distribute=distribute)


def module_of(
    data: MultiTaskDataModule, encoder: Any = small_encoder, weights: dict[str, float] | None = None
) -> MultiTaskModule:
    """In double precision, with a frozen stem and gradients that are clipped in every round."""
    torch.manual_seed(0)
    module = MultiTaskModule(
        data.specs,
        encoder(),
        weights={"a_mask": 3.0} if weights is None else weights,
        pixel_decoder=SMALL_PIXELS,
        detection_decoder=SMALL_DETECTION,
        optimization=Optimization(clip=0.05),
    )
    for parameter in next(iter(module.model.encoder.net.children())).parameters():
        parameter.requires_grad = False
    return module.double()


def ranks_trainer_of(**options: Any) -> pl.Trainer:
    shared = {"max_steps": STEPS, "log_every_n_steps": 5, "limit_val_batches": 1.0, "use_distributed_sampler": False}
    return trainer_of(**(shared | options))


class Norms(pl.Callback):
    """Keeps the norm that gradients have before they are clipped."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.found.append(float(pl_module.gradients.norm))


def trained(world_size: int, times: int = 1, **options: Any) -> dict[str, Any]:
    """What comes out of a training on this rank."""
    data = data_of(times=times, **options)
    module = module_of(data)
    strategy = "ddp" if world_size > 1 else "auto"
    norms = Norms()
    trainer = ranks_trainer_of(devices=world_size, strategy=strategy, callbacks=[norms])
    trainer.fit(module, data)
    return {
        "parameters": module.model.state_dict(),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "consumed": trainer.train_dataloader.state_dict()["consumed"],
        "costs": trainer.train_dataloader.state_dict()["costs"],
        "norms": norms.found,
    }


@cache
def alone(times: int) -> dict[str, Any]:
    return trained(1, times)


@cache
def together(distribute: str, world_size: int) -> list[dict[str, Any]]:
    return on_ranks(partial(trained, world_size, distribute=distribute), world_size)


def same(distribute: str, world_size: int) -> dict[str, Any]:
    """One process with the samples that the ranks have together."""
    return alone(world_size if distribute == "samples" else 1)


@any_setting
def test_several_ranks_end_with_the_parameters_of_one_process(distribute: str, world_size: int) -> None:
    expected = same(distribute, world_size)
    assert min(expected["norms"]) > 0.05, "gradients are clipped"
    for found in together(distribute, world_size):
        # clipping and AdamW would hide gradients of another size
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-9)
        assert found["parameters"].keys() == expected["parameters"].keys()
        for name, value in expected["parameters"].items():
            torch.testing.assert_close(found["parameters"][name], value, rtol=0, atol=1e-9, msg=name)


@any_setting
def test_the_ranks_read_the_same_samples_as_one_process_and_count_alike(distribute: str, world_size: int) -> None:
    for found in together(distribute, world_size):
        assert found["consumed"] == same(distribute, world_size)["consumed"]
    assert len({str(found["costs"]) for found in together(distribute, world_size)}) == 1
    assert bool(together(distribute, world_size)[0]["costs"]) == (distribute == "tasks")


@any_setting
def test_losses_and_metrics_are_those_of_one_process_on_every_rank(distribute: str, world_size: int) -> None:
    unequal = {"train/samples_per_second"} | {f"val/{task}/loss" for task in TASKS}  # by the cut into micro-batches
    expected = {n: v for n, v in same(distribute, world_size)["metrics"].items() if n not in unequal}
    assert {f"train/{task}/loss" for task in TASKS} < expected.keys()
    assert "val/score" in expected
    for found in together(distribute, world_size):
        assert found["metrics"].keys() == expected.keys() | unequal
        assert {n: found["metrics"][n] for n in expected} == pytest.approx(expected, abs=1e-5, nan_ok=True)


def briefly(world_size: int, times: int = 1, encoder: Any = small_encoder) -> tuple[list[float], dict[str, Tensor]]:
    """Norms and parameters of three rounds of two tasks, shared out as by default; `times` as many micro-batches."""
    readers = readers_of({"a": "class", "b": "regression"}, size=7)
    tasks = {
        name: TaskData(train=reader, batch_size=2, micro_batches=times * count)
        for (name, reader), count in zip(readers.items(), (1, 2), strict=True)
    }
    data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=3)
    module, norms = module_of(data, encoder, weights={"b": 3.0}), Norms()
    strategy = "ddp" if world_size > 1 else "auto"
    options = {"devices": world_size, "strategy": strategy, "max_steps": 3, "limit_val_batches": 0}
    ranks_trainer_of(**options, callbacks=[norms]).fit(module, data)
    return norms.found, module.model.state_dict()


def test_ranks_share_the_samples_of_every_task_where_nothing_else_is_said() -> None:
    norms, parameters = briefly(1, times=2)
    for found, state in on_ranks(briefly, 2, 2):
        assert found == pytest.approx(norms, rel=1e-9)
        for name, value in parameters.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_ranks_share_a_vision_transformer_whose_pyramid_nothing_reads(lora_rank: int) -> None:
    if lora_rank:
        pytest.importorskip("peft")
    tiny = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    encoder = partial(ViTEncoder, "vit_small_patch14_reg4_dinov2", model_args=tiny, lora_rank=lora_rank)
    norms, parameters = briefly(1, 2, encoder)
    for found, state in on_ranks(briefly, 2, 2, 1, encoder):
        assert found == pytest.approx(norms, rel=1e-9)
        for name, value in parameters.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-9, msg=name)


def resumed(folder: str) -> dict[str, Any]:
    """A training of six rounds, and one that goes on with it after the third; with tasks shared out."""
    found = {}
    for name, checkpoint in (("whole", None), ("resumed", f"{folder}/step=3.ckpt")):
        data = data_of("tasks")
        module = module_of(data)
        saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        trainer = ranks_trainer_of(
            devices=2, strategy="ddp", max_steps=6, callbacks=[saver], enable_checkpointing=True, limit_val_batches=0
        )
        trainer.fit(module, data, ckpt_path=checkpoint)
        found[name] = {"parameters": module.model.state_dict(), "loader": trainer.train_dataloader.state_dict()}
    return found


def test_ranks_that_share_out_tasks_go_on_with_the_same_bits(tmp_path: Path) -> None:
    for found in on_ranks(resumed, 2, str(tmp_path)):
        # the times are those of the first run, or tasks might be dealt out otherwise and sums be rounded otherwise
        assert found["resumed"]["loader"] == found["whole"]["loader"]
        for name, value in found["whole"]["parameters"].items():
            assert torch.equal(found["resumed"]["parameters"][name], value), name


# --- what the ranks say to each other ---------------------------------------------------------------------------------


def said(distribute: str) -> tuple[list[tuple[str, int]], int]:
    """All collectives of a short training on this rank, and the bytes of its gradients."""
    data = data_of(distribute)
    module = module_of(data, partial(small_encoder, name="test_resnet"))
    with Collectives() as collectives:
        options = {"max_steps": 4, "log_every_n_steps": 50, "limit_val_batches": 0}
        ranks_trainer_of(devices=2, strategy="ddp", **options).fit(module, data)
    return collectives.calls, sum(p.nbytes for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("distribute", [pytest.param("samples", marks=pytest.mark.slow), "tasks"])
def test_a_step_has_one_exchange_and_lightnings_question_whether_to_stop(distribute: str) -> None:
    for calls, size in on_ranks(said, 2, distribute):
        large = [i for i, (_, sent) in enumerate(calls) if sent > 0.5 * size]
        assert len(large) == 1 + 4, "DDP makes all parameters equal once, at the start; then one a step"
        assert all(size <= calls[i][1] <= 1.01 * size for i in large[1:])
        first, *_, last = large[1:]
        between = calls[first + 1 : last + 1]  # nor are there small ones, such as of BatchNorm's statistics
        assert [name for name, _ in between] == ["broadcast_", "allreduce_"] * 3
        assert all(sent <= 8 for name, sent in between if name == "broadcast_")


# --- BatchNorm --------------------------------------------------------------------------------------------------------


def statistics_of(world_size: int, distribute: str, batch_norm: str, times: int = 1) -> dict[str, Tensor]:
    data = data_of(distribute, per_round=5, times=times)
    module = module_of(data, partial(small_encoder, name="test_resnet", batch_norm=batch_norm))
    strategy = "ddp" if world_size > 1 else "auto"
    ranks_trainer_of(devices=world_size, strategy=strategy, max_steps=3, limit_val_batches=0).fit(module, data)
    found = module.model.state_dict()
    return {name: value for name, value in found.items() if "running" in name or "tracked" in name}


@pytest.mark.parametrize(
    ("distribute", "batch_norm"),
    [
        ("tasks", "per_task"),
        pytest.param("tasks", "keep", marks=pytest.mark.slow),
        pytest.param("samples", "keep", marks=pytest.mark.slow),
        pytest.param("samples", "per_task", marks=pytest.mark.slow),
    ],
)
def test_running_statistics_are_those_of_one_process_on_all_ranks(distribute: str, batch_norm: str) -> None:
    first, second = on_ranks(statistics_of, 2, 2, distribute, batch_norm)
    expected = statistics_of(1, distribute, batch_norm, times=2 if distribute == "samples" else 1)
    assert first.keys() == expected.keys()
    for name, value in first.items():
        assert torch.equal(second[name], value), (name, second[name] - value)
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


# --- a rank that is lost ----------------------------------------------------------------------------------------------


class Lose(pl.Callback):
    """Sends the second rank a signal at its second step."""

    def __init__(self, how: signal.Signals) -> None:
        self.how = how

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, number: int) -> None:
        if trainer.global_rank == 1 and number == 1:
            os.kill(os.getpid(), self.how)


def _lossy(rank: int, port: int, how: signal.Signals, file: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= torchrun_variables(rank, 2, port)
    data = data_of()
    strategy = DDPStrategy(timeout=timedelta(seconds=5))
    try:
        ranks_trainer_of(devices=2, strategy=strategy, callbacks=[Lose(how)]).fit(module_of(data), data)
    except RuntimeError as error:
        file.write_text(str(error))
        os._exit(3)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)], ids=["killed", "hangs"]
)
def test_where_a_rank_is_lost_the_other_ends_in_time_and_says_why(how: signal.Signals, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    port = free_port()
    processes = [context.Process(target=_lossy, args=(rank, port, how, tmp_path / f"{rank}")) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        processes[0].join(60)
        assert processes[0].exitcode == 3
    finally:
        for process in processes:
            process.kill()
            process.join()
    message = (tmp_path / "0").read_text()
    for part in ("Rank 0 of 2", "another rank has ended or does not answer", "--ckpt_path last", "timeout"):
        assert part in message
