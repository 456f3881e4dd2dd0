"""How a GPU is used in training, against a bare loop; without a GPU the same in small, to see that it runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from torch import nn

from benchmarks.distributed import KINDS, Noise
from benchmarks.jpegs import make_jpegs
from benchmarks.memory import SWIN, FromMemory
from benchmarks.micro_batches import batches_of, specs_of
from benchmarks.on_device import Waits, Watch, busy_share, device, has_gpu, peak_bytes, ratio, seconds
from benchmarks.resume import differing_of, kills, project_of
from umedpt_lightning.blocks import BaseEncoder, Encoder, ViTEncoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.types import TaskBatch

TASKS = 4


def encoder_of(name: str, small: bool, **options: Any) -> BaseEncoder:
    """``swin``, ``vit`` or a timm model; small ones of their kind where nothing is to be measured."""
    if name == "vit":
        tiny = {"depth": 2, "embed_dim": 64, "num_heads": 2} if small else None
        return ViTEncoder("vit_small_patch16_224", model_args=tiny, **options)
    return Encoder("test_convnext" if small else {"swin": SWIN}.get(name, name), **options)


def side_of(small: bool) -> int:
    """Pixels of an image."""
    return 64 if small else 224


def batch_of(small: bool) -> int:
    """Images of a micro-batch."""
    return 2 if small else 32


def workers_of(small: bool) -> int:
    """Processes that read."""
    return 1 if small else min(16, len(os.sched_getaffinity(0)))


def trainer_of(**options: Any) -> pl.Trainer:
    """One device, without validation, checkpoints and logs."""
    fixed = {
        "accelerator": device().type,
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "log_every_n_steps": 10,
        "precision": "bf16-mixed",
    }
    return pl.Trainer(**(fixed | options))


def synchronisations(small: bool) -> dict[str, float]:
    """Of a round with classes, masks and boxes that are in memory."""
    data = MultiTaskDataModule({k: TaskData(train=Noise(k, 64), batch_size=2) for k in KINDS}, num_workers=0)
    batches = list(next(iter(data.train_dataloader())))
    module = MultiTaskModule(data.specs, encoder_of("swin", small, in_channels=1))
    warm_up, rounds, waits = 3, 5, Waits()
    watch = Watch(warm_up, waits)
    loader = FromMemory(batches, warm_up + rounds)
    trainer_of(max_steps=warm_up + rounds, callbacks=[watch], log_every_n_steps=100).fit(module, loader)
    return {"gpu.synchronisations_a_step": waits.count / rounds}


def memory(small: bool) -> dict[str, float]:
    """Peak of a round of 64 tasks, every second with masks, over that of 4."""
    return {"gpu.peak_memory_64_over_4_tasks": _peak(64, small) / _peak(4, small)}


def _peak(tasks: int, small: bool) -> int:
    specs = specs_of(tasks, masks=True)
    batches = batches_of(specs, batch_of(small), side_of(small))
    module = MultiTaskModule(specs, encoder_of("swin", small))
    trainer = trainer_of(max_steps=2)
    return peak_bytes(lambda: trainer.fit(module, FromMemory(batches, 2)), module)


def swin(small: bool) -> dict[str, float]:
    """Of Swin-T."""
    return _throughput("swin", small)


def vit(small: bool) -> dict[str, float]:
    """Of ViT-S."""
    return _throughput("vit", small)


def _throughput(name: str, small: bool) -> dict[str, float]:
    """JPEGs in bf16: a bare loop and the Trainer over data in memory, and the Trainer with the real loader."""
    warm_up, rounds = (1, 2) if small else (5, 20)
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 8 if small else 512, size=side_of(small))
        reader, size = ClassFolders(folder), side_of(small)
        tasks = {f"task{i}": TaskData(train=reader, batch_size=batch_of(small), size=size) for i in range(TASKS)}
        data = MultiTaskDataModule(tasks, num_workers=workers_of(small), steps_per_epoch=10**6)
        loader = data.train_dataloader()
        batches = list(next(iter(loader)))
        loader.close()
        specs = data.specs
        bare = Loop(MultiTaskModel(encoder_of(name, small), specs), batches)
        alone = seconds(bare.step, rounds)
        del bare
        train = partial(_train, name, small, specs, warm_up, rounds)
        with_trainer = train(FromMemory(batches, warm_up + rounds))
        with_loader = train(data)
        shares: list[float] = []
        train(data, busy_share(shares))
    return {
        f"gpu.trainer_over_bare_{name}": with_trainer / alone,
        f"gpu.loader_over_memory_{name}": alone / with_loader,
        f"gpu.waiting_share_{name}": 1 - shares[0],
    }


def _train(
    name: str, small: bool, specs: Any, warm_up: int, rounds: int, data: Any, context: Any = None, **options: Any
) -> float:
    """Seconds a round of the Trainer."""
    watch = Watch(warm_up, context)
    module = MultiTaskModule(specs, encoder_of(name, small))
    trainer_of(max_steps=warm_up + rounds, callbacks=[watch], **options).fit(module, data)
    return watch.seconds


def one_rank(small: bool) -> dict[str, float]:
    """A round with DDP over one rank (NCCL on a GPU), over one without."""
    specs, rounds = specs_of(TASKS), 2 if small else 20
    batches = batches_of(specs, batch_of(small), side_of(small))
    train = partial(_train, "swin", small, specs, 2, rounds)
    ddp, single = (train(FromMemory(batches, 2 + rounds), strategy=s) for s in ("ddp", "auto"))
    return {"gpu.nccl_one_rank_over_single": ddp / single}


def precisions(small: bool) -> dict[str, float]:
    """Steps of Swin-T in fp16 and bf16 over float32."""
    loop, runs = _loop(encoder_of("swin", small), small), 1 if small else 3
    loop.dtype = None
    steps = {key: partial(loop.step_in, dtype) for key, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16))}
    return {f"gpu.{key}_over_fp32": ratio(step, loop.step, runs) for key, step in steps.items()}


def options(small: bool) -> dict[str, float]:
    """Steps in bf16: ConvNeXt-T in channels_last, ViT-S compiled and Swin-T computed again, each over without."""
    runs = 1 if small else 3
    last, usual = (_loop(encoder_of("convnext_tiny", small, channels_last=on), small) for on in (True, False))
    found = {"gpu.channels_last_over_contiguous": ratio(last.step, usual.step, runs)}
    del last, usual
    eager, compiled = _loop(encoder_of("vit", small), small), _loop(encoder_of("vit", small), small)
    compiled.model.compile_blocks()
    found["gpu.compiled_over_eager"] = ratio(compiled.step, eager.step, runs)
    del eager, compiled
    again, kept = (_loop(encoder_of("swin", small, checkpointing=on), small) for on in (True, False))
    found["gpu.checkpointing_time"] = ratio(again.step, kept.step, runs)
    return found


def checkpointing_memory(small: bool) -> dict[str, float]:
    """Peak of a step of Swin-T whose blocks are computed again, over one without."""
    again, kept = (_peak_of_step(encoder_of("swin", small, checkpointing=on), small) for on in (True, False))
    return {"gpu.checkpointing_memory": again / kept}


def _peak_of_step(encoder: BaseEncoder, small: bool) -> int:
    loop = _loop(encoder, small)
    loop.step()  # the optimizer has its state
    return peak_bytes(loop.step, loop.model)


def resumed(small: bool) -> dict[str, float]:
    """Runs of all label kinds that were killed and differ from one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        file = project_of(Path(folder), workers=0)
        config = yaml.safe_load(file.read_text())
        config["trainer"] |= {"accelerator": device().type, "devices": 1}
        if has_gpu():
            config["trainer"]["deterministic"] = "warn"
        file.write_text(yaml.safe_dump(config))
        found = differing_of(file, kills(2 if small else 4), Path(folder))
    for line in found:
        print(line)
    return {"gpu.killed_runs_that_differ": len(found)}


