"""How far networks see, and how much tiles overlap for it."""

from __future__ import annotations

import warnings
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_convnext, spec_of

from benchmarks.large_image import as_if_trained
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.blocks.whole_image_layers import WholeImageLayer, whole_image_layers
from umedpt_lightning.inference.options import TILE, PredictOptions
from umedpt_lightning.inference.tiles.grid import TileBlender, Tiling, aligned_tiling, overlap_for_radius
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.receptive_field import chosen_overlap, default_overlap, receptive_field
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.model import MultiTaskModel


def model_with(encoder: Encoder) -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {f"a_{kind}": spec_of(kind) for kind in KINDS}
    model = MultiTaskModel(encoder, specs, pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION).eval()
    with torch.no_grad():
        model.task("a_mask").head.weight *= 3  # type: ignore[operator,union-attr]  # sure of itself, as if trained
    return model


def test_convolutions_see_as_far_as_their_kernels() -> None:
    encoder = small_convnext()
    encoder.net = Kernel(encoder.channels, side=9)
    model = model_with(encoder)
    assert receptive_field(model, "a_class") == 4 * 4, "four pixels of the finest map, which are four of the image each"
    assert receptive_field(model, "a_mask") > receptive_field(model, "a_class"), "the decoder sees further"


@pytest.mark.parametrize("left", [True, False])
def test_convolutions_that_see_to_one_side_see_as_far(left: bool) -> None:
    encoder = small_convnext()
    encoder.net = Kernel(encoder.channels, side=9)
    with torch.no_grad():
        encoder.net.look.weight[..., 5:] *= not left
        encoder.net.look.weight[..., :4] *= left
    assert receptive_field(model_with(encoder), "a_class") == 4 * 4


class Kernel(torch.nn.Module):
    """A pyramid of means, of which only the finest looks aside."""

    def __init__(self, channels: list[int], side: int) -> None:
        super().__init__()
        self.channels = channels
        self.look = torch.nn.Conv2d(channels[0], channels[0], side, padding=side // 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for level, channels in enumerate(self.channels):
            mean = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4 * 2**level)
            maps.append(mean.repeat(1, channels, 1, 1))
        return [self.look(maps[0]), *maps[1:]]


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(small_convnext())
    first = receptive_field(model, "a_mask")
    monkeypatch.setattr(
        "umedpt_lightning.inference.tiles.receptive_field._measure", lambda *_: pytest.fail("measured again")
    )
    assert receptive_field(model, "a_mask") == first


def test_tiles_overlap_by_what_is_seen_and_say_so_where_they_cannot() -> None:
    model = model_with(small_convnext())
    seen = receptive_field(model, "a_mask")
    assert seen is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap = chosen_overlap(model, "a_mask", TILE)
    assert overlap == overlap_for_radius(model.encoder, seen)
    for tile in PredictOptions().tiling(model, "a_mask").grid(3000, 5000):
        for span, length in ((tile.down, 3000), (tile.across, 5000)):
            assert span.shown.start - span.start >= seen or span.start == 0
            assert span.stop - span.shown.stop >= seen or span.stop == length
    with pytest.warns(UserWarning, match=rf"Tiles of 128 pixels are small .* radius of {seen} pixels: .* 'a_mask'"):
        assert chosen_overlap(model, "a_mask", 128) == default_overlap(128)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_byobnet", {"attn_kwargs": {"add_maxpool": True}}),
        ("test_byobnet", {"attn_layer": "cbam", "attn_kwargs": {}}),
        ("test_byobnet", {"attn_layer": "gc", "attn_kwargs": {}}),
    ],
    ids=["maximum", "CBAM", "global context"],
)
def test_an_encoder_that_looks_at_everything_in_another_way_has_no_receptive_field(
    name: str, options: dict[str, Any]
) -> None:
    model = model_with(encoder_with(name, **options))
    assert receptive_field(model, "a_mask") is None
    with pytest.warns(UserWarning, match="looks at all of an image at once in a way that tiles cannot share"):
        assert chosen_overlap(model, "a_mask", 1024) == 384


