"""Files in, arrays out: every stored depth survives, and what cannot be read is named."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from umedpt_lightning.data.formats.images import image_size, probe_image, read_image
from umedpt_lightning.data.formats.masks import read_mask

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
FLOAT = RNG.normal(size=(5, 7)).astype(np.float32)
ALPHA = np.full((5, 7, 1), 9, np.uint8)


def png(colour_type: int, depth: int, width: int, height: int, rows: bytes) -> bytes:
    """A PNG of kinds that Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def palette_image() -> Image.Image:
    image = Image.fromarray(GREY % 4, mode=None).convert("P")
    image.putdata((GREY % 4).ravel().tolist())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    return image


CASES = {
    "grey.png": (lambda p: Image.fromarray(GREY).save(p), GREY[..., None]),
    "grey.tif": (lambda p: Image.fromarray(GREY).save(p), GREY[..., None]),
    "rgb.png": (lambda p: Image.fromarray(RGB).save(p), RGB),
    "rgb.bmp": (lambda p: Image.fromarray(RGB).save(p), RGB),
    "rgba.png": (lambda p: Image.fromarray(np.concatenate([RGB, ALPHA], -1)).save(p), RGB),
    "la.png": (lambda p: Image.fromarray(np.stack([GREY, ALPHA[..., 0]], -1)).save(p), GREY[..., None]),
    "deep.png": (lambda p: Image.fromarray(DEEP).save(p), DEEP[..., None]),
    "deep.tif": (lambda p: Image.fromarray(DEEP).save(p), DEEP[..., None]),
    "deep_rgb.png": (lambda p: cv2.imwrite(str(p), DEEP_RGB[..., ::-1]), DEEP_RGB),
    "deep_rgb.tif": (lambda p: cv2.imwrite(str(p), DEEP_RGB[..., ::-1]), DEEP_RGB),
    "float.tif": (lambda p: Image.fromarray(FLOAT).save(p), FLOAT[..., None]),
    "int32.tif": (lambda p: Image.fromarray(GREY.astype(np.int32) - 99).save(p), GREY[..., None] - np.float32(99)),
    "bits.png": (lambda p: Image.fromarray(GREY > 99).save(p), (GREY > 99)[..., None] * np.uint8(255)),
    "palette.png": (
        lambda p: palette_image().save(p),
        np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)[GREY % 4],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_read_image_gives_what_was_stored(tmp_path: Path, name: str) -> None:
    save, expected = CASES[name]
    save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)
    assert image.flags.writeable
    assert probe_image(tmp_path / name) == (expected.shape[-1], expected.dtype)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


