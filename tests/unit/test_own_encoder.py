"""The contract of an encoder: one of a user's own goes through all that one of timm's goes through."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, readers_of, small_encoder, spec_of, trainer_of
from own_encoder import Finest, Token, TwoMaps
from torch import Tensor, nn

from umedpt_lightning.blocks import BaseEncoder, Encoder, Pooling, Pyramid, as_encoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.export import EncoderGraph, TaskGraph, export_program
from umedpt_lightning.inference.tiles.grid import aligned_tiling
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.receptive_field import receptive_field
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Classification, FeatureWidths
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.types import ClassSpec

pytestmark = pytest.mark.filterwarnings("ignore:TwoMaps does not keep:UserWarning")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def model_of(encoder: nn.Module, *kinds: str, **options: Any) -> MultiTaskModel:
    specs = {f"a_{kind}": spec_of(kind, encoder.in_channels) for kind in kinds or KINDS}  # type: ignore[arg-type]
    return MultiTaskModel(encoder, specs, None, SMALL_PIXELS, SMALL_DETECTION, **options).eval()


# --- the contract ---------------------------------------------------------------------------------------------------


def without(name: str) -> nn.Module:
    encoder = TwoMaps()
    delattr(encoder, name)
    return encoder


def changed(**attributes: Any) -> nn.Module:
    encoder = TwoMaps()
    for name, value in attributes.items():
        setattr(encoder, name, value)
    return encoder


class Nothing(nn.Module):
    """Has none of it."""


@pytest.mark.parametrize(
    ("encoder", "lacks"),
    [
        *((without(name), [name]) for name in ("in_channels", "channels", "strides", "mean", "std")),
        (changed(strides=[8, 4]), ["do not fall", r"found \[8, 4\]"]),
        (changed(strides=[8]), ["as many channels as strides"]),
        (changed(channels=[4.0, 8]), ["channels, a list of positive integers", r"found \[4.0, 8\]"]),
        (changed(in_channels=0), ["in_channels, a positive integer", "found 0"]),
        (changed(mean=torch.zeros(2)), ["mean, a buffer"]),
        (changed(forward=lambda images: images), [r"forward\(images, task\)"]),
        (Nothing(), ["in_channels", "channels", "strides", "mean", "std"]),
    ],
    ids=lambda value: "" if isinstance(value, nn.Module) else " ".join(value),
)
def test_all_that_an_encoder_lacks_is_told_together(encoder: nn.Module, lacks: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"{type(encoder).__name__} cannot be the encoder.*" + ".*".join(lacks)):
        MultiTaskModel(encoder, {"a": spec_of("class")})


def test_a_forward_that_returns_something_else_is_told() -> None:
    model = model_of(changed(forward=lambda images, task=None: [images]), "class")
    for call in (
        lambda: model(torch.rand(1, 3, 8, 8), "a_class"),
        lambda: model.forward_pack([torch.rand(1, 3, 8, 8)] * 2, ["a_class"] * 2),
    ):
        with pytest.raises(ValueError, match=r"TwoMaps\.forward returned a list\. Return a .*Pyramid"):
            call()


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ValueError, match=r"str cannot be the encoder.*torch\.nn\.Module"):
        MultiTaskModel("test_resnet", {"a": spec_of("class")})  # type: ignore[arg-type]


def test_a_plain_module_stays_the_same_object_with_the_same_state_and_has_the_defaults() -> None:
    encoder = TwoMaps()
    before = list(encoder.state_dict())
    model = model_of(encoder, "class")
    assert model.encoder is encoder
    assert list(encoder.state_dict()) == before
    assert [key for key in model.state_dict() if key.startswith("encoder.")] == [f"encoder.{key}" for key in before]
    assert isinstance(encoder, TwoMaps)
    assert model.encoder.tile_step == 8
    assert model.encoder.embedding_channels == 16
    assert not model.encoder.depends_on_task
    assert set(dict(encoder.named_buffers())) >= {"mean", "std"}


def test_one_whose_options_are_not_kept_is_told_so_at_the_start() -> None:
    with pytest.warns(UserWarning, match=r"TwoMaps does not keep .*cannot be exported.*BaseEncoder"):
        as_encoder(TwoMaps())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_encoder(changed(hparams={}))
        as_encoder(Token())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_plain_module_can_be_copied_and_pickled(again: Callable[[nn.Module], Any]) -> None:
    encoder = as_encoder(TwoMaps()).eval()
    twin = again(encoder)
    images = torch.rand(1, 3, 20, 30)
    assert twin.tile_step == 8
    assert torch.equal(twin(images).maps[1], encoder(images).maps[1])
    with torch.no_grad():
        twin.stem.weight.zero_()
    assert not torch.equal(twin(images).maps[1], encoder(images).maps[1])


@pytest.mark.parametrize("make", [TwoMaps, Token, partial(Encoder, "test_vit"), partial(Encoder, "test_resnet")])
def test_stages_have_every_parameter_once_from_the_stem_on(make: Callable[[], nn.Module]) -> None:
    encoder = as_encoder(make())
    stages = encoder.parameter_stages()
    found = [pair for stage in stages for pair in stage]
    assert dict(found) == dict(encoder.named_parameters())
    assert len(found) == len(dict(found))
    assert len(stages) >= 3
    first = next(iter(encoder.named_parameters()))[0]
    assert first in dict(stages[0])


def test_each_block_of_a_vision_transformer_is_a_stage() -> None:
    stages = Encoder("test_vit").parameter_stages()
    blocks = [{name.split("blocks.")[1][0] for name, _ in stage} for stage in stages if "blocks." in stage[0][0]]
    assert [len(of) for of in blocks] == [1] * len(blocks)
    assert len(blocks) > 3


def test_frozen_statistics_stay_in_training() -> None:
    model = model_of(TwoMaps(), "class")
    model.encoder.freeze_statistics()
    before = model.encoder.norm.running_mean.clone()  # type: ignore[union-attr,operator]
    twin = copy.deepcopy(model).train()
    twin(torch.rand(2, 3, 32, 32) * 255, "a_class")
    assert torch.equal(twin.encoder.norm.running_mean, before)  # type: ignore[union-attr]
    twin.encoder.statistics_frozen = False
    twin.train()(torch.rand(2, 3, 32, 32) * 255, "a_class")
    assert not torch.equal(twin.encoder.norm.running_mean, before)  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["keep", "per_task"])
def test_frozen_statistics_are_those_of_the_task_that_is_named(mode: Any) -> None:
    encoder = Encoder("test_resnet", batch_norm=mode)
    encoder.bind(["a", "b"])
    images = torch.rand(4, 3, 64, 64)
    encoder.train()(images * 3, "b")
    expected = encoder.eval()(images, "b").maps[-1]
    if mode == "per_task":
        with pytest.raises(ValueError, match=r"none for None.*a, b"):
            copy.deepcopy(encoder).freeze_statistics()
    encoder.freeze_statistics("b")
    assert torch.equal(encoder.train()(images).maps[-1], expected)
    assert not encoder.depends_on_task
    twin = Encoder(**encoder.hparams)
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(twin.train()(images).maps[-1], expected)


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [TwoMaps, partial(TwoMaps, in_channels=1)])
def test_every_kind_of_task_has_predictions_and_an_embedding(make: Callable[[], nn.Module]) -> None:
    model = model_of(make())
    image = np.random.default_rng(0).integers(0, 255, (30, 45, model.encoder.in_channels), dtype=np.uint8)
    for name in model.tasks:
        assert len(model.predict([image, image[:17]], name)) == 2
    assert model.embed(255 * torch.rand(2, model.encoder.in_channels, 33, 40), "a_mask").shape == (2, 16)


def test_an_embedding_of_the_encoders_own_is_what_heads_read() -> None:
    model = model_of(Token(), "class")
    images = torch.rand(2, 1, 33, 40) * 255
    own = model.pyramid(images, "a_class").embedding
    assert own is not None
    assert own.shape == (2, 12)
    assert torch.equal(model.embed(images, "a_class"), nn.functional.layer_norm(own, (12,)))
    assert model.task("a_class").head.in_features == 12  # type: ignore[union-attr]
    pyramid = Pyramid([torch.rand(2, 12, 3, 3)], [16], (33, 40), (48, 48))
    assert not torch.equal(Pooling(12)(pyramid), model.pooling(model.pyramid(images, "a_class")))


@pytest.mark.parametrize(("make", "compiled"), [(TwoMaps, ""), (partial(Encoder, "test_resnet"), "net")])
def test_its_parts_are_compiled_in_place(make: Callable[[], nn.Module], compiled: str) -> None:
    model = model_of(make(), "mask")
    before = list(model.state_dict())
    model.compile_blocks()
    for part in (model.encoder.get_submodule(compiled), model.pixel_decoder):
        assert part._compiled_call_impl is not None  # type: ignore[union-attr]
    assert list(model.state_dict()) == before


def test_blocks_of_ones_own_can_be_computed_again() -> None:
    plain, saving = Token(), Token(checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    images = torch.rand(2, 1, 32, 32)
    for encoder in (plain, saving):
        encoder.train()(images).embedding.sum().backward()  # type: ignore[union-attr]
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


# --- blocks that tasks need ----------------------------------------------------------------------------------------


class Edges(Classification):
    """Reads a block of one's own."""

    needs = "finest"

    def __init__(self, spec: ClassSpec, widths: FeatureWidths) -> None:
        super().__init__(spec, widths)
        self.head = nn.Linear(widths.finest, len(spec.classes))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))


