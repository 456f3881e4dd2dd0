"""Layers that look at all of an image give tiles what they give the whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers import CecaModule, EcaModule, EffectiveSEModule, GroupNormAct, SEModule
from timm.layers.cbam import CbamModule
from timm.layers.global_context import GlobalContext
from timm.layers.grn import GlobalResponseNorm
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.hgnet import EseModule
from timm.models.metaformer import GroupNorm1NoBias
from timm.models.senet import SEModule as LegacySEModule
from torch import Tensor, nn

from umedpt_lightning.blocks.timm_encoder.whole_image_layers import GATES, whole_image_layer
from umedpt_lightning.blocks.whole_image_layers import Own, whole_image_layers

CHANNELS = 16
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GroupNorm": partial(nn.GroupNorm, 4, CHANNELS),
    "GroupNorm with an activation": partial(GroupNormAct, CHANNELS, num_groups=4),
    "GroupNorm without a shift": partial(GroupNorm1NoBias, CHANNELS),
    "GroupNorm of numbers alone": partial(nn.GroupNorm, 4, CHANNELS, affine=False),
    "EfficientNet's gate": partial(SqueezeExcite, CHANNELS),
    "squeeze-and-excitation": partial(SEModule, CHANNELS),
    "squeeze-and-excitation with BatchNorm": partial(SEModule, CHANNELS, norm_layer=nn.BatchNorm2d),
    "squeeze-and-excitation with GroupNorm": partial(SEModule, CHANNELS, norm_layer=partial(nn.GroupNorm, 2)),
    "SENet's gate": partial(LegacySEModule, CHANNELS, 4),
    "effective gate": partial(EffectiveSEModule, CHANNELS),
    "HGNet's effective gate": partial(EseModule, CHANNELS),
    "efficient gate": partial(EcaModule, CHANNELS),
    "efficient gate with two layers": partial(EcaModule, CHANNELS, use_mlp=True),
    "efficient circular gate": partial(CecaModule, CHANNELS),
    "response norm": partial(GlobalResponseNorm, CHANNELS, channels_last=False),
    "response norm, channels last": partial(GlobalResponseNorm, CHANNELS),
}


def random_layer(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    layer = make().eval()
    for parameter in layer.parameters():  # some begin with zeros, and do nothing
        nn.init.normal_(parameter)
    return layer


def random_map() -> Tensor:
    """Channels of different means and strengths, different from place to place."""
    features = torch.randn(1, CHANNELS, 24, 36) * torch.linspace(0.1, 3, CHANNELS)[:, None, None]
    features += torch.linspace(-5, 5, CHANNELS)[:, None, None]
    features[:, ::2, :, :12] *= 0.2
    features[:, 3] = 0
    return features


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_parts_with_shared_sums_give_what_the_whole_gives(make: Callable[[], nn.Module]) -> None:
    layer, features, across = random_layer(make), random_map(), 3
    if getattr(layer, "channel_dim", 1) == -1:
        features, across = features.permute(0, 2, 3, 1), 2  # (1, H, W, C)
    (shared,) = whole_image_layers(nn.Sequential(layer), whole_image_layer)
    left, right = features.narrow(across, 0, 18), features.narrow(across, 9, 27)
    with torch.no_grad():
        whole = layer(features)
        # tiles that overlap, each with its own part
        sums = shared.sums(left, Own(0, 1, 0, 12 / 18)) + shared.sums(right, Own(0, 1, 3 / 27, 1))
        scale, shift = (each.float() for each in shared.scale_and_shift(sums))
        for part, start in ((left, 0), (right, 9)):
            found, expected = shared.output(part, scale, shift), whole.narrow(across, start, part.shape[across])
            assert torch.allclose(found, expected, atol=1e-5 * float(whole.std()))
            assert (layer(part) - expected).abs().max() > 1e-2 * whole.std(), "alone they would differ"


def test_every_gate_is_tested() -> None:
    assert {type(make()) for make in LAYERS.values()} >= GATES


@pytest.mark.parametrize(
    "layer",
    [
        SEModule(CHANNELS, add_maxpool=True),
        EffectiveSEModule(CHANNELS, add_maxpool=True),
        CbamModule(CHANNELS),
        GlobalContext(CHANNELS),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_another_form_share_nothing(layer: nn.Module) -> None:
    assert not whole_image_layers(layer, whole_image_layer)


def test_a_layer_that_is_used_twice_is_one() -> None:
    norm = nn.GroupNorm(4, CHANNELS)
    assert len(whole_image_layers(nn.Sequential(nn.Sequential(norm), nn.Sequential(norm)))) == 1
