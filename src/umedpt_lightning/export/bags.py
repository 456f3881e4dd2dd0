"""The graph of a task of bags behind the encoder: from the embeddings of a bag's images to what the head names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from umedpt_lightning.blocks import BAG, BagBlock
from umedpt_lightning.export.difference import difference
from umedpt_lightning.export.program import quiet
from umedpt_lightning.model import MultiTaskModel

_COUNTS = (1, 2, 5, 40)  # images of the bags that it is compared with PyTorch on


class BagGraph(nn.Module):
    """One bag from the embeddings of its images to what `Task.exported` names, and ``attention`` ``(N,)``.

    Args:
        model: The whole model, which is set to evaluation mode.
        task: The task's name.
    """

    def __init__(self, model: MultiTaskModel, task: str) -> None:
        super().__init__()
        model.eval()
        self.name, self.width = task, model.encoder.embedding_channels
        self.block: BagBlock = model.block(BAG)  # type: ignore[assignment]  # `check_bags` knows no other
        self.head = model.task(task)

    def forward(self, embeddings: Tensor, positions: Tensor | None = None) -> dict[str, Tensor]:
        """Named outputs for embeddings ``(N, D)``, and positions ``(N, 2)`` where the block uses them."""
        features, weights = self.block.pool(self.block.placed(embeddings, positions))
        return {**self.head.exported(self.head(features[None])), "attention": weights}

    def example(self, count: int) -> tuple[Tensor, ...]:
        """Random inputs of a bag of so many images."""
        generator = torch.Generator().manual_seed(count)
        embeddings = torch.randn(count, self.width, generator=generator)
        placed = self.block.place is not None
        return (embeddings, torch.rand(count, 2, generator=generator)) if placed else (embeddings,)


def write_bag_graph(model: MultiTaskModel, task: str, file: Path, about: dict[str, Any]) -> float:
    """Writes the graph as ONNX, for any number of images, with its weights; gives its difference from PyTorch.

    Raises:
        ValueError: It cannot be exported.
    """
    import onnx_ir
    import onnxruntime

    graph = BagGraph(model, task)
    inputs = graph.example(5)
    names, count = ["embeddings", "positions"][: len(inputs)], Dim("images")
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operation that ONNX does not have
    try:
        with torch.no_grad(), quiet():
            outputs = list(graph(*inputs))
            exported = torch.export.export(
                graph,
                inputs,
                dynamic_shapes=tuple({0: count} for _ in inputs),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            program = torch.onnx.export(exported, input_names=names, output_names=outputs, dynamo=True, verbose=False)
    except Exception as error:  # torch.export raises many kinds
        raise ValueError(f"torch.export cannot trace the bags of task {task!r} ({error!s:.500}).") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    if program is None:
        raise ValueError(f"torch.onnx gave nothing for the bags of task {task!r}.")
    program.model.metadata_props["umedpt"] = json.dumps(about)
    onnx_ir.save(program.model, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    largest = 0.0
    for images in _COUNTS:
        given = graph.example(images)
        with torch.inference_mode():
            expected = graph(*given)
        found = session.run(outputs, {name: value.numpy() for name, value in zip(names, given, strict=True)})
        largest = max(largest, difference(dict(zip(outputs, found, strict=True)), expected, file))
    return largest