def with_finest(**blocks: Any) -> MultiTaskModel:
    specs = {"a": spec_of("class"), "b": spec_of("class")}
    return MultiTaskModel(small_encoder(), specs, {"a": Edges}, SMALL_PIXELS, SMALL_DETECTION, blocks=blocks).eval()


def test_a_block_of_ones_own_is_built_for_the_tasks_that_need_it(tmp_path: Path) -> None:
    model = with_finest(finest=partial(Finest, channels=7), unused=Finest)
    assert list(model.blocks) == ["finest"]
    assert model.task("a").head.in_features == 7  # type: ignore[union-attr]
    images = torch.rand(2, 3, 32, 32)
    assert model(images, "a").shape == (2, 3)
    packed = model.forward_pack([images, images[:1]], ["a", "a"])
    torch.testing.assert_close(packed[0], model(images, "a"))
    model.save_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path, classes=[Finest, Edges])
    assert torch.equal(again(images, "a"), model(images, "a"))


def test_a_block_that_is_not_there_is_named_with_its_task_and_the_mend() -> None:
    with pytest.raises(ValueError, match=r"'a' needs the shared block 'finest'.*pixels, detection.*model\.blocks\.fin"):
        with_finest()


@pytest.mark.parametrize(("kind", "needs"), [("mask", "pixels"), ("box", "detection")])
def test_a_decoder_that_does_not_fit_is_named_with_task_encoder_and_mend(kind: str, needs: str) -> None:
    with pytest.raises(ValueError, match=rf"'a_{kind}' needs '{needs}'.*encoder test_vit .*16, 16.*Take an encoder"):
        model_of(Encoder("test_vit"), "class", kind)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_resnet"])
