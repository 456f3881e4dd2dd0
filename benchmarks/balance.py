"""Balancing of gradients: how right sketches are, what they cost, and what they do for two opposed tasks."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchjd.aggregation import IMTLGWeighting, MGDAWeighting

from benchmarks.memory import SWIN, trainer_of
from benchmarks.micro_batches import batches_of, plan_of, specs_of
from umedpt_lightning.blocks import BaseEncoder, Encoder, Pyramid
from umedpt_lightning.callbacks.task_map import TaskMap
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.demo import prepare
from umedpt_lightning.data.readers import (
    CocoBoxes,
    ManifestClasses,
    ManifestLabels,
    ManifestNumbers,
    MaskFolders,
    Reader,
)
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training import MultiTaskModule, Optimization
from umedpt_lightning.training.aggregation import ExactBalance, SketchBalance
from umedpt_lightning.training.aggregation.watch import GradientWatch
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import RegressionSpec, Sample

_ROUNDS_AN_EPOCH = 50  # of configs/demo.yaml, after which it validates


def measure(quick: bool = False) -> dict[str, float]:
    """All figures; `quick` times fewer rounds and plants the tasks with one seed."""
    torch.set_num_threads(1)
    return {
        "balance.sketch_cosine_error": cosine_error(),
        "balance.memory_over_gradient_32_tasks": memory_over_gradient(32),
        **times(3 if quick else 8),
        "balance.opposed_tasks": max(opposed(seed) for seed in range(1 if quick else 5)),
    }


# --- on the demo's images, by Swin-T --------------------------------------------------------------------------------


def demo(images: int = 2) -> MultiTaskDataModule:
    """The train parts of the demo's five tasks."""
    root = prepare()
    tissue = ["background", "grey_matter", "white_matter"]
    structures = ["much_grey_matter", "much_white_matter", "deep_csf", "bone", "brain_edge"]
    readers: dict[str, Reader] = {
        "brain_tissue": MaskFolders(
            str(root / "brain_tissue/train/images"), str(root / "brain_tissue/train/masks"), tissue
        ),
        "slice_plane": ManifestClasses(str(root / "slice_plane/manifest.csv"), "train"),
        "brain_structures": ManifestLabels(str(root / "brain_structures/manifest.csv"), "train", structures),
        "axial_position": ManifestNumbers(str(root / "axial_position/manifest.csv"), "train", {"z": "mm"}),
        "nuclei": CocoBoxes(str(root / "nuclei/images"), str(root / "nuclei/train.json")),
    }
    tasks = {name: TaskData(train=reader, batch_size=images) for name, reader in readers.items()}
    return MultiTaskDataModule(tasks, num_workers=0)


