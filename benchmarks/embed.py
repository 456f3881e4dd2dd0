"""How fast and in how much memory `umedpt embed` works, against a bare loop over a timm model."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import in_fresh_process, peak_rss, seconds
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.inference.embed import fill, image_pieces
from umedpt_lightning.inference.find_inputs import find_inputs
from umedpt_lightning.inference.opening import Opening
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.inference.rows import InputRows
from umedpt_lightning.inference.store import Store
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import ClassSpec

_NET, _SIZE, _BATCH = "convnext_atto", (128, 128), 32


def measure(quick: bool = False) -> dict[str, float]:
    """Images a second over those of the bare loop, and peak RSS with ten times as many images over that with one."""
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 100 if quick else 200, size=224, classes=1)
        by_cpu, by_clock = in_fresh_process(_rates, folder, 2 if quick else 5)
        few = 20 if quick else 200
        many, once = (in_fresh_process(_peak, folder, count) for count in (10 * few, few))
    return {
        "embed.rate_over_bare_timm": by_cpu,
        "embed.rate_over_bare_timm_clock": by_clock,
        "embed.memory_10x_images": many / once,
    }


# --- speed ----------------------------------------------------------------------------------------------------------


def _rates(folder: str, runs: int) -> tuple[float, float]:
    """By CPU time, which other programs do not disturb, and by the clock; interleaved, medians."""
    torch.set_num_threads(1)
    model = _model(_NET)
    net = timm.create_model(_NET, num_classes=0).eval()
    sides: list[Callable[[], object]] = [lambda: _embed(model, folder, 1), lambda: _bare(net, folder)]
    ratios = []
    for run in range(runs + 1):
        ours, bare = (seconds(side) for side in sides)
        if run:  # the first fills the file cache
            ratios.append([theirs / mine for mine, theirs in zip(ours, bare, strict=True)])
    by_cpu, by_clock = (statistics.median(column) for column in zip(*ratios, strict=True))
    return by_cpu, by_clock


def _model(name: str) -> MultiTaskModel:
    return MultiTaskModel(Encoder(name), {"a": ClassSpec(channels=3, classes=("a", "b"))}, sizes={"a": _SIZE})


def _embed(model: MultiTaskModel, folder: str, workers: int) -> None:
    """From the folder to the file, as the command does with a loaded model."""
    with tempfile.TemporaryDirectory() as out:
        inputs = InputRows(find_inputs([folder]), Opening.as_trained(model.task("a").spec, _SIZE))
        store = Store(Path(out) / "e.npy", {}, inputs.digest, len(inputs))
        fill(store, inputs, image_pieces(model, "a", inputs, 0, ComputeOptions("cpu", "32", _BATCH, workers)))
        store.finish([])


class _Files(Dataset[Tensor]):
    """What a user would write: Pillow decodes, OpenCV shrinks by area."""

    def __init__(self, folder: str) -> None:
        self._files = sorted(Path(folder).rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._files[index]) as image:
            pixels = np.array(image.convert("RGB"))
        small = cv2.resize(pixels, _SIZE, interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small.transpose(2, 0, 1).copy())


@torch.inference_mode()
def _bare(net: torch.nn.Module, folder: str) -> NDArray[np.float32]:
    mean, std = (torch.tensor(net.default_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))  # type: ignore[index,arg-type]
    loader = DataLoader(_Files(folder), _BATCH, num_workers=1)
    return np.concatenate([net((images.float() / 255 - mean) / std).numpy() for images in loader])


# --- memory ---------------------------------------------------------------------------------------------------------


def _peak(folder: str, count: int) -> float:
    """MiB of a process that does all itself, images read included."""
    torch.set_num_threads(1)
    files = sorted(Path(folder).rglob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=folder) as many:
        for i in range(count):
            os.link(files[i % len(files)], Path(many) / f"{i}.jpg")
        _embed(_model("test_convnext"), many, 0)
    return peak_rss()
