"""ONNX files of a model, each compared with PyTorch before anybody uses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umedpt_lightning.export.program import EncoderGraph, Graph, Program, TaskGraph, example, export_program, quiet
from umedpt_lightning.model import MultiTaskModel

#: The largest difference between ONNX and PyTorch, as a share of an output's largest value, of 1 at least.
TOLERANCE = 1e-4


def export_onnx(model: MultiTaskModel, folder: Path) -> Iterator[tuple[Path, float]]:
    """Writes ``task_<name>.onnx`` for every task, ``encoder.onnx``, and ``weights.bin`` with the weights of all.

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
    for name in model.tasks:
        about = {"task": name, **config["tasks"][name]}
        yield _export(TaskGraph(model, name), folder / f"task_{name}.onnx", about, weights)
    names = list(model.tasks) if model.encoder.depends_on_task else [None]
    for task in names:
        file = folder / (f"encoder_{task}.onnx" if task else "encoder.onnx")
        yield _export(EncoderGraph(model, task), file, {"encoder": config["encoder"]}, weights)


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


def _export(graph: Graph, file: Path, about: dict[str, Any], weights: _SharedWeights) -> tuple[Path, float]:
    import onnx_ir

    program = export_program(graph)
    with quiet():
        onnx = torch.onnx.export(
            program.exported, input_names=["images"], output_names=program.outputs, dynamo=True, verbose=False
        )
    if onnx is None:
        raise ValueError(f"torch.onnx gave nothing for {file.name}.")
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        shape: Any = onnx.model.graph.inputs[0].shape
        if not isinstance(shape[axis], int):
            onnx.rename_axes({shape[axis]: name})
    onnx.model.metadata_props["umedpt"] = json.dumps(about)
    weights.take(onnx.model.graph)
    onnx_ir.save(onnx.model, file)
    return file, _difference(graph, program, file)


def _difference(graph: Graph, program: Program, file: Path) -> float:
    """The largest difference from PyTorch's results, for several numbers of images and sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count, size in ((1, program.size or (128, 96)), (3, program.size or (97, 161))):
        images = example(graph, count, size)
        with torch.inference_mode():
            expected = graph(images)
        found = session.run(program.outputs, {"images": images.numpy()})
        for name, value in zip(program.outputs, found, strict=True):
            wanted = expected[name].numpy()
            if wanted.shape != value.shape:
                raise ValueError(f"{file}: {name} has shape {value.shape} where PyTorch has {wanted.shape}.")
            scale = max(1.0, float(np.abs(wanted).max(initial=0)))
            largest = max(largest, float(np.abs(wanted - value).max(initial=0)) / scale)
    if not largest <= TOLERANCE:
        raise ValueError(
            f"{file} differs from PyTorch by {largest:.1e} of the largest value, more than {TOLERANCE:.0e}. Do not use "
            "it; another encoder, or another release of torch and onnxruntime, may be exported well."
        )
    return largest
