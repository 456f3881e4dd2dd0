"""ONNX files of a model, each compared with PyTorch before anybody uses it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umedpt_lightning.export.bags import write_bag_graph
from umedpt_lightning.export.difference import difference
from umedpt_lightning.export.program import (
    EncoderGraph,
    Graph,
    ModelGraph,
    Program,
    Size,
    TaskGraph,
    example,
    export_program,
    quiet,
)
from umedpt_lightning.model import MultiTaskModel

#: The largest difference between ONNX and PyTorch, as a share of an output's largest value, of 1 at least.
TOLERANCE = 1e-4


def export_onnx(model: MultiTaskModel, folder: Path) -> Iterator[tuple[Path, float]]:
    """Writes ``task_<name>.onnx`` for every task, ``encoder.onnx``, and ``weights.bin`` with the weights of all.

    A task of bags has two graphs: ``images_<name>.onnx``, from its images to their embeddings, and ``bag_<name>.onnx``,
    from those of one bag to what the head gives; see `BagGraph`.

    Where the encoder depends on the task (BatchNorm statistics per task, say) there is an ``encoder_<name>.onnx`` for
    every task. The files take any number of images, of any size or of one; see `export_program`. The model is on the
    CPU.

    Yields:
        Each file, and the largest difference from PyTorch's results.

    Raises:
        ImportError: ``onnx``, ``onnxscript`` or ``onnxruntime`` is not installed.
        ValueError: A graph cannot be exported, or does not give PyTorch's results.
    """
    try:
        import onnx  # noqa: F401  # asked for before an hour's work
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX needs more packages ({error}): pip install 'umedpt-lightning[onnx]'.") from error
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = model.model_config(), _SharedWeights(folder / "weights.bin")
    encoders = set()
    for graph, program in _programs(model):
        whole, size = _translated(program, weights), program.size
        for name in graph.tasks:
            about, bag = {"task": name, **config["tasks"][name]}, bool(model.task(name).spec.bag)
            file = folder / f"{'images' if bag else 'task'}_{name}.onnx"
            yield file, _write(whole, TaskGraph(model, name), f"{name}/", file, about, size)
            if bag:
                file = folder / f"bag_{name}.onnx"
                yield file, _tolerated(write_bag_graph(model, name, file, about), file)
        file = folder / (f"encoder_{graph.name}.onnx" if graph.name else "encoder.onnx")
        if file not in encoders:
            encoders.add(file)
            yield file, _write(whole, EncoderGraph(model, graph.name), "", file, {"encoder": config["encoder"]}, size)


def _programs(model: MultiTaskModel) -> Iterator[tuple[ModelGraph, Program]]:
    """As many tasks at once as may be: all, those with images of one size, or else each by itself."""
    tasks = [name for name in model.tasks if model.task(name).predicts]
    if without := [name for name in model.tasks if name not in tasks]:
        what = f"Task {without[0]!r} only taught the shared blocks, and predicts nothing"
        if not tasks and model.encoder.depends_on_task:
            raise ValueError(f"{what}, and its encoder treats each task differently. Train it with a task that does.")
        warnings.warn(f"{what}: its head is left out. The graph of the encoder embeds images.", stacklevel=2)
    if model.encoder.depends_on_task:
        for name in tasks:
            graph = ModelGraph(model, [name], name)
            yield graph, export_program(graph)
        return
    if model.encoder.exports_any_size:
        with suppress(ValueError):
            yield (graph := ModelGraph(model, tasks)), export_program(graph, one_size=False)
            return
    sizes: dict[Any, list[str]] = {}
    for name in tasks:
        sizes.setdefault(model.sizes.get(name), []).append(name)
    for names in sizes.values() or [[]]:
        try:
            found = [(graph := ModelGraph(model, names), export_program(graph, one_size=True))]
        except ValueError:
            found = [(graph := ModelGraph(model, [name]), export_program(graph)) for name in names]
        yield from found


class _SharedWeights:
    """Tensors of several graphs in one file, equal ones once."""

    def __init__(self, file: Path) -> None:
        self._file, self._places = file, dict[bytes, int]()
        file.write_bytes(b"")

    def take(self, graph: Any) -> None:
        """Lets the large tensors of a graph of ``onnx_ir`` lie in the file."""
        import onnx_ir

        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor.nbytes < 1024:
                continue
            content = tensor.tobytes()
            key = hashlib.sha256(content).digest()
            if key not in self._places:
                with self._file.open("ab") as file:
                    file.write(bytes(-file.tell() % 64))  # runtimes map what is aligned
                    self._places[key] = file.tell()
                    file.write(content)
            value.const_value = onnx_ir.ExternalTensor(
                self._file.name,
                self._places[key],
                len(content),
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=self._file.parent,
            )


def _translated(program: Program, weights: _SharedWeights) -> Any:
    """The graph of a program as ONNX's protobuf, its weights in the file."""
    import onnx_ir

    try:
        with quiet():
            onnx = torch.onnx.export(
                program.exported, input_names=["images"], output_names=program.outputs, dynamo=True, verbose=False
            )
    except Exception as error:  # torch.onnx raises many kinds
        raise ValueError(
            f"ONNX has no operations for the model ({error!s:.500}). Take export_program, which needs none, or another "
            "encoder: docs/export.md names families that can be exported."
        ) from error
    if onnx is None:
        raise ValueError("torch.onnx gave nothing for the model.")
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        shape: Any = onnx.model.graph.inputs[0].shape
        if not isinstance(shape[axis], int):
            onnx.rename_axes({shape[axis]: name})
    weights.take(onnx.model.graph)
    return onnx_ir.to_proto(onnx.model)


