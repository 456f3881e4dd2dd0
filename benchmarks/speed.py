"""What one optimizer, packs, and the options for speed are worth."""

from __future__ import annotations

import os
import tempfile
import time
from unittest.mock import patch

import torch

from benchmarks.micro_batches import batches_of, specs_of
from benchmarks.timing import ratio
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Classification, FeatureWidths
from umedpt_lightning.training import Optimization
from umedpt_lightning.training.packing import packs
from umedpt_lightning.types import TaskBatch

CONV, SWIN = "convnext_atto", "swin_tiny_patch4_window7_224"


def optimizer(quick: bool = False) -> dict[str, float]:
    """A step of one AdamW over 64 heads over 64 steps of one a head."""
    specs = specs_of(64)
    widths = FeatureWidths(embedding=320, pixels=32, detection=32)
    heads = torch.nn.ModuleList(Classification(spec, widths) for spec in specs.values())  # type: ignore[arg-type]
    for parameter in heads.parameters():
        parameter.grad = torch.randn_like(parameter)
    one = Optimization().build_optimizer(heads)
    many = [torch.optim.AdamW(head.parameters(), fused=True) for head in heads]

    def step_many() -> None:
        for _ in range(20):
            for single in many:
                single.step()

    def step_one() -> None:
        for _ in range(20):
            one.step()

    return {"speed.optimizer_one_over_many_64": ratio((step_one, step_many), 3 if quick else 11)}


def packed(quick: bool = False) -> dict[str, float]:
    """A round of 8 tasks of 2 images of 64 pixels in one pack, over the same one after the other."""
    specs = specs_of(8)
    batches = batches_of(specs, images=2, side=64)
    model = MultiTaskModel(Encoder(CONV), specs)
    budget = sum(len(batch) for batch in batches) * 64**2
    sides = (lambda: _round(model, batches, budget), lambda: _round(model, batches, 0))
    return {"speed.packed_over_accumulated": ratio(sides, 5 if quick else 21)}


def options(quick: bool = False) -> dict[str, float]:
    """bf16 and channels_last over float32 and the usual layout: ConvNeXt-Atto at 96 pixels, Swin-T at 224."""
    runs = 2 if quick else 7
    small, swin = _Training(CONV, 4, 96), _Training(SWIN, 1, 224)
    last = _Training(CONV, 4, 96, channels_last=True)
    return {
        "speed.bf16_over_fp32": ratio((small.in_bf16, small.step), runs),
        "speed.bf16_over_fp32_swin": ratio((swin.in_bf16, swin.step), 1 if quick else 2),
        "speed.channels_last_over_contiguous": ratio((last.step, small.step), runs),
    }


def compiled(quick: bool = False) -> dict[str, float]:
    """A compiled ConvNeXt of 0.2 million parameters over the same in eager mode, and how long the first step takes."""
    eager, faster = _Training("test_convnext", 8, 64), _Training("test_convnext", 8, 64)
    faster.model.compile_blocks()
    # a cache of its own, which is empty: else a machine that has compiled it before would only load it
    with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        start = time.perf_counter()
        faster.step()
        first = time.perf_counter() - start
        compiled_over_eager = ratio((faster.step, eager.step), 5 if quick else 21)
    return {"speed.compiled_over_eager": compiled_over_eager, "speed.compiled_first_step_seconds": first}


def _round(model: MultiTaskModel, batches: list[TaskBatch], pixels: int) -> None:
    for pack in packs(batches, model, pixels):
        outputs = model.forward_pack([batch.images for batch in pack], [batch.task for batch in pack])
        losses = [model.task(b.task).loss(output, b.targets) for b, output in zip(pack, outputs, strict=True)]
        torch.stack(losses).sum().backward()


class _Training:
    """Forward, backward and step of an encoder with one classification task."""

    def __init__(self, name: str, images: int, side: int, channels_last: bool = False) -> None:
        specs = specs_of(1)
        self.batches = batches_of(specs, images, side)
        self.model = MultiTaskModel(Encoder(name, channels_last=channels_last), specs)
        self.optimizer = Optimization().build_optimizer(self.model)

    def step(self) -> None:
        _round(self.model, self.batches, 0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def in_bf16(self) -> None:
        """As trainer.precision bf16-mixed does it."""
        with torch.autocast("cpu", torch.bfloat16):
            self.step()
