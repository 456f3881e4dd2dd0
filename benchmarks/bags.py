"""Bags of images: gradients, memory and time of chunks that go through the encoder twice, and runs that are killed."""

from __future__ import annotations

import ctypes
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.processes import peak_rss, rss, side_by_side
from benchmarks.resume import differing, kills
from benchmarks.timing import ratio
from umedpt_lightning.blocks import Encoder, GatedAttention
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import Bags, ClassSpec

LARGE, SMALL, CHUNK = 2048, 64, 32


def measure(quick: bool = False) -> dict[str, float]:
    """Largest difference of a gradient over the largest; growth of peak RSS beside the images; CPU time; kills."""
    planned = kills(2 if quick else 20, seed=1)
    half = len(planned) // 2
    first, second = side_by_side((differing, planned[:half], 0, True), (differing, planned[half:], 0, True))
    found = first + second
    for line in found:
        print(line)
    large, small = side_by_side(*((_growth, size) for size in (LARGE, SMALL)))
    return {
        "bags.gradient_error": _gradient_error(torch.float32),
        "bags.gradient_error_float64": _gradient_error(torch.float64),
        "bags.memory_2048_over_64": large / small,
        "bags.time_over_plain": _time(3 if quick else 7),
        "bags.runs_that_differ": len(found),
    }


def model_of(encoder: str, chunk: int) -> MultiTaskModel:
    """With one task of bags."""
    torch.manual_seed(0)
    spec = ClassSpec(channels=3, classes=("a", "b"), bag="patient")
    return MultiTaskModel(Encoder(encoder), {"t": spec}, blocks={"bag": partial(GatedAttention, chunk=chunk)})


def bag_of(size: int, side: int) -> Bags:
    """Noise."""
    images = np.random.default_rng(0).integers(0, 256, (size, 3, side, side), np.uint8)
    return Bags(torch.from_numpy(images), [size])


def step(model: MultiTaskModel, bag: Bags) -> None:
    """Forward and backward."""
    model.task("t").loss(model(bag, "t"), torch.ones(1, dtype=torch.int64)).backward()


def _gradient_error(dtype: torch.dtype) -> float:
    found: list[list[Tensor]] = []
    for chunk in (LARGE, CHUNK):
        model = model_of("test_convnext", chunk).to(dtype)
        step(model, bag_of(LARGE, 32))
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    whole, parts = found
    largest = max(float(gradient.abs().max()) for gradient in whole)
    return max(float((a - b).abs().max()) for a, b in zip(whole, parts, strict=True)) / largest


def _growth(size: int) -> float:
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: else glibc keeps what is freed, in pieces
        libc.mallopt(option, 1 << 16)
    model, bag = model_of("convnext_atto", CHUNK), bag_of(size, 96)
    before = rss()  # the images as they are stored are there already
    step(model, bag)
    return peak_rss() - before


def _time(repeats: int) -> float:
    bag, (parts, whole) = bag_of(128, 64), (model_of("convnext_atto", chunk) for chunk in (CHUNK, 128))
    return ratio((lambda: step(parts, bag), lambda: step(whole, bag)), repeats)
