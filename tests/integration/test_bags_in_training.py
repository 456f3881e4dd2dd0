"""Bags whose images go through the encoder in chunks, beside other tasks, in everything that a training can do."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from builders import SMALL_PIXELS, MemoryReader, small_encoder, trainer_of
from torch import Tensor

from benchmarks.ranks import on_ranks
from umedpt_lightning.blocks import BagTransformer, GatedAttention
from umedpt_lightning.data.datamodule import MultiTaskDataModule, TaskData
from umedpt_lightning.data.loading.dataset import collate
from umedpt_lightning.data.readers import Bags, Subset
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.aggregation import ExactBalance, SketchBalance

torchjd = pytest.importorskip("torchjd.aggregation")
CHUNK = 2
UNCLIPPED = Optimization(learning_rate=0.01, clip=None)


def patients(images: int = 45, wild: int | None = None, **options: Any) -> Bags:
    """Five images or four of each of ten patients, of whom those of `wild` are infinite."""
    reader = MemoryReader("class", size=images)
    reader.images = reader.images.astype(np.float32)
    numbers = np.arange(images) % 10
    reader.targets = numbers % 3
    reader.images[numbers == wild] = np.inf
    return Bags(reader, group=r"(\d)$", **options)


def module_of(data: MultiTaskDataModule, chunk: int, block: Any = GatedAttention, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    encoder = small_encoder(checkpointing=options.pop("checkpointing", False))
    blocks = {"bag": partial(block, chunk=chunk)}
    options = {"pixel_decoder": SMALL_PIXELS, "optimization": UNCLIPPED} | options
    return MultiTaskModule(data.specs, encoder, blocks=blocks, **options)


def data_of(times: int = 1, distribute: str = "samples") -> MultiTaskDataModule:
    """Bags of which three images are drawn, beside classes and masks."""
    readers = {"bags": patients(max_instances=3), "a": MemoryReader("class", seed=1), "b": MemoryReader("mask", seed=2)}
    tasks = {
        name: TaskData(train=reader, val=reader, batch_size=3, micro_batches=times) for name, reader in readers.items()
    }
    return MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=4, distribute=distribute)


def trained(chunk: int = CHUNK, world_size: int = 1, precision: Any = None, **options: Any) -> dict[str, Tensor]:
    """The gradients of the last of four rounds, and the parameters after it."""
    data = data_of(options.pop("times", 1), options.pop("distribute", "samples"))
    module = module_of(data, chunk, **options)
    if precision is None:
        module.double()
    trainer = trainer_of(
        max_steps=4,
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        use_distributed_sampler=False,
        precision=precision,
    )
    trainer.fit(module, data)
    found = {f"gradient {name}": g.clone() for name, g in module.gradients.buffer.gradients.items()}
    return found | {name: value.detach() for name, value in module.model.named_parameters()}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0, msg=name)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "transformer": {"block": BagTransformer},
    "packs": {"pack_pixels": 10**6},
    "checkpointing": {"checkpointing": True},
    "balanced": {"aggregator": partial(ExactBalance, torchjd.MGDAWeighting())},
    "sketched": {"aggregator": partial(SketchBalance, torchjd.MGDAWeighting())},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_chunks_change_nothing(name: str) -> None:
    def made() -> dict[str, Any]:  # an aggregator is of one training
        return {key: value() if key == "aggregator" else value for key, value in SETTINGS[name].items()}

    found = trained(CHUNK, **made())
    largest = max(float(value.abs().max()) for key, value in found.items() if key.startswith("gradient blocks.bag"))
    assert largest > 1e-7
    assert_alike(found, trained(100, **made()), 1e-10)
    if name in ("packs", "checkpointing"):
        assert_alike(found, trained(CHUNK), 1e-9)


def test_nor_do_they_in_half_precision() -> None:
    data, found = data_of(), []
    batch = next(iter(next(iter(data.train_dataloader()))))
    assert batch.task == "bags"
    for chunk in (CHUNK, 100):
        module = module_of(data, chunk)
        with torch.autocast("cpu", torch.bfloat16):
            module.model.task("bags").loss(module.model(batch.images, "bags"), batch.targets).backward()
        found.append({name: p.grad for name, p in module.model.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in found[1].values())
    assert_alike(found[0], found[1], 0.01 * largest)
    assert all(value.isfinite().all() for value in trained(precision="bf16-mixed").values())


@pytest.mark.parametrize("distribute", ["samples", "tasks"])
def test_two_ranks_end_with_the_parameters_of_one_process(distribute: str) -> None:
    expected = trained(times=2 if distribute == "samples" else 1)
    for found in on_ranks(partial(trained, world_size=2, distribute=distribute), 2):
        assert_alike(found, expected, 1e-9)


@pytest.mark.filterwarnings("ignore:Round 0")
def test_a_bag_that_is_not_finite_is_left_out_as_if_it_had_never_been_there() -> None:
    bags = Subset(patients(wild=1), 1, 3)
    tasks = {"bags": TaskData(train=bags, val=bags, batch_size=1, micro_batches=2)}
    data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=1)
    module = module_of(data, CHUNK, optimization=Optimization(learning_rate=1e-30, clip=None)).double()
    model = copy.deepcopy(module.model)
    trainer_of(max_steps=1).fit(module, data)
    batch = collate("bags", [bags[1]])
    model.task("bags").loss(model(batch.images, "bags"), batch.targets).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_alike(dict(module.gradients.buffer.gradients), expected, 1e-9)