def _loop(encoder: BaseEncoder, small: bool) -> Loop:
    specs = specs_of(1)
    return Loop(MultiTaskModel(encoder, specs), batches_of(specs, batch_of(small), side_of(small)))


class Loop:
    """What one would write by hand, over batches in memory.

    Attributes:
        dtype: Of autocast; None for float32.
    """

    def __init__(self, model: MultiTaskModel, batches: Iterable[TaskBatch]) -> None:
        self.model = model.train().to(device())
        self.optimizer = Optimization().build_optimizer(model, scaled=True)
        self.scaler = torch.amp.GradScaler(device().type, enabled=False)
        self.dtype: torch.dtype | None = torch.bfloat16
        self._batches = [_pinned(batch) for batch in batches]

    def step(self) -> None:
        """One over all batches."""
        self.step_in(self.dtype)

    def step_in(self, dtype: torch.dtype | None) -> None:
        """As above, in this dtype."""
        self.scaler = torch.amp.GradScaler(device().type, enabled=dtype == torch.float16)
        for batch in self._batches:
            batch = batch.to(device(), non_blocking=True)
            with torch.autocast(device().type, dtype, enabled=dtype is not None):
                output = self.model(batch.images, batch.task)
                loss = self.model.task(batch.task).loss(output, batch.targets) / len(self._batches)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def _pinned(batch: TaskBatch) -> TaskBatch:
    return batch.pin_memory() if has_gpu() else batch
