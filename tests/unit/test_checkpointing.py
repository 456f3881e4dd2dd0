"""Activation checkpointing: the same gradients and statistics with less kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.training.profiling.saved_bytes import SavedBytes

# sequences of blocks; blocks by attribute (whole stages are recomputed); lists changed in place; Swin's windows
NAMES = ["test_convnext", "test_resnet", "test_efficientnet", "regnetx_002", "hrnet_w18_small", "test_vit"]
RANDOM = {"test_convnext": 0.5, "test_resnet": 0.5, "test_efficientnet": 0.5}


def pair(name: str, **options: Any) -> tuple[Encoder, Encoder]:
    options |= {"drop_path_rate": RANDOM.get(name, 0.0)}
    plain = Encoder(name, **options)
    checkpointed = Encoder(name, checkpointing=True, **options)
    checkpointed.load_state_dict(plain.state_dict())
    return plain.train(), checkpointed.train()


def images_for(name: str) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 160, 160) if "vit" in name else torch.rand(2, 3, 64, 64)


def backward(encoder: Encoder, images: Tensor, task: str | None = None) -> None:
    torch.manual_seed(2)  # which paths are dropped
    torch.stack([m.square().mean() for m in encoder(images, task).maps]).sum().backward()


@pytest.mark.parametrize("name", [*NAMES, "swin_tiny_patch4_window7_224"])
def test_gradients_and_running_statistics_are_those_without(name: str) -> None:
    plain, checkpointed = pair(name)
    for encoder in (plain, checkpointed):
        backward(encoder, images_for(name))
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    for (key, a), b in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key  # BatchNorm's too, and how often they moved
    for (key, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch_norm", ["freeze", "group", "per_task"])
def test_it_goes_with_every_treatment_of_batch_norm(batch_norm: str) -> None:
    plain, checkpointed = pair("test_resnet", batch_norm=batch_norm)
    for encoder in (plain, checkpointed):
        encoder.bind(["a", "b"])
        for task in ("a", "b", "a"):
            backward(encoder, images_for("test_resnet"), task)
    for (key, a), b in zip(plain.state_dict().items(), checkpointed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_less_is_kept_for_the_backward_pass(name: str) -> None:
    kept = []
    for encoder in pair(name):
        with SavedBytes() as saved:
            maps = encoder(images_for(name)).maps
            kept.append(saved.alive)
            del maps
    assert kept[1] < 0.8 * kept[0]


def test_nothing_is_computed_twice_in_evaluation_or_without_gradients() -> None:
    _, encoder = pair("test_convnext")
    calls = []
    block = next(m for m in encoder.modules() if type(m).__name__ == "ConvNeXtBlock")
    block.conv_dw.register_forward_hook(lambda *_: calls.append(1))
    backward(encoder.eval(), images_for("test_convnext"))
    assert len(calls) == 1
    backward(encoder.train(), images_for("test_convnext"))
    assert len(calls) == 3


def test_a_copy_computes_with_its_own_blocks() -> None:
    _, encoder = pair("test_resnet")
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    backward(other, images_for("test_resnet"))
    assert all(p.grad is None for p in encoder.parameters())


def test_an_encoder_of_single_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.checkpointing: timm's vgg11 has no blocks.*another encoder"):
        Encoder("vgg11", checkpointing=True)


def test_channels_last_reaches_weights_and_images_and_changes_no_feature() -> None:
    plain = Encoder("test_resnet").eval()
    last = Encoder("test_resnet", channels_last=True).eval()
    last.load_state_dict(plain.state_dict())
    seen: list[Tensor] = []
    convolution = next(m for m in last.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    images = images_for("test_resnet")
    maps = last(images).maps
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in [*seen, convolution.weight])
    for a, b in zip(maps, plain(images).maps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
