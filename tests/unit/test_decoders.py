"""The shared decoders: an embedding a pixel, and towers with anchors for boxes."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from umedpt_lightning.blocks import DetectionDecoder, Encoder, PixelDecoder, Pyramid
from umedpt_lightning.blocks.batch_norm import normalises_by_batch

ENCODERS = ["test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"]
any_encoder = pytest.mark.parametrize("name", ENCODERS)
any_size = pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 32)])


@lru_cache
def encoder_of(name: str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(name).eval()


@lru_cache
def pyramid_of(name: str, size: tuple[int, int]) -> Pyramid:
    with torch.no_grad():
        return encoder_of(name)(torch.rand(2, 3, *size))


@any_size
@any_encoder
def test_every_pixel_of_the_image_gets_an_embedding(name: str, size: tuple[int, int]) -> None:
    encoder = encoder_of(name)
    pixels = PixelDecoder(encoder.channels, encoder.strides, channels=4)(pyramid_of(name, size))
    assert pixels.shape == (2, 4, *size)
    assert pixels.isfinite().all()


@any_encoder
def test_the_pixel_embedding_uses_every_map_of_the_pyramid(name: str) -> None:
    encoder = encoder_of(name)
    channels_and_strides = zip(encoder.channels, encoder.strides, strict=True)
    maps = [torch.randn(1, c, 64 // s, 64 // s, requires_grad=True) for c, s in channels_and_strides]
    decoder = PixelDecoder(encoder.channels, encoder.strides, channels=4)
    decoder(Pyramid(maps, encoder.strides, (64, 64), (64, 64))).square().sum().backward()
    assert all(m.grad is not None and m.grad.abs().max() > 0 for m in maps)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_a_pixel_embedding_does_not_depend_on_the_other_images() -> None:
    encoder, pyramid = encoder_of(ENCODERS[1]), pyramid_of(ENCODERS[1], (64, 32))
    # in double precision: convolutions of one and of two images add up in another order
    maps, sizes = [m.double() for m in pyramid.maps], (pyramid.strides, pyramid.size, pyramid.padded_size)
    decoder = PixelDecoder(encoder.channels, encoder.strides, channels=4).train().double()
    alone = decoder(Pyramid([m[:1] for m in maps], *sizes))
    torch.testing.assert_close(decoder(Pyramid(maps, *sizes))[:1], alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("strides", [[4, 8, 32], [4, 12, 24], [8, 4, 2], [16, 16, 16]])
def test_the_pixel_decoder_refuses_strides_that_do_not_double(strides: list[int]) -> None:
    with pytest.raises(ValueError, match="strides that double.*" + ", ".join(map(str, strides))):
        PixelDecoder([8] * len(strides), strides)


@any_size
@any_encoder
def test_detection_features_lie_on_the_levels_from_the_finest_on(name: str, size: tuple[int, int]) -> None:
    encoder, pyramid = encoder_of(name), pyramid_of(name, size)
    for finest in (4, 8):
        found = DetectionDecoder(encoder.channels, encoder.strides, 32, 1, finest)(pyramid)
        expected = [
            (2, 32, pyramid.padded_size[0] // s, pyramid.padded_size[1] // s) for s in encoder.strides if s >= finest
        ]
        assert [tuple(m.shape) for m in found.classes] == [tuple(m.shape) for m in found.boxes] == expected
        assert found.size == size
        assert len(found.anchors) == sum(shape[2] * shape[3] for shape in expected)


@any_encoder
def test_each_anchor_is_as_wide_as_its_stride_and_lies_on_its_places_in_order(name: str) -> None:
    encoder, pyramid = encoder_of(name), pyramid_of(name, (33, 70))
    found = DetectionDecoder(encoder.channels, encoder.strides, 32, 1)(pyramid)
    start = 0
    for stride in (s for s in encoder.strides if s >= 8):
        rows, columns = pyramid.padded_size[0] // stride, pyramid.padded_size[1] // stride
        anchors = found.anchors[start : start + rows * columns]
        start += rows * columns
        assert (anchors[:, 2:] - anchors[:, :2] == stride).all()
        centres = (anchors[:, 2:] + anchors[:, :2]) / 2
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1) * float(stride)
        torch.testing.assert_close(centres - centres[0], grid)
        assert (centres[0] >= 0).all()
        assert (centres[0] < stride).all()


def test_anchors_are_float32_in_bfloat16_too() -> None:
    encoder, pyramid = encoder_of(ENCODERS[1]), pyramid_of(ENCODERS[1], (64, 32))
    with torch.autocast("cpu", torch.bfloat16):
        found = DetectionDecoder(encoder.channels, encoder.strides, 32, 1)(pyramid)
    assert found.anchors.dtype == torch.float32
    assert found.classes[0].dtype == torch.bfloat16


def test_a_detection_decoder_without_any_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strides \[4, 8\], none of them 16 or coarser"):
        DetectionDecoder([8, 8], [4, 8], finest=16)


def test_convolutions_and_channels_of_the_towers_are_as_asked_for() -> None:
    decoder = DetectionDecoder([8], [8], channels=64, convolutions=3)
    for tower in (decoder.class_tower, decoder.box_tower):
        shapes = [m.weight.shape[:2] for m in tower.modules() if isinstance(m, torch.nn.Conv2d)]
        assert shapes == [(64, 64)] * 3
    assert decoder.out_channels == 64


def test_no_decoder_normalises_by_batch() -> None:
    encoder = encoder_of(ENCODERS[0])
    assert not normalises_by_batch(PixelDecoder(encoder.channels, encoder.strides))
    assert not normalises_by_batch(DetectionDecoder(encoder.channels, encoder.strides))
