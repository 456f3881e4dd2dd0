"""Weights as people have them: the original code's names, folders and ids of the Hub, and what does not fit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from builders import SMALL_PIXELS, spec_of
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor

from umedpt_lightning.blocks import Encoder, ViTEncoder
from umedpt_lightning.blocks.timm_encoder import base
from umedpt_lightning.model import MultiTaskModel

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
VIT, DINO, RESNET = "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "test_resnet"


@pytest.fixture(autouse=True)
def _told_again() -> None:
    torch.manual_seed(0)
    base._tell.cache_clear()


def net_of(name: str, **options: Any) -> Any:
    return timm.create_model(name, **(TINY if "vit" in name else {}), **options).eval()


def vit(weights: Any, name: str = VIT, **options: Any) -> ViTEncoder:
    return ViTEncoder(name, weights=weights, **({"model_args": TINY} | options)).eval()


def dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the original code has it: the class token's place in the table of places, and a token for masks."""
    places = state["pos_embed"]
    first = torch.randn(1, 1, places.shape[-1])
    renamed = {"reg_token": "register_tokens"}
    return {renamed.get(key, key): value for key, value in state.items()} | {
        "cls_token": state["cls_token"] - first[:, 0],
        "pos_embed": torch.cat([first, places], 1),
        "mask_token": torch.zeros(1, places.shape[-1]),
    }