@pytest.mark.parametrize("exact", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_efficientnet", {}),
        ("test_efficientnet_gn", {}),
        ("test_byobnet", {"attn_layer": "ese", "attn_kwargs": {}}),
        ("test_byobnet", {"attn_layer": "eca", "attn_kwargs": {}}),
        ("test_convnext", {"use_grn": True, "ls_init_value": None}),
    ],
    ids=["SE", "SE and GroupNorm", "effective SE", "ECA", "GRN"],
)
def test_tiles_share_what_layers_learn_of_all_of_an_image(
    name: str, options: dict[str, Any], exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with(encoder_with(name, **options))
    seen = receptive_field(model, "a_mask")
    assert seen is not None
    overlap = overlap_for_radius(model.encoder, seen)
    tiling = aligned_tiling(model.encoder, overlap + 64, overlap)
    if exact:
        monkeypatch.setattr("umedpt_lightning.inference.tiles.tiled.MOST_PIXELS", 1)
    image = fields(overlap + 80, overlap + 100)
    assert tiles_difference(model, image, tiling, exact) < 1e-3
    if exact:
        return

    def norms_only(model: torch.nn.Module, others: Any) -> list[WholeImageLayer]:
        return whole_image_layers(model)

    monkeypatch.setattr("umedpt_lightning.inference.tiles.shared_statistics.whole_image_layers", norms_only)
    assert tiles_difference(model, image, tiling) > 2e-3, "they need it"


def test_tiles_that_are_asked_to_share_too_little_are_told() -> None:
    model = model_with(small_convnext())
    needed = chosen_overlap(model, "a_mask", TILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PredictOptions(overlap=needed).tiling(model, "a_mask").overlap == needed
    with pytest.warns(UserWarning, match=r"share 32 pixels are small for .* radius of .*--tile \d+ or larger, without"):
        assert PredictOptions(tile=64, overlap=32).tiling(model, "a_mask").overlap == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tile", "size"),
    [
        ("swin_tiny_patch4_window7_224", 1120, (1300, 1400)),  # no multiples of the windows of 224 pixels
        ("resnet18", 896, (1000, 1100)),
        ("efficientnet_lite0", 1408, (1500, 1500)),
        ("efficientnet_b0", 1280, (1350, 1300)),
        ("convnextv2_atto", 1280, (1400, 1400)),
    ],
)
def test_tiles_at_their_default_overlap_are_the_whole(name: str, tile: int, size: tuple[int, int]) -> None:
    model = model_with(encoder_with(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiling = PredictOptions().tiling(model, "a_mask", tile)
    assert tiles_difference(model, fields(*size), tiling) < 1e-3


def encoder_with(name: str, **options: Any) -> Encoder:
    """An encoder of timm, with options of timm's."""
    torch.manual_seed(0)
    encoder = Encoder(name)
    if options:
        encoder.net = timm.create_model(name, features_only=True, **options)
    return as_if_trained(encoder)


def fields(height: int, width: int) -> torch.Tensor:
    """An image ``(1, 3, H, W)`` that is smooth, and darker to the left."""
    noise = torch.rand(1, 3, height // 16 + 1, width // 16 + 1, generator=torch.Generator().manual_seed(0))
    noise[..., : noise.shape[-1] // 2] *= 0.4
    return (torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()


def tiles_difference(model: MultiTaskModel, image: torch.Tensor, tiling: Tiling, exact: bool = False) -> float:
    """The largest difference of a probability between at least four tiles and the whole image."""
    head: Any = model.task("a_mask")
    with torch.inference_mode():
        whole = head.exported(model(image, "a_mask"))["probabilities"][0]
    assert whole.std() > 0.1, "a network that says the same everywhere would show little"
    blended = torch.zeros_like(whole)

    def add(self: TileBlender, tile: Any, found: torch.Tensor) -> None:
        weights = tile.down.weights()[:, None] * tile.across.weights()
        blended[:, tile.down.shown, tile.across.shown] += found * weights

    assert len(tiling.grid(*image.shape[2:])) >= 4
    with patch.object(TileBlender, "add", add):
        TiledTask(model, "a_mask", tiling, exact).predict(ArrayPixels(image[0].permute(1, 2, 0).numpy(), 3))
    return float((blended - whole).abs().max())
