"""What a rank keeps where blocks are shared out, and how far its parameters are from those of one process."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.distributed import KINDS, STEPS, Noise, be_quiet, trainer_of
from benchmarks.ranks import on_ranks
from umedpt_lightning.blocks import DetectionDecoder, PixelDecoder, ViTEncoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.sharding import own_part


def measure(quick: bool = False) -> dict[str, float]:
    """Two ranks of gloo against one process, after 20 steps with classes, masks and boxes."""
    be_quiet()
    (expected, whole), ranks = _trained(1), on_ranks(_trained, 2, 2)
    found, _ = ranks[0]
    return {
        "encoders.sharded_memory_over_one": max(part for _, part in ranks) / whole,
        "encoders.sharded_parameter_error": max(float((found[n] - v).abs().max()) for n, v in expected.items()),
    }


def _trained(world_size: int) -> tuple[dict[str, Tensor], int]:
    """Whole parameters, of the first rank, and the bytes of parameters, gradients and optimizer state of blocks."""
    times = 2 if world_size == 1 else 1
    tasks = {k: TaskData(train=Noise(k, 64), batch_size=2, micro_batches=times) for k in KINDS}
    data = MultiTaskDataModule(tasks, num_workers=0)
    torch.manual_seed(0)
    module = MultiTaskModule(
        data.specs,
        ViTEncoder("vit_small_patch16_224", in_channels=1, model_args={"depth": 4, "embed_dim": 64, "num_heads": 2}),
        pixel_decoder=partial(PixelDecoder, channels=4),
        detection_decoder=partial(DetectionDecoder, channels=32, convolutions=1),
        optimization=Optimization(clip=0.05),
    ).double()
    trainer = trainer_of(world_size, STEPS, "sharded")
    trainer.fit(module, data)
    state: Any = trainer.optimizers[0].state
    blocks = [p for name, p in module.model.named_parameters() if not name.startswith("tasks.")]
    kept = [*blocks, *(p.grad for p in blocks), *(v for p in blocks for v in state.get(p, {}).values() if v.ndim)]
    parameters = {n: v for n, v in trainer.strategy.lightning_module_state_dict().items() if n.startswith("model.")}
    return parameters, sum(own_part(one).nbytes for one in kept if one is not None)