def swin_of(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    return MultiTaskModule(data.specs, Encoder(SWIN, in_channels=1), **options)


class _Watched(ExactBalance):
    """The exact way, with sketches of the same gradients beside it."""

    def __init__(self) -> None:
        super().__init__(MGDAWeighting())
        self.sketched = GradientWatch()
        self.errors: list[float] = []

    def plan_round(self, number: int, plan: Any, loss_scale: float) -> Any:
        self.sketched.plan_round(number, plan, loss_scale)
        return super().plan_round(number, plan, loss_scale)

    def start_round(self, buffer: GradientBuffer) -> None:
        self.sketched.start_round(buffer)
        super().start_round(buffer)

    def after_micro_batch(self, task: str, buffer: GradientBuffer) -> None:
        self.sketched.after_micro_batch(task, buffer)
        super().after_micro_batch(task, buffer)
        self.sketched._rows._before.zero_()  # the exact way has taken the gradient out of the buffer

    def before_exchange(self, buffer: GradientBuffer) -> None:
        self.sketched.before_exchange(buffer)
        super().before_exchange(buffer)

    def end_round(self) -> None:
        self.sketched.end_round()
        super().end_round()
        assert self.gram is not None
        assert self.sketched.gram is not None
        self.errors.append(float((self.sketched.gram.cosines - self.gram.cosines).abs().max()))


def cosine_error(rounds: int = 3) -> float:
    """The largest error of a cosine of two tasks."""
    data, watched = demo(), _Watched()
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(folder, max_steps=rounds).fit(swin_of(data, aggregator=watched), data)
    return max(watched.errors)


class _InTurn(pl.Callback):
    """Rounds of three kinds in turn, and CPU seconds of each."""

    def __init__(self) -> None:
        self.balance, self.map = SketchBalance(MGDAWeighting()), TaskMap(every=1)
        self.seconds: dict[str, list[float]] = {"plain": [], "watched": [], "balanced": [], "told": []}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.map.setup(trainer, pl_module, stage)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._kind = ("plain", "watched", "balanced")[batch_idx % 3]
        pl_module.gradients.watch = self._kind == "watched"
        pl_module.gradients._aggregator = self.balance if self._kind == "balanced" else None
        pl_module.gradients.factors = {}
        self._start = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds[self._kind].append(time.process_time() - self._start)
        if self._kind == "watched":
            start = time.process_time()
            self.map.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.seconds["told"].append(time.process_time() - start)


def times(rounds: int) -> dict[str, float]:
    """CPU time of rounds with sketches over that of plain ones, their reading and their step included."""
    data, in_turn = demo(), _InTurn()
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(folder, max_steps=3 * rounds, callbacks=[in_turn]).fit(swin_of(data), data)
    plain, watched, balanced, told = (statistics.median(values[1:]) for values in in_turn.seconds.values())
    return {
        "balance.step_over_plain": balanced / plain,
        "balance.map_over_plain": 1 + (watched - plain + told) / (_ROUNDS_AN_EPOCH * plain),
    }


class _Live(TorchDispatchMode, AbstractContextManager["_Live"]):
    """The most memory that tensors made inside took at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and (storage := made.untyped_storage()).data_ptr() not in known:
                size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, size)
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


def memory_over_gradient(tasks: int) -> float:
    """What sketches take at most beside the model and its gradient, over the gradient."""
    specs = specs_of(tasks, masks=True)
    model = MultiTaskModel(Encoder(SWIN), specs)
    buffer, plan = GradientBuffer(dict(model.named_parameters())), plan_of(batches_of(specs, 1, 32))
    buffer.zero()
    balance = SketchBalance(MGDAWeighting())
    with _Live() as live:
        balance.plan_round(0, plan, 1.0)
        balance.start_round(buffer)
        for task in specs:
            balance.after_micro_batch(task, buffer)
        balance.before_exchange(buffer)
        balance.end_round()
        balance.plan_round(1, plan, 1.0)
    return live.peak / sum(flat.nbytes for flat in buffer.flats)


# --- two opposed tasks ----------------------------------------------------------------------------------------------


class _Halves(Reader):
    """Images of noise with two brightnesses, left and right, one of which is asked for."""

    def __init__(self, half: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.values = generator.normal(size=(64, 2)).astype(np.float32)
        self.images = generator.normal(0, 0.1, (64, 8, 8, 1)).astype(np.float32)
        self.images[:, :, :4, 0] += self.values[:, 0, None, None]
        self.images[:, :, 4:, 0] += self.values[:, 1, None, None]
        self.half = half
        mean, std = float(self.values[:, half].mean()), float(self.values[:, half].std())
        self.spec = RegressionSpec(channels=1, quantities=("v",), units=("",), means=(mean,), stds=(std,))

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], self.values[index, self.half : self.half + 1], f"sample {index}")


class _OneNumber(BaseEncoder):
    """All that is known of an image is one number, for which both tasks contend.

    It stands beside others that are always the same, so that the norm after it leaves it nearly as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = 1, [4], [8]
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((1, 1, 1, 1), value), persistent=False)
        self.pixels = nn.Conv2d(1, 1, 8, stride=8)

    def forward(self, images: Tensor, task: str | None = None) -> Pyramid:
        number = self.pixels(images)  # (B, 1, 1, 1)
        same = torch.full_like(number, 10.0)
        return Pyramid([torch.cat([number, -number, same, -same], 1)], self.strides, (8, 8), (8, 8))


def opposed(seed: int) -> float:
    """After 200 rounds the loss of the worse of two tasks, over that of the plain sum, of which one counts for four."""
    worse = []
    for aggregator in (SketchBalance(IMTLGWeighting()), None):
        readers = {"loud": _Halves(0, seed), "soft": _Halves(1, seed)}
        data = MultiTaskDataModule(
            {name: TaskData(train=reader, batch_size=64) for name, reader in readers.items()}, num_workers=0
        )
        torch.manual_seed(seed)
        module = MultiTaskModule(
            data.specs,
            _OneNumber(),
            weights={"loud": 4.0},
            optimization=Optimization(learning_rate=0.03, weight_decay=0.0),
            aggregator=aggregator,
        )
        with tempfile.TemporaryDirectory() as folder:
            trainer_of(folder, max_steps=200, log_every_n_steps=200).fit(module, data)
        worse.append(max(_last_losses(module, data)))
    return worse[0] / worse[1]


def _last_losses(module: MultiTaskModule, data: MultiTaskDataModule) -> Iterator[float]:
    model = module.model.eval()
    for name, task in data.tasks.items():
        reader: Any = task.train
        images = torch.from_numpy(reader.images).movedim(3, 1)
        targets = torch.from_numpy(reader.values[:, reader.half : reader.half + 1])
        with torch.no_grad():
            yield float(model.task(name).loss(model(images, name), targets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, one seed")
    warnings.simplefilter("ignore")
    print(json.dumps(measure(parser.parse_args().quick), indent=2))


if __name__ == "__main__":
    main()
