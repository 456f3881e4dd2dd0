"""How fast `umedpt predict` works on a folder of JPEGs, against a loop of the same model over images in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import in_fresh_process
from umedpt_lightning.blocks import Encoder, PixelDecoder
from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.predict import predict_files
from umedpt_lightning.io.arrays import as_tensor
from umedpt_lightning.io.resize import resize
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import ClassSpec, MaskSpec

_STORED, _SIZE, _BATCH = 768, (224, 224), 8


def measure(quick: bool = False) -> dict[str, float]:
    """Images a second over those of the bare loop, by the clock: reading and writing are to cost no time at all."""
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 32 if quick else 96, size=_STORED, classes=1)
        return {"predict.rate_over_bare": in_fresh_process(_ratio, folder)}


def _ratio(folder: str) -> float:
    torch.set_num_threads(1)  # the other core is for the process that reads
    torch.manual_seed(0)
    specs = {"kind": ClassSpec(channels=3, classes=("a", "b")), "area": MaskSpec(channels=3, classes=("a", "b"))}
    decoder = partial(PixelDecoder, channels=16)
    model = MultiTaskModel(Encoder("resnet18"), specs, pixel_decoder=decoder, sizes=dict.fromkeys(specs, _SIZE)).eval()
    images = [resize(read_image(path), _SIZE) for path in sorted(Path(folder).rglob("*.jpg"))]
    batches = [as_tensor(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    _bare(model, batches[:1])  # the first pass makes what later ones find
    return _seconds(partial(_bare, model, batches)) / _seconds(partial(_predict, model, folder))


def _predict(model: MultiTaskModel, folder: str) -> None:
    """From the folder to tables and masks, as the command does with a loaded model."""
    with tempfile.TemporaryDirectory() as out:
        predict_files(model, [folder], out, compute=ComputeOptions(batch_size=_BATCH, num_workers=1))


def _bare(model: MultiTaskModel, batches: list[Tensor]) -> None:
    for images in batches:
        for task in model.tasks:
            model.predict_batch(images, task, [(_STORED, _STORED)] * len(images))


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