def before(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def heads(*names: str) -> dict[str, Tensor]:
    return {name: torch.randn(3, 3) for name in names}


# --- the original code ----------------------------------------------------------------------------------------------


def originals(state: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    """What DINO, MAE, MoCo and Lightning write, beside `other`, which is not the result."""
    args = argparse.Namespace(arch="vit_small", lr=0.1)
    return {
        "dino": {
            "student": before("module.backbone.", other) | heads("module.head.mlp.0.weight"),
            "teacher": before("backbone.", state) | heads("head.mlp.0.weight"),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
            "epoch": 3,
            "args": args,
        },
        "mae": {
            "model": state | heads("decoder_pos_embed", "decoder_blocks.0.norm1.weight", "mask_token"),
            "optimizer": {},
            "args": args,
        },
        "moco_v3": {
            "state_dict": before("module.momentum_encoder.", other)
            | before("module.base_encoder.", state)
            | heads("module.predictor.0.weight"),
        },
        "lightning": {"state_dict": before("model.encoder.net.", state) | heads("model.tasks.a.head.weight")},
        "plain": state,
    }


@pytest.mark.parametrize("code", ["dino", "mae", "moco_v3", "lightning", "plain"])
def test_a_vision_transformer_of_the_original_code_is_read(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, other = net_of(VIT, num_classes=0), net_of(VIT, num_classes=0)
    torch.save(originals(theirs.state_dict(), other.state_dict())[code], file := tmp_path / "w.pth")
    encoder, image = vit(file), torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(encoder(image).embedding, theirs(image))
    (line,) = capsys.readouterr().err.splitlines()
    assert f"all {len(theirs.state_dict())} tensors of {VIT} are from {file}" in line
    told = {
        "dino": ["begin with teacher.backbone.", "left out is head"],
        "mae": ["left out is", "decoder_blocks"],
        "moco_v3": ["begin with module.base_encoder."],
        "lightning": ["begin with model.encoder.net."],
        "plain": [],
    }[code]
    assert all(part in line for part in told)
    imagenet = code in ("dino", "mae", "moco_v3")  # timm's own of that name has other weights
    mean = IMAGENET_DEFAULT_MEAN if imagenet else (0.5, 0.5, 0.5)
    assert encoder.mean.flatten().tolist() == pytest.approx(mean)
    assert ("mean of a pixel is theirs" in line) == imagenet


@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_a_dinov2_with_registers_is_read(prefix: str, tmp_path: Path) -> None:
    theirs = net_of(DINO)
    torch.save(before(prefix, dinov2(theirs.state_dict())), file := tmp_path / "dinov2.pth")
    encoder = vit(file, DINO)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(encoder.net.state_dict()[name], value)


def test_a_resnet_of_moco_is_read(tmp_path: Path) -> None:
    theirs = net_of(RESNET)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    key = {key: value + 1 for key, value in state.items()}
    content = before("module.encoder_q.", state | heads("fc.0.weight")) | before("module.encoder_k.", key)
    torch.save({"state_dict": content, "arch": "resnet"}, file := tmp_path / "moco.pth.tar")
    encoder = Encoder(RESNET, weights=file)
    first = "conv1.0.weight"
    assert torch.equal(encoder.net.state_dict()[first], theirs.state_dict()[first])


@pytest.mark.parametrize("part", ["blocks.1.", "pos_embed"])
def test_a_file_of_which_little_matches_is_refused(part: str, tmp_path: Path) -> None:
    state = net_of(VIT, num_classes=0).state_dict()
    torch.save(before("backbone.", {k: v for k, v in state.items() if part not in k}), file := tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"lacks \d+ tensors of timm's {VIT}, first {part}.* other \d+ are"):
        vit(file)
    torch.save(heads("a.b", "c"), file)
    with pytest.raises(ValueError, match=r"lacks .* other 0 are"):
        vit(file)


def test_a_file_of_a_model_with_more_parts_is_refused_with_the_option_that_makes_them(tmp_path: Path) -> None:
    scaled = net_of(VIT, num_classes=0, init_values=1e-5)
    torch.save(scaled.state_dict(), file := tmp_path / "uni.bin")
    with pytest.raises(
        ValueError, match=r"4 tensors that .* has no place for, first blocks\.0\.ls1\.gamma.*init_values"
    ):
        vit(file)
    encoder = vit(file, model_args=TINY | {"init_values": 1e-5})
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(encoder(image).embedding, scaled(image))


# --- folders and the Hub --------------------------------------------------------------------------------------------

MEAN, STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)


def folder_of(folder: Path, tensors: str = "model.safetensors", **config: Any) -> tuple[Path, Any]:
    """A model as timm's `push_to_hf_hub` writes it, with options and statistics that the name does not say."""
    theirs = timm.create_model(VIT, num_classes=0, **TINY, init_values=1e-5, reg_tokens=2).eval()
    folder.mkdir()
    described = {
        "architecture": VIT,
        "num_classes": 0,
        "model_args": {**TINY, "init_values": 1e-5, "reg_tokens": 2, "num_classes": 0, "dynamic_img_size": True},
        "pretrained_cfg": {"mean": MEAN, "std": STD, "input_size": [3, 224, 224]},
    }
    (folder / "config.json").write_text(json.dumps(described | config))
    state = {key: value + 0.01 for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    save = safetensors.torch.save_file if tensors.endswith("safetensors") else torch.save
    save(state, folder / tensors)
    return folder, theirs


@pytest.mark.parametrize("tensors", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_says_how_its_model_is_built_and_what_it_has_seen(tensors: str, tmp_path: Path) -> None:
    folder, theirs = folder_of(tmp_path / "uni", tensors)
    encoder = ViTEncoder(VIT, weights=folder).eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(encoder(image).embedding, theirs(image))
    assert encoder.mean.flatten().tolist() == pytest.approx(MEAN)
    assert encoder.std.flatten().tolist() == pytest.approx(STD)
    one = ViTEncoder(VIT, in_channels=1, weights=folder, mean=[0.25], std=[0.5])
    assert one.mean.item() == 0.25
    assert one.net.patch_embed.proj.weight.shape[1] == 1  # type: ignore[union-attr]


def test_a_saved_model_needs_the_folder_no_more(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path / "uni")
    model = MultiTaskModel(ViTEncoder(VIT, weights=folder), {"a": spec_of("mask")}, None, SMALL_PIXELS).eval()
    model.save_pretrained(tmp_path / "saved")
    (folder / "config.json").unlink()
    again = MultiTaskModel.from_pretrained(tmp_path / "saved")
    images = torch.rand(1, 3, 50, 60) * 255
    assert torch.equal(again(images, "a"), model(images, "a"))


def test_a_folder_of_another_model_or_without_one_is_told_the_mend(tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path / "uni")
    with pytest.raises(ValueError, match=rf"is of timm's {VIT}, but encoder.name is {DINO}. Write name: {VIT}"):
        ViTEncoder(DINO, weights=folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has none of model\.safetensors, pytorch_model\.bin"):
        ViTEncoder(VIT, weights=folder)
    (folder / "config.json").write_text('{"format": "umedpt-lightning"}')
    with pytest.raises(ValueError, match=r"no config\.json of a timm model.*encoder\.safetensors"):
        ViTEncoder(VIT, weights=folder)


@pytest.mark.parametrize("place", ["hf-hub:some/uni", "some/uni"])
def test_an_id_of_the_hub_is_downloaded(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, theirs = folder_of(tmp_path / "uni", "pytorch_model.bin")
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, *allow_patterns))
        return str(folder)

    monkeypatch.setattr("umedpt_lightning.blocks.timm_encoder.weight_files.snapshot_download", download)
    encoder = ViTEncoder(VIT, weights=Path(place))
    assert torch.equal(encoder.net.cls_token, theirs.cls_token)
    assert asked[0] == ("some/uni", "config.json", "model.safetensors")  # and pickles only where there is no other
    assert asked[1:] == [("some/uni", "config.json", "pytorch_model.bin")]


def test_a_download_that_cannot_be_is_told_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("umedpt_lightning.blocks.timm_encoder.weight_files.snapshot_download", offline)
    with pytest.raises(ConnectionError, match=r"no file or folder some/uni.*unreachable.*hf download some/uni"):
        ViTEncoder(VIT, weights=Path("some/uni"))
    with pytest.raises(FileNotFoundError, match=r"no file some/uni\.pth"):
        ViTEncoder(VIT, weights=Path("some/uni.pth"))
