"""How a GPU is used in validation, `umedpt predict` and `umedpt embed`, against bare loops over images in memory."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_training import batch_of, encoder_of, side_of, trainer_of, workers_of
from benchmarks.jpegs import make_jpegs
from benchmarks.on_device import device, ratio
from umedpt_lightning.blocks import PixelDecoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.formats.images import read_image
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.embed import fill, image_pieces
from umedpt_lightning.inference.find_inputs import find_inputs
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.predict import predict_files
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Store
from umedpt_lightning.io.arrays import as_tensor
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import ClassSpec, MaskSpec, TaskBatch


def measure(small: bool) -> dict[str, float]:
    """Swin-T in bf16 over a folder of JPEGs: rates over those of the bare loops."""
    files, copies = (8, 1) if small else (1024, 8)
    with tempfile.TemporaryDirectory() as folder:
        made = sorted(make_jpegs(Path(folder), files, size=side_of(small)).rglob("*.jpg"))
        for number in range(1, copies):
            for file in made:
                os.link(file, file.with_stem(f"{file.stem}_{number}"))
        return {
            "gpu.validation_rate_over_bare": 1 / _validation(folder, small),
            "gpu.predict_rate_over_bare": 1 / _predict(folder, small),
            "gpu.embed_rate_over_bare": 1 / _embed(folder, small),
        }


def _validation(folder: str, small: bool) -> float:
    reader = ClassFolders(folder)
    task = TaskData(train=reader, val=reader, batch_size=batch_of(small), size=side_of(small))
    data = MultiTaskDataModule({"kind": task}, num_workers=workers_of(small))
    module = MultiTaskModule(data.specs, encoder_of("swin", small))
    batches: list[TaskBatch] = list(data.val_dataloader())
    trainer = trainer_of(limit_val_batches=1.0)
    model, head = module.model, module.model.task("kind")

    @torch.inference_mode()
    def bare() -> None:
        model.to(device())
        for one in batches:
            moved = one.to(device(), non_blocking=True)
            with torch.autocast(device().type, torch.bfloat16):
                head.update(model(moved.images, "kind"), moved.targets)
        head.compute()
        head.reset()

    return ratio(lambda: trainer.validate(module, data, verbose=False), bare, runs=1)


def _options(small: bool) -> ComputeOptions:
    return ComputeOptions(device().type, "bf16", batch_of(small), workers_of(small))


def _predict(folder: str, small: bool) -> float:
    side = side_of(small)
    specs = {"kind": ClassSpec(channels=3, classes=("a", "b")), "area": MaskSpec(channels=3, classes=("a", "b"))}
    decoder = partial(PixelDecoder, channels=16)
    sizes = dict.fromkeys(specs, (side, side))
    model = MultiTaskModel(encoder_of("swin", small), specs, pixel_decoder=decoder, sizes=sizes)
    model = model.eval().to(device())
    batches = _in_memory(folder, small)

    def mine() -> None:
        with tempfile.TemporaryDirectory() as out:
            predict_files(model, [folder], out, compute=_options(small))

    def bare() -> None:
        for images in batches:
            for task in model.tasks:
                with torch.autocast(device().type, torch.bfloat16):
                    model.predict_batch(images, task, [(side, side)] * len(images))

    return ratio(mine, bare, runs=1)


def _embed(folder: str, small: bool) -> float:
    side = side_of(small)
    spec = ClassSpec(channels=3, classes=("a", "b"))
    model = MultiTaskModel(encoder_of("swin", small), {"a": spec}, sizes={"a": (side, side)}).eval().to(device())
    batches = _in_memory(folder, small)

    def mine() -> None:
        with tempfile.TemporaryDirectory() as out:
            inputs = InputRows(find_inputs([folder]), Opening.as_trained(spec, (side, side)))
            store = Store(Path(out) / "e.npy", {}, inputs.digest, len(inputs))
            fill(store, inputs, image_pieces(model, "a", inputs, 0, _options(small)))
            store.finish([])

    @torch.inference_mode()
    def bare() -> None:
        with torch.autocast(device().type, torch.bfloat16):
            for images in batches:
                model.embed(images.to(device(), non_blocking=True), "a").cpu()

    return ratio(mine, bare, runs=1)


def _in_memory(folder: str, small: bool) -> list[torch.Tensor]:
    images = [read_image(path) for path in sorted(Path(folder).rglob("*.jpg"))]
    return [as_tensor(images[i : i + batch_of(small)]) for i in range(0, len(images), batch_of(small))]
