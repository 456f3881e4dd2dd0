"""Vision transformers: timm's own tokens, a pyramid from them, and all label kinds on one of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, readers_of, spec_of, trainer_of
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

from umedpt_lightning.blocks import DetectionDecoder, Encoder, ViTEncoder
from umedpt_lightning.blocks.timm_encoder import is_plain_vit
from umedpt_lightning.cli import main
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.export import EncoderGraph, TaskGraph, export_program
from umedpt_lightning.inference.digests import weights_digest
from umedpt_lightning.inference.tiles.grid import aligned_tiling
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.receptive_field import chosen_overlap, receptive_field
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.runs import fit
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.training.optimization import Optimization
from umedpt_lightning.training.parameter_groups import ParameterGroups
from umedpt_lightning.transfer.sources import TimmSource

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
PATCH_16 = "vit_tiny_patch16_224"
PATCH_14 = "vit_small_patch14_reg4_dinov2"
#: A member of every way in which tokens get their places, with class, distillation and register tokens or without.
NAMES = [
    PATCH_16,
    PATCH_14,
    "beitv2_base_patch16_224",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "eva02_tiny_patch14_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_medium_patch16_reg4_gap_256",
    "vit_small_patch16_dinov3",
    "vit_small_patch32_224",
    "vit_small_patch8_224",
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(name: str = PATCH_16, spread: bool = False, **options: Any) -> ViTEncoder:
    """Two blocks of width 32; `spread` with weights that no layer starts with."""
    encoder = ViTEncoder(name, model_args=TINY, **options).eval()
    for parameter in encoder.parameters() if spread else ():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def model_of(encoder: nn.Module, *kinds: str, **options: Any) -> MultiTaskModel:
    specs = {f"a_{kind}": spec_of(kind, encoder.in_channels) for kind in kinds or KINDS}  # type: ignore[arg-type]
    return MultiTaskModel(encoder, specs, None, SMALL_PIXELS, SMALL_DETECTION, **options).eval()


# --- tokens and maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_four_strides_at_sizes_that_no_patch_divides(name: str) -> None:
    encoder = tiny(name)
    for size in ((1, 1), (33, 70), (64, 96)):
        with torch.no_grad():
            pyramid = encoder(torch.rand(2, 3, *size))
        assert pyramid.strides == [4, 8, 16, 32]
        assert pyramid.size == size
        assert all(side <= padded < side + 32 for side, padded in zip(size, pyramid.padded_size, strict=True))
        assert [tuple(m.shape) for m in pyramid.maps] == [
            (2, channels, pyramid.padded_size[0] // stride, pyramid.padded_size[1] // stride)
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]
        assert pyramid.embedding.shape == (2, encoder.embedding_channels)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_at_the_size_of_training_are_timms(name: str) -> None:
    encoder = tiny(name, spread=True)
    theirs = timm.create_model(name, num_classes=0, **TINY).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    image = torch.rand(1, 3, *encoder.image_size)
    seen = image
    if encoder.patch == 14:  # a token is 16 pixels of the image
        seen = nn.functional.interpolate(image, scale_factor=14 / 16, mode="bilinear", antialias=True)
    with torch.no_grad():
        expected, pyramid = theirs.forward_features(seen), encoder(image)
        torch.testing.assert_close(encoder._features(image)[0], expected, atol=1e-5, rtol=1e-5)
        own = theirs.forward_head(expected, pre_logits=True)
    torch.testing.assert_close(pyramid.embedding, own, atol=1e-5, rtol=1e-5)  # by default what the model recommends
    if encoder.stride == 16:
        patches = expected[:, theirs.num_prefix_tokens :].transpose(1, 2)
        patches = patches.unflatten(2, (image.shape[2] // 16, -1))
        rows, columns = patches.shape[2:]
        torch.testing.assert_close(pyramid.maps[2][..., :rows, :columns], patches, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("embedding", "pooling"), [("cls", "token"), ("avg", "avg")])
@pytest.mark.parametrize("name", [PATCH_16, PATCH_14, "beitv2_base_patch16_224"])
def test_an_embedding_that_is_asked_for_is_timms(name: str, embedding: Any, pooling: str) -> None:
    encoder = tiny(name, spread=True, embedding=embedding)
    theirs = timm.create_model(name, num_classes=0, **TINY)
    theirs.load_state_dict(encoder.net.state_dict())
    theirs.eval().reset_classifier(0, pooling)
    image = torch.rand(2, 3, *encoder.image_size)
    with torch.no_grad():
        expected = theirs.forward_head(encoder._features(image)[0], pre_logits=True)
        torch.testing.assert_close(encoder(image).embedding, expected, atol=1e-5, rtol=1e-5)


def test_both_embeddings_lie_beside_each_other() -> None:
    both, cls, avg = (tiny(embedding=kind) for kind in ("cls+avg", "cls", "avg"))
    for other in (cls, avg):
        other.load_state_dict(both.state_dict())
    images = torch.rand(2, 3, 40, 70)
    parts = [encoder(images).embedding for encoder in (cls, avg)]
    assert both.embedding_channels == 64
    assert torch.equal(both(images).embedding, torch.cat(parts, 1))
    assert not torch.equal(*parts)


def test_vectors_of_another_embedding_or_depth_are_told_apart() -> None:
    options: list[dict[str, Any]] = [{"embedding": "cls"}, {"embedding": "avg"}, {"depths": [1, 1, 2, 2]}]
    models = [model_of(tiny(**option), "class") for option in options]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    assert len(set(map(weights_digest, models))) == 3


def test_no_token_of_padding_alone_counts() -> None:
    encoder = tiny(embedding="avg", spread=True)
    image = torch.rand(1, 3, 48, 80)  # three rows of patches, where the coarsest map wants four
    with torch.no_grad():
        pyramid = encoder(image)
        tokens = encoder.net.forward_features(image)
    assert pyramid.padded_size == (64, 96)
    torch.testing.assert_close(pyramid.embedding, tokens[:, 1:].mean(1))
    assert not pyramid.maps[2][:, :, 3:].any()
    assert pyramid.maps[2][:, :, :3, :5].all()


@pytest.mark.parametrize("name", [PATCH_16, PATCH_14, "beitv2_base_patch16_224", "vit_small_patch16_dinov3"])
def test_maps_of_several_depths_are_of_those_blocks(name: str) -> None:
    deep, plain = (tiny(name, spread=True, depths=depths) for depths in ([1, 2, 1, 2], None))
    plain.load_state_dict(deep.state_dict())
    images = torch.rand(2, 3, 50, 70)
    with torch.no_grad():
        found, last = deep(images), plain(images)
        of_first = deep.net.forward_intermediates(  # type: ignore[operator]  # an attribute of timm's
            nn.functional.pad(images, (0, 10, 0, 14)) if deep.patch == 16 else torch.rand(2, 3, 56, 70),
            [0],
            norm=True,
            intermediates_only=True,
        )[0]
    torch.testing.assert_close(found.embedding, last.embedding)
    for stride, one, other in zip(found.strides, found.maps, last.maps, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-4) == (stride in (8, 32))  # of the last block here
    if deep.patch == 16:
        deep.depths = (1, 1, 1, 1)
        torch.testing.assert_close(deep(images).maps[2][..., :4, :5], of_first)
    assert tuple(ViTEncoder(**deep.hparams).depths) == (1, 2, 1, 2)


def test_depths_that_are_not_there_are_told_the_mend() -> None:
    for depths in ([1, 2], [1, 1, 2, 3], [0, 1, 2, 2]):
        with pytest.raises(ValueError, match=r"encoder\.depths: .*four blocks of the 2 .*Write \[1, 1, 2, 2\]"):
            tiny(depths=depths)


def test_beits_table_of_biases_is_interpolated_to_the_image() -> None:
    encoder = tiny("beitv2_base_patch16_224", spread=True)
    attention = encoder.net.blocks[0].attn
    with torch.no_grad():
        encoder(torch.rand(1, 3, 224, 224))
        own = attention._get_rel_pos_bias()
        encoder(torch.rand(1, 3, 112, 160))
        assert attention._get_rel_pos_bias().shape == (1, 2, 71, 71)
        table, attention.grid = attention.relative_position_bias_table, (14, 14)
        assert torch.equal(attention._get_rel_pos_bias(), own)
        table[:-3] = 3.0  # what is the same everywhere stays so
        attention.grid = (7, 10)
        assert attention._get_rel_pos_bias()[:, :, 1:, 1:].sub(3).abs().max() < 1e-5
    encoder(torch.rand(1, 3, 64, 64)).embedding.sum().backward()
    assert attention.relative_position_bias_table.grad.abs().sum() > 0


def test_what_is_no_plain_vision_transformer_or_has_no_such_embedding_is_told_the_mend() -> None:
    with pytest.raises(ValueError, match=r"test_resnet is no plain vision transformer.*class_path: Encoder"):
        ViTEncoder("test_resnet")
    with pytest.raises(ValueError, match=r"embedding.*no class token.*avg"):
        tiny("vit_medium_patch16_reg4_gap_256", embedding="cls")
    with pytest.raises(ValueError, match=r"embedding.*no attention pooling"):
        tiny(embedding="map")
    with pytest.raises(ValueError, match=r"model_args: 'pretrained'"):
        ViTEncoder(PATCH_16, model_args={"pretrained": True})
    assert is_plain_vit(PATCH_14)
    assert not is_plain_vit("swin_tiny_patch4_window7_224")


# --- what is done with it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "depths"), [(PATCH_16, None), (PATCH_14, None), (PATCH_16, [1, 1, 2, 2])])
def test_all_label_kinds_train_on_it(name: str, depths: list[int] | None, tmp_path: Path) -> None:
    readers = readers_of(size=4, side=50)
    data = MultiTaskDataModule({k: TaskData(r, r, batch_size=2) for k, r in readers.items()}, steps_per_epoch=3)
    encoder = tiny(name, checkpointing=True, depths=depths)
    finest = partial(DetectionDecoder, channels=32, convolutions=1, finest=4)
    module = MultiTaskModule(data.specs, encoder, None, None, SMALL_PIXELS, finest)
    assert [encoder.strides[i] for i in module.model.detection_decoder.levels] == [4, 8, 16, 32]
    before = {key: value.clone() for key, value in module.model.encoder.named_parameters()}
    trainer_of(max_epochs=1, limit_val_batches=5, default_root_dir=tmp_path).fit(module, data)
    same = [k for k, v in module.model.encoder.named_parameters() if torch.equal(v, before[k])]
    assert not [key for key in same if "mask_token" not in key]

    model = module.model.eval()
    image = np.random.default_rng(0).integers(0, 255, (45, 70, 3), dtype=np.uint8)
    assert model.predict([image], "a_mask")[0].shape == (45, 70)
    model.save_pretrained(tmp_path / "model")
    again = MultiTaskModel.from_pretrained(tmp_path / "model")
    images = torch.rand(1, 3, 40, 40) * 255
    assert torch.equal(again.embed(images, "a_mask"), model.embed(images, "a_mask"))


def test_plain_timm_loads_its_weights(tmp_path: Path) -> None:
    model = model_of(tiny(spread=True), "class")
    model.save_pretrained(tmp_path)
    net = timm.create_model(
        PATCH_16,
        num_classes=0,
        **TINY,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "encoder.safetensors")},
    )
    card = (tmp_path / "README.md").read_text()
    assert f'timm.create_model("{PATCH_16}", in_chans=3, depth=2' in card
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), model.encoder(image).embedding)


@pytest.mark.parametrize("name", [PATCH_16, PATCH_14, "beitv2_base_patch16_224"])
def test_its_graphs_are_those_of_the_model_at_one_size(name: str) -> None:
    model = model_of(tiny(name), "mask", sizes={"a_mask": (50, 70)})
    images = torch.rand(3, 3, 50, 70) * 255
    for graph in (TaskGraph(model, "a_mask"), EncoderGraph(model)):
        program = export_program(graph)
        assert program.size == (50, 70)
        with torch.no_grad():
            found, expected = program.exported.module()(images), graph(images)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-4)


def test_tiles_differ_from_the_whole_and_the_reason_is_told() -> None:
    model = model_of(tiny(spread=True), "mask")
    assert receptive_field(model, "a_mask") is None
    with pytest.warns(UserWarning, match=r"looks at all of an image"):
        chosen_overlap(model, "a_mask", 192)
    image = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    tiled = TiledTask(model, "a_mask", aligned_tiling(model.encoder, 96, 32)).predict(ArrayPixels(image, 3))
    assert torch.as_tensor(tiled).shape == (150, 200)


def test_predict_tells_that_tiles_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_of(tiny(), "mask").save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    arguments = ["--model", tmp_path / "model", "--inputs", tmp_path / "large.png", "--tile", 96]
    with pytest.warns(UserWarning, match=r"looks at all of an image.*'a_mask' may differ from what the whole"):
        main(["predict", *map(str, arguments), "--out", str(tmp_path / "out"), "--num_workers", "0"])


def test_its_blocks_are_compiled() -> None:
    model = model_of(tiny(), "class")
    model.compile_blocks()
    assert all(block._compiled_call_impl is not None for block in model.encoder.net.blocks)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="do not go together"):
        model_of(tiny(checkpointing=True), "class").compile_blocks()


def test_stages_are_what_is_before_the_blocks_each_block_and_the_rest() -> None:
    encoder = tiny(PATCH_14)
    stages = [{name for name, _ in stage} for stage in encoder.parameter_stages()]
    assert len(stages) == 4
    assert {"net.cls_token", "net.reg_token", "net.pos_embed", "net.patch_embed.proj.weight"} <= stages[0]
    assert all(name.startswith("net.blocks.0.") for name in stages[1])
    assert {"net.norm.weight", "pyramid.0.0.weight"} <= stages[3]
    assert sum(map(len, stages)) == len(list(encoder.parameters()))

    module = MultiTaskModule({"a": spec_of("mask")}, encoder, None, None, SMALL_PIXELS)
    groups = ParameterGroups(layer_decay=0.5, frozen_stages=1).split(module)
    rates = {name: group.rate for group in groups for name in group.parameters}
    assert rates["model.encoder.pyramid.0.0.weight"] == rates["model.pixel_decoder.unet.blocks.0.conv1.0.weight"] == 1
    assert rates["model.encoder.net.blocks.0.mlp.fc1.weight"] == 0.25
    assert "model.encoder.net.pos_embed" not in rates
    Optimization(1e-3, groups=ParameterGroups(layer_decay=0.5)).build_optimizer(module)


def test_transfer_takes_a_vision_transformer_with_the_embedding_that_is_asked_for() -> None:
    source = TimmSource("test_vit", embedding="cls+avg")
    model = source.create_model("a", spec_of("mask"), None, seed=0)
    assert isinstance(model.encoder, ViTEncoder)
    assert model.encoder.embedding == "cls+avg"
    assert model.eval()(torch.rand(1, 3, 50, 60) * 255, "a").shape[-2:] == (50, 60)
    assert isinstance(TimmSource("test_resnet").create_model("a", spec_of("mask"), None, 0).encoder, Encoder)


def test_a_model_of_one_size_takes_another_that_is_asked_for() -> None:
    encoder = Encoder("coat_tiny", model_args={"img_size": (96, 128)})
    assert encoder.image_size == (96, 128)
    encoder.check_size((96, 128))
    with pytest.raises(ValueError, match=r"size: \[96, 128\].*model_args: \{img_size: "):
        encoder.check_size((224, 224))


@pytest.mark.filterwarnings("ignore:The run ends after")
def test_a_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def run(folder: str, steps: int, **options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        readers = readers_of({"a_class": "class", "a_mask": "mask"}, size=4)
        tasks = {name: TaskData(reader, reader, batch_size=2) for name, reader in readers.items()}
        data = MultiTaskDataModule(tasks, num_workers=0, steps_per_epoch=4)
        optimization = Optimization(1e-3, lr_scheduler=lambda optimizer: ConstantLR(optimizer, 1.0))
        encoder = tiny(drop_path_rate=0.2).train()
        module = MultiTaskModule(data.specs, encoder, None, None, SMALL_PIXELS, optimization=optimization)
        fit(module, data, tmp_path / folder, max_steps=steps, accelerator="cpu", enable_progress_bar=False, **options)
        return module.state_dict()

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4, ckpt_path="last")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_size_that_the_encoder_does_not_take_is_told_before_the_runs_folder_is_written(tmp_path: Path) -> None:
    readers = readers_of({"a": "class", "b": "class"}, size=4)
    data = MultiTaskDataModule({"a": TaskData(readers["a"], size=224), "b": TaskData(readers["b"], size=(64, 96))})
    module = MultiTaskModule(data.specs, Encoder("nest_tiny"))
    with pytest.raises(ValueError, match=r"data\.tasks\.b\.size: timm's nest_tiny does not take images of 64 x 96 .*"):
        fit(module, data, tmp_path / "run", max_steps=1)
    assert not (tmp_path / "run").exists()
