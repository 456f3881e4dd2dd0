"""How long ONNX files of twenty tasks take, and how large they are."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import onnxruntime
import torch

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.export import TaskGraph, export_onnx
from umedpt_lightning.export.program import example
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec

SIZES = ((64, 64), (97, 161), (224, 200))  # pixels


def measure(quick: bool = False) -> dict[str, float]:
    """Of EfficientNet-Lite0 with all five label kinds."""
    torch.manual_seed(0)
    model = MultiTaskModel(Encoder("tf_efficientnet_lite0"), _specs(5 if quick else 20)).eval()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        files = [file for file, _ in export_onnx(model, Path(folder))]
        seconds = time.monotonic() - begun
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        worst = max(_difference(model, file) for file in files if file.name.startswith("task_"))
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return {
        "export.onnx_seconds_20_tasks": seconds,
        "export.onnx_bytes_over_weights": size / weights,
        "export.onnx_difference": worst,
    }


def _specs(tasks: int) -> dict[str, TaskSpec]:
    names = ("a", "b", "c")
    kinds: list[TaskSpec] = [
        ClassSpec(channels=3, classes=names),
        MultilabelSpec(channels=3, labels=names),
        RegressionSpec(channels=3, quantities=names, units=("mm",) * 3, means=(0.0,) * 3, stds=(1.0,) * 3),
        MaskSpec(channels=3, classes=names),
        BoxSpec(channels=3, classes=names),
    ]
    return {f"task{i}": kinds[i % 5] for i in range(tasks)}


def _difference(model: MultiTaskModel, file: Path) -> float:
    """The largest of any output from PyTorch, as a share of the output's largest value, of 1 at least."""
    graph = TaskGraph(model, file.stem.removeprefix("task_"))
    session = onnxruntime.InferenceSession(file)
    outputs = [output.name for output in session.get_outputs()]
    found = []
    for size in SIZES:
        images = example(graph, 2, size)
        with torch.inference_mode():
            expected = graph(images)
        for name, value in zip(outputs, session.run(outputs, {"images": images.numpy()}), strict=True):
            wanted = expected[name]
            found.append(float((torch.from_numpy(value) - wanted).abs().max() / wanted.abs().max().clamp_min(1)))
    return max(found)
