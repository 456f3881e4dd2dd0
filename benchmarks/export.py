"""How long ONNX files of twenty tasks take, how large they are, and how near to PyTorch.

``python -m benchmarks.export`` measures ten families, in ten minutes, and writes the table in docs/export.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import onnxruntime
import torch

from umedpt_lightning.blocks import Encoder, ViTEncoder
from umedpt_lightning.blocks.timm_encoder import is_plain_vit
from umedpt_lightning.export import TaskGraph, export_onnx
from umedpt_lightning.export.program import example
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import BoxSpec, ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, TaskSpec

SIZES = ((64, 64), (97, 161), (224, 200))  # pixels
PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"
MARK = "<!-- families -->\n"  # at the end of the page, before what is written here
SECTION = """
## ONNX by family

Twenty tasks, four of each label kind, random weights: seconds of CPU time until all files were written and compared,
their size as a share of the weights', and the largest difference from PyTorch at 64 by 64, 97 by 161 and 224 by 200
pixels, as a share of an output's largest value, of 1 at least (`python -m benchmarks.export`). Where files take images
of one size, those of five tasks were compared at the second and third.

| family | smallest model | sizes | seconds | size | difference |
| --- | --- | --- | --- | --- | --- |
"""
#: The smallest model of ten families, timm's ``test_`` models left out.
FAMILIES = {
    "convnext": "convnext_zepto_rms",
    "densenet": "densenet121",
    "edgenext": "edgenext_xx_small",
    "efficientnet": "mobilenetv2_035",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "mobilenetv3": "mobilenetv3_small_050",
    "pvt_v2": "pvt_v2_b0",
    "resnet": "resnet10t",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "vision_transformer": "vit_tiny_patch16_224",
}


class Files(NamedTuple):
    """What is measured of a model's files.

    Attributes:
        sizes: Whether they take images of any size, or of one.
        seconds: By the clock, until all were written and compared.
        cpu: Of CPU time, likewise.
        bytes_over_weights: Their size as a share of the weights'.
        difference: The largest of any output from PyTorch at three sizes, as a share of the output's largest value, of
            1 at least.
    """

    sizes: Literal["any", "one"]
    seconds: float
    cpu: float
    bytes_over_weights: float
    difference: float


def measure(quick: bool = False) -> dict[str, float]:
    """Of EfficientNet-Lite0 with all five label kinds."""
    found = files_of("tf_efficientnet_lite0", 5 if quick else 20)
    return {
        "export.onnx_seconds_20_tasks": found.seconds,
        "export.onnx_bytes_over_weights": found.bytes_over_weights,
        "export.onnx_difference": found.difference,
    }


def files_of(name: str, tasks: int) -> Files:
    """Of a timm model with so many tasks; where files take one size alone, with those of five tasks for the others."""
    model = _model(name, tasks, SIZES[0])
    with tempfile.TemporaryDirectory() as folder:
        begun, cpu = time.monotonic(), time.process_time()
        files = [file for file, _ in export_onnx(model, Path(folder))]
        seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        of_one_size = isinstance(onnxruntime.InferenceSession(files[0]).get_inputs()[0].shape[2], int)
        worst = _difference(model, files, SIZES[:1] if of_one_size else SIZES)
    for other in SIZES[1:] if of_one_size else ():
        with tempfile.TemporaryDirectory() as folder:
            small = _model(name, 5, other)
            files = [file for file, _ in export_onnx(small, Path(folder))]
            worst = max(worst, _difference(small, files, [other]))
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return Files("one" if of_one_size else "any", seconds, cpu, size / weights, worst)


def _model(name: str, tasks: int, size: tuple[int, int]) -> MultiTaskModel:
    torch.manual_seed(0)
    specs = _specs(tasks)
    encoder = (ViTEncoder if is_plain_vit(name) else Encoder)(name)
    return MultiTaskModel(encoder, specs, sizes=dict.fromkeys(specs, size)).eval()


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


def _difference(model: MultiTaskModel, files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> float:
    """The largest of any task's output from PyTorch, as a share of the output's largest value, of 1 at least."""
    found = []
    for file in files:
        if not file.name.startswith("task_"):
            continue
        graph, session = TaskGraph(model, file.stem.removeprefix("task_")), onnxruntime.InferenceSession(file)
        outputs = [output.name for output in session.get_outputs()]
        for size in sizes:
            images = example(graph, 2, size)
            with torch.inference_mode():
                expected = graph(images)
            for name, value in zip(outputs, session.run(outputs, {"images": images.numpy()}), strict=True):
                wanted = expected[name]
                found.append(float((torch.from_numpy(value) - wanted).abs().max() / wanted.abs().max().clamp_min(1)))
    return max(found)


def row(family: str, found: Files) -> str:
    """Of the page's table."""
    numbers = f"{found.cpu:.0f} | {found.bytes_over_weights:.2f} | {found.difference:.0e}"
    return f"| `{family}` | `{FAMILIES[family]}` | {found.sizes} | {numbers} |"


def write_page() -> None:
    """Measures ten families and writes the table."""
    rows = []
    for family, name in FAMILIES.items():
        rows.append(row(family, files_of(name, 20)))
        print(rows[-1], flush=True)
    before, mark, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(before + mark + SECTION + "\n".join(rows) + "\n")


if __name__ == "__main__":
    write_page()