def test_16_bit_colour_in_planes_keeps_its_depth(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes planes apart")
    tifffile.imwrite(tmp_path / "deep.tif", DEEP_RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tif"), DEEP_RGB)
    assert probe_image(tmp_path / "deep.tif") == (3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


MANY = RNG.integers(0, 256, (5, 7, 7), dtype=np.uint8)
CHANNELS: dict[str, tuple[int, int, dict[str, Any]]] = {  # samples, channels, how they are written
    "grey, alpha": (2, 1, {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    "two": (2, 2, {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
    "RGB, alpha": (4, 3, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "RGB, one": (4, 4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "RGB, one, alpha": (5, 4, {"photometric": "rgb", "extrasamples": ["unspecified", "unassalpha"]}),
    "seven": (7, 7, {"photometric": "minisblack", "extrasamples": ["unspecified"] * 6}),
}


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", CHANNELS)
def test_all_channels_of_a_tiff_are_read_and_alpha_only_where_it_says_so(
    tmp_path: Path, layout: str, dtype: Any, planes: bool
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes any number of samples")
    samples, channels, options = CHANNELS[layout]
    pixels = MANY[..., :samples].astype(dtype)
    written = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if planes else pixels
    tifffile.imwrite(tmp_path / "a.tif", written, planarconfig="separate" if planes else "contig", **options)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, pixels[..., :channels])
    assert (image.dtype, probe_image(tmp_path / "a.tif")) == (dtype, (channels, dtype))
    assert image_size(tmp_path / "a.tif") == (5, 7)


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "float16", "float64"])
def test_numbers_that_pillow_does_not_read_or_takes_for_others_come_as_they_were_stored(
    tmp_path: Path, dtype: str
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = (GREY.astype(np.int64) - (0 if dtype[0] == "u" else 127)).clip(-128, 127 if dtype == "int8" else 255)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(dtype), photometric="minisblack")
    assert probe_image(tmp_path / "a.tif") == (1, np.float32)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], values)
    if values.min() < 0:
        with pytest.raises(ValueError, match="class indices from 0 to 65535"):
            read_mask(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.array([[0, 2**31, 2**32 - 256]], np.uint32), photometric="minisblack")
    assert read_image(tmp_path / "b.tif").ravel().tolist() == [0, 2**31, 2**32 - 256]


def test_grey_whose_0_is_white_is_inverted_at_every_depth(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for stored in (GREY, DEEP):
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.iinfo(stored.dtype).max - stored)


def test_masks_whose_0_is_white_keep_their_values(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    for stored, options in ((GREY, {}), (DEEP, {}), (GREY % 4, {"bitspersample": 2}), (GREY, {"compression": "lzw"})):
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", **options)
        np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), stored)


def test_pages_are_channels_only_where_the_file_says_so(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes pages")
    pages = np.ascontiguousarray(MANY[..., :5].transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.ome.tif", pages, photometric="minisblack", metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "b.tif", pages, imagej=True, metadata={"axes": "CYX"})
    for name in ("a.ome.tif", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), MANY[..., :5])
        with pytest.raises(ValueError, match="a mask has one channel, but this one has 5"):
            read_mask(tmp_path / name)
    tifffile.imwrite(tmp_path / "z.tif", pages, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "q.tif", pages, photometric="minisblack", metadata=None)
    for name in ("z.tif", "q.tif"):
        for function in (read_image, read_mask, probe_image):
            with pytest.raises(ValueError, match=r"this file holds 5 pages\. .* with the axes CYX"):
                function(tmp_path / name)


def test_jpeg_2000_has_alpha_only_where_it_says_so(tmp_path: Path) -> None:
    for mode, samples in (("LA", 2), ("RGBA", 4)):
        pixels = np.ascontiguousarray(np.tile(MANY[..., :samples], (8, 8, 1)))
        for suffix, channels in (("jp2", samples - 1), ("j2k", samples)):  # the latter has no place to say it
            Image.fromarray(pixels, mode).save(tmp_path / f"a.{suffix}", irreversible=False)
            assert probe_image(tmp_path / f"a.{suffix}") == (channels, np.uint8)
            np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), pixels[..., :channels])


@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_deep_colour_in_jpeg_2000_keeps_its_depth(tmp_path: Path, form: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs writes JPEG 2000 of any depth")
    path, options = tmp_path / f"a.{form}", {"level": 0, "reversible": True, "codecformat": form}
    stored = np.tile(DEEP_RGB, (8, 8, 1))
    for pixels, bits in ((stored, 16), (stored >> 4, 12)):
        path.write_bytes(imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, **options))
        assert probe_image(path) == (3, np.uint16)
        np.testing.assert_array_equal(read_image(path), pixels)
    path.write_bytes(imagecodecs.jpeg2k_encode(np.concatenate([stored, stored[..., :1]], axis=-1), **options))
    with pytest.raises(ValueError, match=r"a\.j.*cannot be read whole"):  # Pillow has bytes of all four
        read_image(path)


def test_deep_colour_in_ppm_keeps_its_depth(tmp_path: Path) -> None:
    for pixels, most in ((DEEP_RGB, 65535), (DEEP_RGB >> 4, 4095)):
        (tmp_path / "a.ppm").write_bytes(b"P6\n7 5\n%d\n" % most + pixels.astype(">u2").tobytes())
        assert probe_image(tmp_path / "a.ppm") == (3, np.uint16)
        np.testing.assert_array_equal(read_image(tmp_path / "a.ppm"), pixels)
    Image.fromarray(RGB).save(tmp_path / "a.ppm")
    np.testing.assert_array_equal(read_image(tmp_path / "a.ppm"), RGB)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.nrrd", "a.mha", "a.mhd", "a.img"])
def test_volumes_are_told_apart_from_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(400))
    for function in (read_image, probe_image, read_mask):
        with pytest.raises(ValueError, match=rf"{name}: a {name[1:]} file is a volume, no image.*Volume readers"):
            function(tmp_path / name)


def test_big_endian_tiff_is_read_in_native_order(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile writes either byte order")
    tifffile.imwrite(tmp_path / "a.tif", DEEP, byteorder=">")
    image = read_image(tmp_path / "a.tif")
    assert image.dtype == np.uint16
    assert image.dtype.isnative
    np.testing.assert_array_equal(image[..., 0], DEEP)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_neither_the_byte_order_nor_the_compression_of_a_tiff_changes_its_numbers(
    tmp_path: Path, dtype: str, compression: str | None, order: Any
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = (GREY % 200).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=order, compression=compression, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], values)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "lzw.tif"])
def test_exif_orientation_is_honoured_in_images_and_masks(tmp_path: Path, suffix: str, orientation: int) -> None:
    blocks = np.kron(np.array([[0, 60, 120], [150, 200, 250]], np.uint8), np.ones((8, 8), np.uint8))  # (16, 24)
    upright = {
        1: blocks,
        2: blocks[:, ::-1],
        3: blocks[::-1, ::-1],
        4: blocks[::-1],
        5: blocks.T,
        6: np.rot90(blocks, -1),
        7: blocks[::-1, ::-1].T,
        8: np.rot90(blocks),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif}
    if suffix.endswith("tif"):
        options = {"tiffinfo": {0x0112: orientation}, "compression": "tiff_lzw" if "lzw" in suffix else None}
    Image.fromarray(blocks).save(tmp_path / f"a.{suffix}", **options)
    for read in (read_image(tmp_path / f"a.{suffix}")[..., 0], read_mask(tmp_path / f"a.{suffix}")):
        assert read.shape == upright.shape
        assert np.abs(read.astype(int) - upright).max() <= 3


