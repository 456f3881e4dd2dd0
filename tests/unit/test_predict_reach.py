"""How far networks see, and how much tiles overlap for it."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_encoder, spec_of

from umedpt_lightning.blocks import Encoder, PixelDecoder
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.predict.grid import overlap_for
from umedpt_lightning.predict.images import ArrayPixels
from umedpt_lightning.predict.look import TILE, Look
from umedpt_lightning.predict.reach import needed_overlap, reach, usual_overlap
from umedpt_lightning.predict.seams import Seams
from umedpt_lightning.predict.tiled import TiledTask
from umedpt_lightning.types import MaskSpec


def model_with(encoder: Encoder) -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {f"a_{kind}": spec_of(kind) for kind in KINDS}
    return MultiTaskModel(encoder, specs, pixel_decoder=SMALL_PIXELS, detection_decoder=SMALL_DETECTION).eval()


def test_convolutions_see_as_far_as_their_kernels() -> None:
    encoder = small_encoder()
    encoder.net = Kernel(encoder.channels, side=9)
    model = model_with(encoder)
    assert reach(model, "a_class") == 4 * 4, "four pixels of the finest map, which are four of the image each"
    assert reach(model, "a_mask") > reach(model, "a_class"), "the decoder sees further"


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
    model = model_with(small_encoder())
    first = reach(model, "a_mask")
    monkeypatch.setattr("umedpt_lightning.predict.reach._measure", lambda *_: pytest.fail("measured again"))
    assert reach(model, "a_mask") == first


def test_tiles_overlap_by_what_is_seen_and_say_so_where_they_cannot() -> None:
    model = model_with(small_encoder())
    seen = reach(model, "a_mask")
    assert seen is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlap = needed_overlap(model, "a_mask", TILE)
    assert overlap == overlap_for(model.encoder, seen)
    for tile in Look().tiling(model, "a_mask", (3000, 5000)).grid(3000, 5000):  # type: ignore[union-attr]  # it is large
        for span, length in ((tile.down, 3000), (tile.across, 5000)):
            assert span.shown.start - span.start >= seen or span.start == 0
            assert span.stop - span.shown.stop >= seen or span.stop == length
    with pytest.warns(UserWarning, match=rf"Tiles of 128 pixels are small .* {seen} pixels far: .* 'a_mask'"):
        assert needed_overlap(model, "a_mask", 128) == usual_overlap(128)


def test_an_encoder_that_looks_at_everything_has_no_reach() -> None:
    model = model_with(Encoder("test_efficientnet"))
    squeezed = [m for m in model.encoder.modules() if type(m).__name__ == "SqueezeExcite"]
    assert squeezed
    assert reach(model, "a_mask") is None
    with pytest.warns(UserWarning, match="looks at all of an image at once"):
        assert needed_overlap(model, "a_mask", 1024) == 384


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tile", "size"),
    [
        ("swin_tiny_patch4_window7_224", 1120, (1300, 1400)),  # no multiples of the windows of 224 pixels
        ("resnet18", 512, (700, 800)),
        ("efficientnet_lite0", 1344, (1400, 1500)),
    ],
)
def test_tiles_at_their_default_overlap_are_the_whole(
    name: str, tile: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    spec = MaskSpec(channels=3, classes=("background", "one", "other"))
    model = MultiTaskModel(Encoder(name), {"m": spec}, pixel_decoder=partial(PixelDecoder, channels=16)).eval()
    head: Any = model.task("m")
    with torch.no_grad():
        head.head.weight *= 3  # sure of itself, as if trained
    noise = torch.rand(1, 3, size[0] // 16 + 1, size[1] // 16 + 1)
    image = (torch.nn.functional.interpolate(noise, size, mode="bicubic").clamp(0, 1) * 255).byte()
    with torch.inference_mode():
        whole = head.exported(model(image, "m"))["probabilities"][0]
    assert whole.std() > 0.1
    blended = torch.zeros_like(whole)

    def add(self: Seams, tile: Any, found: torch.Tensor) -> None:
        weights = tile.down.weights()[:, None] * tile.across.weights()
        blended[:, tile.down.shown, tile.across.shown] += found * weights

    monkeypatch.setattr(Seams, "add", add)
    tiling = Look().tiling_of(model, "m", tile)
    assert len(tiling.grid(*size)) >= 4
    TiledTask(model, "m", tiling).predict(ArrayPixels(image[0].permute(1, 2, 0).numpy(), 3))
    assert (blended - whole).abs().max() < 1e-3