def test_classes_alone_need_no_pyramid(name: str) -> None:
    model = model_of(Encoder(name), "class", "multilabel", "regression").train()
    assert model.pixel_decoder is model.detection_decoder is None
    for size in ((32, 48), (97, 60)):
        model(torch.rand(2, 3, *size), "a_class").sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


# --- from files and back --------------------------------------------------------------------------------------------


def test_it_trains_in_a_trainer_and_what_was_trained_is_built_again(tmp_path: Path) -> None:
    tasks = {name: TaskData(reader, reader, batch_size=2) for name, reader in readers_of(size=4).items()}
    data = MultiTaskDataModule(tasks, steps_per_epoch=2)
    module = MultiTaskModule(data.specs, TwoMaps(width=4), None, None, SMALL_PIXELS, SMALL_DETECTION)  # type: ignore[arg-type]
    module.model.encoder.hparams = {"width": 4}
    before = module.model.encoder.stem.weight.clone()  # type: ignore[union-attr,operator]
    trainer = trainer_of(max_epochs=1, limit_val_batches=5, default_root_dir=tmp_path)
    trainer.fit(module, data)
    assert not torch.equal(module.model.encoder.stem.weight, before)  # type: ignore[union-attr,arg-type]
    model = module.model.eval()
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model", classes=[TwoMaps])
    images = torch.rand(2, 3, 32, 32) * 255
    assert torch.equal(again(images, "a_class"), model(images, "a_class"))
    assert again.model_config() == model.model_config()
    assert not (tmp_path / "model" / "encoder.safetensors").exists()
    card = (tmp_path / "model" / "README.md").read_text()
    assert "TwoMaps" in card
    assert "timm" not in card
    with pytest.raises(
        ValueError, match=r"encoder\.class is 'TwoMaps', but must be one of Encoder, ViTEncoder\. .*classes="
    ):
        MultiTaskModel.from_pretrained(tmp_path / "model")


def test_one_that_does_not_keep_its_options_cannot_be_saved_and_is_told_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder: TwoMaps does not keep .*HParamsMixin"):
        model_of(TwoMaps(width=4), "class").save_pretrained(tmp_path / "model")


def test_one_that_is_derived_keeps_them(tmp_path: Path) -> None:
    model = model_of(Token(width=3), "class")
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model", classes=[Token])
    assert again.encoder.hparams == {"width": 3, "checkpointing": False}
    image = np.random.default_rng(0).integers(0, 255, (30, 45), dtype=np.uint8)
    assert torch.equal(again.predict([image], "a_class")[0], model.predict([image], "a_class")[0])