@pytest.mark.parametrize("image", [GREY, DEEP, FLOAT])
def test_grey_becomes_colour_only_on_request(tmp_path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").shape == (5, 7, 1)
    colour = read_image(tmp_path / "a.tif", channels=3)
    assert colour.dtype == image.dtype
    np.testing.assert_array_equal(colour, np.stack([image] * 3, -1))


@pytest.mark.parametrize("colour", [RGB, DEEP_RGB])
def test_colour_becomes_its_luma_on_request(tmp_path: Path, colour: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), colour[..., ::-1])
    grey = read_image(tmp_path / "a.png", channels=1)
    assert grey.dtype == colour.dtype
    assert np.abs(grey[..., 0] - colour @ [0.299, 0.587, 0.114]).max() <= 0.5001


def test_other_channel_numbers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*1 channels.*`channels: 1`"):
        read_image(tmp_path / "a.png", channels=4)


@pytest.mark.parametrize("values", [GREY, GREY % 2, DEEP])
def test_masks_keep_their_values(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == values.dtype
    np.testing.assert_array_equal(mask, values)


def test_masks_of_few_bits_and_palettes_are_indices(tmp_path: Path) -> None:
    Image.fromarray(GREY > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), (GREY > 99).astype(np.uint8))
    palette_image().save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), GREY % 4)
    (tmp_path / "two.png").write_bytes(png(0, 2, 4, 1, b"\0" + bytes([0b00011011])))
    np.testing.assert_array_equal(read_mask(tmp_path / "two.png"), [[0, 1, 2, 3]])
    (tmp_path / "four.png").write_bytes(png(0, 4, 2, 1, b"\0" + bytes([0x2F])))
    np.testing.assert_array_equal(read_mask(tmp_path / "four.png"), [[2, 15]])
    np.testing.assert_array_equal(read_image(tmp_path / "four.png")[..., 0], [[34, 255]])


def test_16_bit_grey_with_alpha_keeps_its_depth(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 16, 2, 1, b"\0" + struct.pack(">4H", 258, 65535, 40000, 65535)))
    assert probe_image(tmp_path / "a.png") == (1, np.uint16)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], [[258, 40000]])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), [[258, 40000]])
    cv2.imwrite(str(tmp_path / "b.png"), np.stack([DEEP] * 3, -1))
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), DEEP)


def test_grey_masks_saved_as_rgb_are_accepted_and_coloured_ones_refused(tmp_path: Path) -> None:
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), GREY)
    Image.fromarray(RGB).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"colour\.png.*colours.*class indices"):
        read_mask(tmp_path / "colour.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_that_is_drawn_as_transparency_is_refused(tmp_path: Path, mode: str) -> None:
    layer = Image.new(mode, (7, 5))
    layer.save(tmp_path / "empty.png")
    assert not read_mask(tmp_path / "empty.png").any()
    layer.putalpha(Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)))  # black ink on nothing
    layer.save(tmp_path / "layer.png")
    with pytest.raises(ValueError, match=r"layer\.png: all of the mask is 0, but its transparency differs"):
        read_mask(tmp_path / "layer.png")


@pytest.mark.parametrize("values", [FLOAT, np.full((2, 2), -1, np.int32), np.full((2, 2), np.nan, np.float32)])
def test_masks_of_numbers_that_are_no_indices_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*class indices from 0 to 65535"):
        read_mask(tmp_path / "a.tif")


def test_float_masks_of_whole_numbers_are_accepted(tmp_path: Path) -> None:
    Image.fromarray((GREY % 3).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), GREY % 3)


@pytest.mark.parametrize("read", [read_image, read_mask, probe_image])
def test_what_is_no_image_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png.*no such file"):
        read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png.*12 bytes.*Save it again"):
        read(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png.*0 bytes"):
        read(tmp_path / "empty.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix}.*cannot|a\.{suffix}.*Save it again"):
        read_image(path)


def test_truncated_16_bit_colour_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.png"):
        read_image(path)


def test_stacks_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif.*2 pages"):
        read_image(tmp_path / "a.tif")


def test_integers_that_floats_cannot_hold_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 2**24 + 1, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif.*16 bits"):
        read_image(tmp_path / "a.tif")
