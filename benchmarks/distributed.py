"""What several ranks say to each other in a step, and how far their parameters are from those of one process.

Ranks of gloo on this machine's CPU, started as by torchrun. Counts and bytes do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from benchmarks.ranks import Allocations, Collectives, on_ranks
from umedpt_lightning.blocks import DetectionDecoder, Encoder, PixelDecoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.loading.schedule import SomeTasks
from umedpt_lightning.data.readers import Reader
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.types import BoxArrays, BoxSpec, ClassSpec, MaskSpec, Sample

Kind = Literal["classes", "masks", "boxes"]
KINDS: tuple[Kind, ...] = ("classes", "masks", "boxes")
STEPS = 20


class Noise(Reader):
    """Random images with random targets."""

    def __init__(self, kind: Kind, side: int) -> None:
        spec = {"classes": ClassSpec, "masks": MaskSpec, "boxes": BoxSpec}[kind]
        self.spec = spec(channels=1, classes=("one", "other"))
        self.kind, self.side = kind, side

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, (self.side, self.side, 1), dtype=np.uint8)
        targets = {
            "classes": index % 2,
            "masks": (image[..., 0] > 128).astype(np.uint8),
            "boxes": BoxArrays(np.array([[4, 4, 20 + index, 20]], np.float32), np.array([index % 2])),
        }
        return Sample(image, targets[self.kind], f"noise {index}")


class Said(NamedTuple):
    """What a rank said in a training.

    Attributes:
        a_step: Collectives a step, from one exchange of gradients to the next.
        bytes_over_gradients: Those that are sent in an exchange over those of the gradients.
        extra_over_gradients: Memory that an exchange takes beside the gradients, over that of the gradients: what it
            allocates, and what is kept for it.
    """

    a_step: float
    bytes_over_gradients: float
    extra_over_gradients: float


def measure(quick: bool = False) -> dict[str, float]:
    """Counts, bytes and errors; `quick` leaves out the runs with four ranks."""
    be_quiet()
    few, many = (Said(*on_ranks(_said, 2, tasks)[0]) for tasks in (2, 32))
    alone = {times: _trained(1, times=times) for times in ((1, 2) if quick else (1, 2, 4))}
    error = 0.0
    for world_size in (2,) if quick else (2, 4):
        for distribute in ("samples", "tasks"):
            expected = alone[world_size if distribute == "samples" else 1]
            for found in on_ranks(_trained, world_size, world_size, distribute):
                error = max([error, *(float((found[name] - expected[name]).abs().max()) for name in expected)])
    return {
        "distributed.collectives_32_over_2_tasks": round(many.a_step / few.a_step, 3),
        "distributed.bytes_over_gradients": round(max(few.bytes_over_gradients, many.bytes_over_gradients), 5),
        "distributed.exchange_bytes_over_gradients": round(max(few.extra_over_gradients, many.extra_over_gradients), 5),
        "distributed.max_parameter_error": error,
    }


def _said(tasks: int) -> tuple[float, float, float]:
    """What this rank of two says in five steps with so many tasks."""
    data = MultiTaskDataModule(
        {f"t{i}": TaskData(train=Noise("classes", 32), batch_size=1) for i in range(tasks)}, num_workers=0
    )
    module = MultiTaskModule(data.specs, Encoder("test_convnext", in_channels=1))
    extra = _count_exchanges(module)
    with Collectives() as collectives:
        trainer_of(2, 5).fit(module, data)
    gradients = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    # the first large one is DDP's, which makes all parameters equal at the start
    _, *exchanges = [i for i, (_, size) in enumerate(collectives.calls) if size > gradients / 2]
    a_step = (exchanges[-1] - exchanges[0]) / (len(exchanges) - 1)
    return a_step, max(collectives.calls[i][1] for i in exchanges) / gradients, max(extra) / gradients


def _count_exchanges(module: MultiTaskModule) -> list[int]:
    """A list that will have the bytes that each exchange takes beside the gradients."""
    found: list[int] = []
    prepare = module.gradients.prepare

    def prepared() -> None:
        prepare()
        buffer = module.gradients.buffer
        exchange = buffer.exchange

        def counted(others: Sequence[Tensor]) -> list[Tensor]:
            with Allocations() as allocations:
                sums = exchange(others)
            views = sum(gradient.nbytes for gradient in buffer.gradients.values())
            kept = sum(storage.nbytes() for storage in {f.untyped_storage() for f in buffer.flats}) - views
            found.append(allocations.bytes + kept)
            return sums

        buffer.exchange = counted  # type: ignore[method-assign]

    module.gradients.prepare = prepared  # type: ignore[method-assign]
    return found


def _trained(world_size: int, distribute: Any = "samples", times: int = 1) -> dict[str, Tensor]:
    """Parameters after 20 steps with a frozen stem and clipped gradients; one of four tasks skips each round."""
    kinds: Sequence[Kind] = (*KINDS, "classes")
    data = MultiTaskDataModule(
        {f"t{i}": TaskData(train=Noise(k, 64), batch_size=2, micro_batches=times) for i, k in enumerate(kinds)},
        num_workers=0,
        schedule=partial(SomeTasks, per_round=3),
        distribute=distribute,
    )
    torch.manual_seed(0)
    module = MultiTaskModule(
        data.specs,
        Encoder("test_convnext", in_channels=1),
        pixel_decoder=partial(PixelDecoder, channels=4),
        detection_decoder=partial(DetectionDecoder, channels=32, convolutions=1),
        optimization=Optimization(clip=0.05),
    ).double()
    for parameter in next(iter(module.model.encoder.net.children())).parameters():
        parameter.requires_grad = False
    trainer_of(world_size, STEPS).fit(module, data)
    return {name: parameter.detach() for name, parameter in module.model.named_parameters()}


def trainer_of(world_size: int, steps: int, strategy: str = "ddp") -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=strategy if world_size > 1 else "auto",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=STEPS,
        use_distributed_sampler=False,
    )


def be_quiet() -> None:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no runs with four ranks")
    print(json.dumps(measure(parser.parse_args().quick), indent=2))


if __name__ == "__main__":
    main()