@pytest.mark.parametrize("make", [TwoMaps, Token])
def test_its_graphs_are_those_of_the_model_at_any_size(make: Callable[[], nn.Module]) -> None:
    model = model_of(make(), "class")
    images = torch.rand(3, model.encoder.in_channels, 50, 71)
    for graph in (TaskGraph(model, "a_class"), EncoderGraph(model)):
        program = export_program(graph)
        assert program.size is None
        found, expected = program.exported.module()(images), graph(images)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


def test_maps_of_one_stride_are_told_apart_in_a_graph() -> None:
    model = model_of(Encoder("test_vit"), "class")
    found = EncoderGraph(model)(torch.rand(1, 3, 160, 160))
    assert {"embedding", "map_16_0", "map_16_2"} <= found.keys()


@pytest.mark.parametrize("kind", ["class", "mask", "box"])
def test_tiles_are_as_the_whole(kind: str) -> None:
    model = model_of(TwoMaps(), kind)
    with torch.no_grad():
        for _ in range(2):  # statistics that are not the identity
            model.encoder.train()(torch.rand(4, 3, 64, 64))
    model.eval()
    radius = receptive_field(model, f"a_{kind}")
    assert radius is not None
    assert 4 <= radius < 200
    image = np.random.default_rng(0).integers(0, 255, (300, 420, 3), dtype=np.uint8)
    tiling = aligned_tiling(model.encoder, 192, 96)
    assert len(tiling.grid(300, 420)) > 4
    (whole,) = model.predict([image], f"a_{kind}")
    tiled = TiledTask(model, f"a_{kind}", tiling).predict(ArrayPixels(image, 3))
    if kind == "class":
        torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=1e-4)
    elif kind == "mask":
        assert (torch.as_tensor(tiled) != whole).float().mean() < 1e-3
    else:
        apart = torch.cdist(whole.boxes[:100], tiled.boxes, p=torch.inf).amin(dim=1)  # the best, whose order may differ
        assert apart.max() < 1e-2


def test_an_embedding_of_its_own_is_averaged_over_tiles() -> None:
    model = model_of(Token(), "class")
    image = np.full((64, 96), 130, np.uint8)  # of one brightness, so that every tile's embedding is that of the whole
    (whole,) = model.predict([image], "a_class")
    tiled = TiledTask(model, "a_class", aligned_tiling(model.encoder, 32, 16)).predict(ArrayPixels(image[..., None], 1))
    torch.testing.assert_close(tiled, whole)


# --- families of timm -----------------------------------------------------------------------------------------------

FAMILIES = [
    "test_byobnet",
    "test_convnext2",
    "test_efficientnet_gn",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit3",
    "densenet121",
    "edgenext_xx_small",
    "eva02_tiny_patch14_224",
    "fastvit_t8",
    "hrnet_w18_small",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "pvt_v2_b0",
    "regnetx_002",
    "xcit_nano_12_p16_224",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_members_of_many_families_give_what_the_contract_says_at_any_size(name: str) -> None:
    encoder = Encoder(name).eval()
    assert isinstance(encoder, BaseEncoder)
    for size in ((64, 96), (33, 70)):
        with torch.no_grad():
            pyramid = encoder(torch.rand(1, 3, *size))
        assert pyramid.size == size
        assert [tuple(m.shape) for m in pyramid.maps] == [
            (1, channels, pyramid.padded_size[0] // stride, pyramid.padded_size[1] // stride)
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]


@pytest.mark.parametrize("name", ["efficientformerv2_s0", "nest_tiny"])
def test_a_family_of_one_size_alone_says_so_with_the_mend(name: str) -> None:
    encoder = Encoder(name).eval()
    with torch.no_grad():
        encoder(torch.rand(1, 3, 224, 224))
        with pytest.raises(ValueError, match=rf"{name} does not take images of 64 x 96 .*size: \[224, 224\]"):
            encoder(torch.rand(1, 3, 64, 96))


def test_an_error_that_is_not_of_the_size_is_left_as_it_is() -> None:
    encoder = Encoder("test_convnext").train()
    with pytest.raises(RuntimeError, match=r"dtype|type"):
        encoder(torch.rand(1, 3, 64, 96, dtype=torch.float64))
    encoder.net.register_forward_pre_hook(lambda _, given: fail_of_memory() if len(given[0]) > 2 else None)
    with pytest.raises(RuntimeError, match="not enough memory"):
        encoder(torch.rand(3, 3, 64, 96))
    assert encoder.training
    assert encoder.net.training


def fail_of_memory() -> None:
    raise RuntimeError("DefaultCPUAllocator: not enough memory")