def _write(whole: Any, graph: Graph, prefix: str, file: Path, about: dict[str, Any], size: Size | None) -> float:
    """Writes the part of a model's graph that one task, or the encoder, needs; gives its difference from PyTorch."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model: Any = ir.from_proto(whole)
    part = model.graph
    kept = [o for o in part.outputs if (o.name.startswith(prefix) if prefix else "/" not in o.name)]
    for output in part.outputs:
        if output not in kept:  # one may stay inside, and be called as a kept one will be
            output.name = f"inside/{output.name}"
    part.outputs.clear()
    part.outputs.extend(kept)
    for output in kept:
        output.name = output.name.removeprefix(prefix)
    RemoveUnusedNodesPass()(model)
    if prefix:  # from intensities as they are stored; one channel is repeated by what comes next
        low, high = graph.value_range
        scaled = part.inputs[0]
        batch, _, *sides = scaled.shape
        images = ir.val("images", ir.DataType.FLOAT, [batch, graph.channels, *sides])
        scaled.name = "scaled_images"
        ends = [ir.node("Constant", [], {"value": ir.tensor(np.float32(end))}) for end in (low, high - low)]
        above = ir.node("Sub", [images, ends[0].outputs[0]])
        share = ir.node("Div", [above.outputs[0], ends[1].outputs[0]])
        scaled.replace_all_uses_with(share.outputs[0])
        part.insert_before(part[0], [*ends, above, share])
        part.inputs[0] = images
    model.metadata_props["umedpt"] = json.dumps(about)
    ir.save(model, file)
    return _difference(graph, [output.name for output in kept], size, file)


def _difference(graph: Graph, outputs: list[str], only: Size | None, file: Path) -> float:
    """The largest difference from PyTorch's results, for several numbers of images and sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count, size in ((1, only or (128, 96)), (3, only or (97, 161))):
        images = example(graph, count, size)
        with torch.inference_mode():
            expected = graph(images)
        found = session.run(outputs, {"images": images.numpy()})
        largest = max(largest, difference(dict(zip(outputs, found, strict=True)), expected, file))
    return _tolerated(largest, file)


def _tolerated(largest: float, file: Path) -> float:
    if not largest <= TOLERANCE:
        raise ValueError(
            f"{file} differs from PyTorch by {largest:.1e} of the largest value, more than {TOLERANCE:.0e}. Do not use "
            "it; another encoder, or another release of torch and onnxruntime, may be exported well."
        )
    return largest
