"""Graphs for elsewhere say what PyTorch says, for any number of images, and of any size where that can be."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_encoder, spec_of

from umedpt_lightning.blocks import BagTransformer, Encoder, GatedAttention, ViTEncoder
from umedpt_lightning.export import EncoderGraph, TaskGraph, export_onnx, export_program, select_boxes
from umedpt_lightning.export.program import Graph, example
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import Bags, ClassSpec

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def model_of(encoder: Encoder, *kinds: str, **options: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {f"a_{kind}": spec_of(kind, channels=encoder.in_channels) for kind in kinds}
    model = MultiTaskModel(
        encoder, specs, pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION, **options
    ).eval()
    return model


def differences(graph: Graph, run: Any, shapes: list[tuple[int, int, int]]) -> list[float]:
    found = []
    for count, height, width in shapes:
        images = example(graph, count, (height, width))
        with torch.no_grad():
            expected, there = graph(images), run(images)
        assert [tuple(t.shape) for t in there.values()] == [tuple(e.shape) for e in expected.values()]
        found += [float((there[name] - e).abs().max() / e.abs().max().clamp_min(1)) for name, e in expected.items()]
    return found


def session(file: Path) -> tuple[Any, Any]:
    there = onnxruntime.InferenceSession(file)
    names = [output.name for output in there.get_outputs()]

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(names, map(torch.from_numpy, there.run(None, {"images": images.numpy()})), strict=True))

    return there, run


ANY = [(1, 33, 40), (3, 64, 96), (2, 100, 70)]


@pytest.mark.slow
def test_a_file_takes_any_number_of_images_of_any_size(tmp_path: Path) -> None:
    model = model_of(small_encoder(in_channels=1), "class")
    files = dict(export_onnx(model, tmp_path))
    assert {file.name for file in files} == {"task_a_class.onnx", "encoder.onnx"}
    assert max(files.values()) < 1e-4
    there, run = session(tmp_path / "task_a_class.onnx")
    assert there.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    assert max(differences(TaskGraph(model, "a_class"), run, ANY)) < 1e-4
    about = json.loads(there.get_modelmeta().custom_metadata_map["umedpt"])
    assert about["spec"]["options"]["classes"] == ["n0", "n1", "n2"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"batch_norm": "keep"}, {"batch_norm": "per_task"}], ids=str)
def test_every_label_type_and_the_encoder(options: dict[str, Any], tmp_path: Path) -> None:
    kinds = KINDS if options["batch_norm"] == "keep" else ("class", "mask")
    model = model_of(Encoder("test_resnet", **options), *kinds)
    names = {file.stem for file, _ in export_onnx(model, tmp_path)}
    encoders = {"encoder_a_class", "encoder_a_mask"} if options["batch_norm"] == "per_task" else {"encoder"}
    assert names == {f"task_a_{kind}" for kind in kinds} | encoders
    for name in names:
        task = name.partition("_")[2] or None
        graph = TaskGraph(model, str(task)) if name.startswith("task") else EncoderGraph(model, task)
        _, run = session(tmp_path / f"{name}.onnx")
        assert max(differences(graph, run, ANY)) < 1e-4, name


@pytest.mark.slow
def test_swin_takes_any_number_of_images_of_its_size(tmp_path: Path) -> None:
    model = model_of(Encoder(), "mask", sizes={"a_mask": (64, 96)})
    for file, difference in export_onnx(model, tmp_path):
        there, run = session(file)
        graph = TaskGraph(model, "a_mask") if "task" in file.name else EncoderGraph(model)
        assert there.get_inputs()[0].shape == ["batch", 3, 64, 96]
        assert difference < 1e-4
        assert max(differences(graph, run, [(1, 64, 96), (3, 64, 96)])) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "beitv2_base_patch16_224"])
def test_a_vision_transformer_takes_any_number_of_images_of_one_size(name: str, tmp_path: Path) -> None:
    tiny = ViTEncoder(name, model_args={"depth": 2, "embed_dim": 32, "num_heads": 2})
    model = model_of(tiny, "mask", sizes={"a_mask": (50, 96)})
    for file, difference in export_onnx(model, tmp_path):
        there, run = session(file)
        graph = TaskGraph(model, "a_mask") if "task" in file.name else EncoderGraph(model)
        assert there.get_inputs()[0].shape == ["batch", 3, 50, 96]
        assert difference < 1e-4
        assert max(differences(graph, run, [(1, 50, 96), (3, 50, 96)])) < 1e-4


@pytest.mark.slow
def test_weights_lie_once_beside_the_graphs_and_same_padding_is_that_of_pytorch(tmp_path: Path) -> None:
    specs = {f"task{i}": spec_of("class") for i in range(3)}
    model = MultiTaskModel(Encoder("test_efficientnet"), specs).eval()
    for file, _ in export_onnx(model, tmp_path):
        there, run = session(file)
        assert there.get_inputs()[0].shape == ["batch", 3, "height", "width"]
        if "task" in file.name:
            assert max(differences(TaskGraph(model, file.stem.removeprefix("task_")), run, ANY)) < 1e-4
    weights = sum(value.numel() * 4 for value in model.state_dict().values())
    assert (tmp_path / "weights.bin").stat().st_size < 1.1 * weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "box"])
def test_a_program_of_torch_export_takes_any_size_too(kind: str) -> None:
    graph = TaskGraph(model_of(small_encoder(), kind), f"a_{kind}")
    program = export_program(graph)
    assert program.size is None
    assert max(differences(graph, program.exported.module(), [(1, 64, 96), (3, 100, 70), (2, 64, 70)])) < 1e-5


def test_selected_boxes_are_those_of_predict() -> None:
    model = model_of(small_encoder(), "box")
    fcos: Any = model.task("a_box").fcos
    torch.nn.init.constant_(fcos.head.regression_head.bbox_reg.bias, 2.0)  # large enough to overlap
    image = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    with torch.no_grad():
        found = TaskGraph(model, "a_box")(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    boxes, scores = found["boxes"][0].numpy(), found["scores"][0].numpy()
    threshold = float(np.sort(scores.flatten())[-50])
    fcos.score_thresh = threshold
    (expected,) = model.predict([image], "a_box")

    ours = select_boxes(boxes, scores, threshold)
    assert 5 < len(expected.boxes) < 49, "all or none would show little"
    for mine, theirs in zip(ours, (expected.boxes, expected.scores, expected.labels), strict=True):
        assert np.allclose(mine, theirs, atol=1e-4)
    assert len(select_boxes(boxes, scores, threshold, max_detections=2)[0]) == 2
    nothing = select_boxes(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32))
    assert [len(part) for part in nothing] == [0, 0, 0]


@pytest.mark.slow
def test_a_file_that_differs_from_pytorch_is_not_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(small_encoder(), "class")
    export = export_program

    def spoilt(graph: Graph, **options: Any) -> Any:
        program = export(graph, **options)
        # the program keeps the parameter that it was made with
        model.task("a_class").head.bias = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))  # type: ignore[union-attr]
        return program

    monkeypatch.setattr("umedpt_lightning.export.onnx.export_program", spoilt)
    with pytest.raises(ValueError, match=r"task_a_class.onnx differs from PyTorch"):
        list(export_onnx(model, tmp_path))


@pytest.mark.slow
def test_a_model_that_onnx_has_no_operations_for_is_told_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no operation of that name")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ValueError, match=r"no operation of that name.*export_program.*or another encoder"):
        list(export_onnx(model_of(small_encoder(), "class"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("block", [BagTransformer, partial(GatedAttention, position=True)])
def test_bags_have_a_graph_of_images_and_one_of_bags(tmp_path: Path, block: Any) -> None:
    torch.manual_seed(0)
    spec = ClassSpec(channels=1, classes=("a", "b"), bag="patient")
    model = MultiTaskModel(small_encoder(), {"t": spec}, blocks={"bag": block}).eval()
    for parameter in model.blocks["bag"].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    files = {file.stem: file for file, _ in export_onnx(model, tmp_path)}
    assert sorted(files) == ["bag_t", "encoder", "images_t"]
    images, bag = (onnxruntime.InferenceSession(files[name]) for name in ("images_t", "bag_t"))
    stored = np.random.default_rng(0).integers(0, 256, (7, 1, 64, 96), np.uint8)
    for count in (1, 7):
        places = np.stack([np.arange(count) / max(1, count - 1), np.zeros(count)], 1).astype(np.float32)
        (embeddings,) = images.run(["embedding"], {"images": stored[:count].astype(np.float32)})
        given = {"embeddings": embeddings} | ({"positions": places} if len(bag.get_inputs()) > 1 else {})
        probabilities, attention = bag.run(["predictions", "attention"], given)
        bags = Bags(torch.from_numpy(stored[:count]), [count], torch.from_numpy(places))
        with torch.inference_mode():
            features, (weights,) = model.weighed(bags, "t")
            expected = model.task("t").predict(model.task("t")(features))
        np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-4)
        np.testing.assert_allclose(attention, weights.numpy(), atol=1e-4)
