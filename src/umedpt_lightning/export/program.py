"""What is exported, a task or the encoder from stored intensities to named tensors, and graphs by ``torch.export``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from umedpt_lightning.blocks import BaseEncoder, Pyramid
from umedpt_lightning.model import MultiTaskModel

Size = tuple[int, int]


class TaskGraph(nn.Module):
    """One task from images to what its `Task.exported` names.

    Args:
        model: The whole model, which is set to evaluation mode.
        task: The task's name.
    """

    def __init__(self, model: MultiTaskModel, task: str) -> None:
        super().__init__()
        self.model = model.eval()
        self.name = task
        spec = model.task(task).spec
        self.channels, self.value_range = spec.channels, spec.value_range
        self.size = model.sizes.get(task) or model.encoder.image_size

    @property
    def encoder(self) -> BaseEncoder:
        """The model's encoder."""
        return self.model.encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Named outputs for images ``(B, C, H, W)`` float32 of stored intensities; of those of bags ``embedding``."""
        if self.model.task(self.name).spec.bag:
            return {"embedding": self.model.pooling(self.model.pyramid(images, self.name))}
        return self.model.task(self.name).exported(self.model(images, self.name))


class EncoderGraph(nn.Module):
    """The encoder from images to its embedding and its feature maps.

    Args:
        model: The whole model, which is set to evaluation mode.
        task: The task whose BatchNorm statistics are used, where the encoder keeps them per task.
    """

    def __init__(self, model: MultiTaskModel, task: str | None = None) -> None:
        super().__init__()
        model.eval()
        self.encoder, self.pooling = model.encoder, model.pooling
        self.name = task
        self.channels, self.value_range = model.encoder.in_channels, (0.0, 1.0)
        self.size = next(iter(model.sizes.values()), model.encoder.image_size)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``embedding`` ``(B, D)`` and ``map_<stride>`` for images ``(B, in_channels, H, W)`` scaled to 0 to 1.

        Where several maps have one stride they are ``map_<stride>_<index>``. All are of the images padded below and to
        the right to multiples of the last stride.
        """
        return self._encoded(images)[1]

    def _encoded(self, images: Tensor) -> tuple[Pyramid, dict[str, Tensor]]:
        pyramid = self.encoder((images - self.encoder.mean) / self.encoder.std, self.name)
        several = len(set(pyramid.strides)) < len(pyramid.strides)  # maps of one stride are told apart by their order
        names = [f"map_{s}_{i}" if several else f"map_{s}" for i, s in enumerate(pyramid.strides)]
        maps = dict(zip(names, pyramid.maps, strict=True))
        return pyramid, {"embedding": self.pooling(pyramid), **maps}


class ModelGraph(EncoderGraph):
    """The encoder with tasks, which share it and the decoders; what a task names is ``<task>/<name>``.

    Args:
        model: The whole model, which is set to evaluation mode.
        tasks: The tasks' names.
        task: As for `EncoderGraph`.
    """

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str], task: str | None = None) -> None:
        super().__init__(model, task)
        self.model, self.tasks = model, tuple(tasks)
        if tasks:
            self.size = model.sizes.get(tasks[0]) or model.encoder.image_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs, for images as `EncoderGraph` takes them."""
        pyramid, outputs = self._encoded(images)
        features: dict[str, Any] = {}
        for name in self.tasks:
            head = self.model.task(name)
            if head.spec.bag:
                outputs[f"{name}/embedding"] = outputs["embedding"].clone()
                continue
            if head.needs not in features:
                features[head.needs] = self.model.block(head.needs)(pyramid)
            found = head.exported(head(features[head.needs]))
            outputs |= {f"{name}/{output}": value for output, value in found.items()}
        return outputs


Graph = TaskGraph | EncoderGraph


@dataclass
class Program:
    """A graph for elsewhere.

    Attributes:
        exported: What ``torch.export`` gave; its input is ``(B, C, H, W)`` float32.
        outputs: The names of its outputs.
        size: The only height and width that it takes; None for any that are larger than the encoder's last stride.
    """

    exported: ExportedProgram
    outputs: list[str]
    size: Size | None


def export_program(graph: Graph, one_size: bool | None = None) -> Program:
    """The program of a graph, for any number of images of any size.

    Where an encoder cannot be traced so, as one with shifted windows, images must have the one size that the task was
    trained at, or `BaseEncoder.image_size`.

    Args:
        graph: The graph.
        one_size: Whether to take images of one size; None for where it must be.

    Raises:
        ValueError: It cannot be traced.
    """
    if not one_size and graph.encoder.exports_any_size:
        try:
            return _export(graph, None)
        except ValueError:
            if one_size is False:
                raise
    graph.encoder.check_size(graph.size, graph.name)
    return _export(graph, graph.size)


def _export(graph: Graph, size: Size | None) -> Program:
    images = example(graph, 2, size or (100, 140))
    shape = {0: Dim("batch")}
    if size is None:
        smallest = max(graph.encoder.strides) + 1  # torch takes 1 for a constant, in the coarsest map too
        shape |= {2: Dim("height", min=smallest), 3: Dim("width", min=smallest)}
    try:
        with torch.no_grad(), quiet():
            exported = torch.export.export(
                graph,
                (images,),
                dynamic_shapes=(shape,),
                # what cannot be proven of all sizes is asked at run time
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # torch.export raises many kinds
        raise ValueError(
            f"torch.export cannot trace {graph.name or 'the encoder'} for "
            f"{'images of any size' if size is None else f'images of {size} pixels'} ({error!s:.500}). Use it by "
            "MultiTaskModel.predict, or take another encoder: docs/export.md names families that can be exported."
        ) from error
    with torch.no_grad():
        outputs = list(graph(images))
    return Program(exported, outputs, size)


def example(graph: Graph, count: int, size: Size) -> Tensor:
    """Random images, as many as wanted, ``(count, C, *size)`` float32."""
    low, high = graph.value_range
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand(count, graph.channels, *size, generator=generator)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of torch and onnxscript about their own workings."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("torch", "onnxscript"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
