"""Adapters: they alone learn, are saved alone, and merged compute the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from builders import SMALL_DETECTION, SMALL_PIXELS, readers_of, spec_of, trainer_of
from torch import nn

from umedpt_lightning.blocks import Encoder, ViTEncoder
from umedpt_lightning.blocks.lora import add_lora, has_lora, load_lora, merge_lora, save_lora
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.inference.pool import ComputeOptions
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.runs import export_run
from umedpt_lightning.training import MultiTaskModule
from umedpt_lightning.transfer.finetune import FineTuner, FineTuning
from umedpt_lightning.transfer.sources import TimmSource

pytest.importorskip("peft")

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def spread(encoder: nn.Module) -> None:
    """Adapters that change something."""
    for name, parameter in encoder.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.2)
        elif "gamma" in name:  # the scales of layers, nearly 0 at first
            nn.init.ones_(parameter)


@pytest.mark.parametrize("name", [VIT, "beitv2_base_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3"])
def test_merged_equals_unmerged(name: str) -> None:
    encoder = ViTEncoder(name, model_args=TINY, lora_rank=4).eval()
    images = torch.rand(2, 3, 50, 70)
    with torch.no_grad():
        spread(encoder)
        for name, parameter in encoder.named_parameters():
            if ".lora_B." in name:
                nn.init.zeros_(parameter)
        before = encoder(images)
        spread(encoder)
        unmerged = encoder(images)
        merge_lora(encoder)
        merged = encoder(images)
    assert not torch.allclose(before.embedding, unmerged.embedding, atol=1e-2)
    for one, other in zip([unmerged.embedding, *unmerged.maps], [merged.embedding, *merged.maps], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    plain = ViTEncoder(**encoder.hparams)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert not has_lora(encoder)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_a_new_adapter_changes_nothing_and_learns_alone() -> None:
    encoder = ViTEncoder(VIT, model_args=TINY).eval()
    images = torch.rand(2, 3, 50, 70)
    before = encoder(images).embedding
    add_lora(encoder, 8)
    torch.testing.assert_close(encoder(images).embedding, before)
    learn = {
        name.split(".")[0] if "lora" not in name else "lora"
        for name, p in encoder.named_parameters()
        if p.requires_grad
    }
    assert learn == {"lora", "pyramid"}


def test_rank_8_is_two_percent_of_vit_small_at_most() -> None:
    with torch.device("meta"):
        encoder = ViTEncoder("vit_small_patch16_224", lora_rank=8)
    adapters = sum(p.numel() for name, p in encoder.named_parameters() if ".lora_" in name)
    assert 0 < adapters <= 0.02 * sum(p.numel() for name, p in encoder.net.named_parameters() if ".lora_" not in name)


def test_a_swin_takes_adapters_and_a_resnet_says_why_not() -> None:
    swin = Encoder("swin_tiny_patch4_window7_224", lora_rank=2)
    assert sum(".lora_A." in name for name, _ in swin.named_parameters()) == 24
    with pytest.raises(ValueError, match=r"test_resnet has no attention layers.*Take a vision transformer"):
        Encoder("test_resnet", lora_rank=2)


def test_adapters_alone_are_saved_and_put_onto_the_same_base(tmp_path: Path) -> None:
    base = ViTEncoder(VIT, model_args=TINY).eval()
    adapted = copy.deepcopy(base)
    add_lora(adapted, 4)
    spread(adapted)
    save_lora(adapted, tmp_path / "adapter.safetensors")
    other = copy.deepcopy(base)
    load_lora(other, tmp_path / "adapter.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(other(images).embedding, adapted(images).embedding)
    with pytest.raises(ValueError, match=f"adapters of {VIT}, but the encoder is test_vit"):
        load_lora(ViTEncoder("test_vit"), tmp_path / "adapter.safetensors")
    unlike = ViTEncoder(VIT, model_args=TINY)
    with pytest.raises(ValueError, match=f"adapters of other weights of {VIT} than the encoder has"):
        load_lora(unlike, tmp_path / "adapter.safetensors")
    assert not has_lora(unlike)
    load_lora(copy.deepcopy(base).half(), tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"adapters already"):
        load_lora(other, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"no adapters"):
        save_lora(base, tmp_path / "none.safetensors")


def test_a_run_trains_adapters_alone_and_is_exported_merged(tmp_path: Path) -> None:
    readers = readers_of({"a_class": "class", "a_mask": "mask"}, size=4)
    data = MultiTaskDataModule({k: TaskData(r, r, batch_size=2) for k, r in readers.items()}, steps_per_epoch=3)
    encoder = ViTEncoder(VIT, model_args=TINY, lora_rank=4)
    module = MultiTaskModule(data.specs, encoder, None, None, SMALL_PIXELS, SMALL_DETECTION)
    before = {name: value.clone() for name, value in encoder.named_parameters()}
    trainer = trainer_of(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(module, data)
    for name, value in encoder.named_parameters():
        assert torch.equal(value, before[name]) == (name.startswith("net.") and ".lora_" not in name), name

    trainer.save_checkpoint(tmp_path / "last.ckpt")
    model = MultiTaskModel.from_pretrained(tmp_path / "last.ckpt")
    exported = export_run(tmp_path, tmp_path / "out", tmp_path / "last.ckpt")
    assert not has_lora(exported.encoder)
    again = MultiTaskModel.from_pretrained(tmp_path / "out")
    images = torch.rand(1, 3, 50, 60) * 255
    torch.testing.assert_close(again(images, "a_mask"), model(images, "a_mask"), atol=1e-5, rtol=1e-5)
    based = ViTEncoder(VIT, model_args=TINY)
    based.load_state_dict(
        {k.replace(".base_layer", ""): v for k, v in model.encoder.state_dict().items() if "lora" not in k}
    )
    load_lora(based, tmp_path / "out" / "adapter.safetensors")
    torch.testing.assert_close(based.eval()(images).embedding, model.encoder(images).embedding)
    assert (tmp_path / "out" / "encoder.safetensors").exists()


@pytest.mark.parametrize("kind", ["class", "mask"])
def test_transfer_trains_adapters_alone(kind: str) -> None:
    reader = readers_of({"a": kind}, size=4)["a"]
    model = TimmSource("test_vit").create_model("a", spec_of(kind), None, 0)
    options = FineTuning(steps=2, learning_rates=(1e-3,), evaluations=1)
    tuner = FineTuner("a", TaskData(reader, reader, batch_size=2), reader, options, ComputeOptions(num_workers=0), 0)
    adapted = copy.deepcopy(model)
    add_lora(adapted.encoder, 2)
    tuned = tuner.train(adapted, lambda steps: None)
    after = tuned.model.encoder.state_dict()
    for name, value in model.encoder.net.state_dict().items():
        layer, _, last = name.rpartition(".")
        kept = after.get(f"net.{name}", after.get(f"net.{layer}.base_layer.{last}"))
        assert kept is not None
        assert torch.equal(kept, value)
    assert any(value.abs().sum() > 0 for name, value in after.items() if ".lora_B." in name)
    frozen = tuner.train(model, lambda steps: None, whole=False).model.encoder
    kept = torch.equal(frozen.pyramid[0][0].weight, model.encoder.pyramid[0][0].weight)  # type: ignore[index]
    assert kept == (kind == "class")  # it learns with the decoder that reads it
    assert torch.equal(frozen.net.pos_embed, model.encoder.net.pos_embed)  # type: ignore[union-attr]
