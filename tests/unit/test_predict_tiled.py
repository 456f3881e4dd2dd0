"""Images by tiles: what is predicted is what the whole image would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from builders import KINDS, SMALL_DETECTION, SMALL_PIXELS, small_convnext, spec_of
from numpy.typing import NDArray
from torchvision.ops import box_iou

from umedpt_lightning.blocks import Encoder
from umedpt_lightning.blocks.whole_image_layers import Own
from umedpt_lightning.inference.tiles.grid import Grid, Span, Tile, TileBlender, Tiling, aligned_tiling
from umedpt_lightning.inference.tiles.pixels import ArrayPixels
from umedpt_lightning.inference.tiles.shared_statistics import SharedStatistics
from umedpt_lightning.inference.tiles.tiled import TiledTask
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.tasks import Detections

HEIGHT, WIDTH = 640, 740


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    specs = {f"a_{kind}": spec_of(kind) for kind in KINDS}
    blocks = {"pixel_decoder": SMALL_PIXELS, "detection_decoder": SMALL_DETECTION}
    model = MultiTaskModel(small_convnext(), specs, **blocks)
    fcos: Any = model.task("a_box").fcos
    with torch.no_grad():
        model.task("a_mask").head.weight *= 3  # type: ignore[operator,union-attr]  # sure of itself, as if trained
        torch.nn.init.constant_(fcos.head.regression_head.bbox_reg.bias, 0.5)  # large enough to overlap
    fcos.detections_per_img = fcos.topk_candidates = 100_000
    return model.eval()


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Smooth, its upper half darker: tiles differ in what they show."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((HEIGHT, WIDTH, 3)), (0, 0), 6)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    noise[: HEIGHT // 2] *= 0.4
    return (noise * 255).astype(np.uint8)


def probabilities(model: MultiTaskModel, image: NDArray[Any], tiling: Tiling) -> torch.Tensor:
    """Those of `TiledTask` before the classes are taken."""
    seen: list[torch.Tensor] = []

    tiled = TiledTask(model, "a_mask", tiling)
    whole = torch.zeros(3, *image.shape[:2])
    with pytest.MonkeyPatch.context() as patch:

        def add(self: TileBlender, tile: Tile, found: torch.Tensor) -> None:
            weights = tile.down.weights()[:, None] * tile.across.weights()
            whole[:, tile.down.shown, tile.across.shown] += found * weights
            seen.append(found)

        patch.setattr(TileBlender, "add", add)
        tiled.predict(ArrayPixels(image, 3))
    assert len(seen) == 4
    return whole


@pytest.mark.parametrize("kind", ["class", "multilabel", "regression"])
def test_vectors_of_tiles_are_those_of_the_whole(model: MultiTaskModel, image: NDArray[Any], kind: str) -> None:
    (whole,) = model.predict([image], f"a_{kind}")
    tiled = TiledTask(model, f"a_{kind}", aligned_tiling(model.encoder, 512, 256)).predict(ArrayPixels(image, 3))
    assert torch.allclose(tiled, whole, atol=1e-4)


def test_probabilities_of_tiles_are_those_of_the_whole(model: MultiTaskModel, image: NDArray[Any]) -> None:
    with torch.inference_mode():
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        whole = model.task("a_mask").exported(model(batch, "a_mask"))["probabilities"][0]
    assert whole.std() > 0.1, "a network that says the same everywhere would show little"
    difference = (probabilities(model, image, aligned_tiling(model.encoder, 512, 256)) - whole).abs()
    assert difference.max() < 1e-3
    # with less to see around it, it is worse: the overlap is needed
    assert (probabilities(model, image, aligned_tiling(model.encoder, 512, 64)) - whole).abs().max() > 1e-2


def test_without_shared_statistics_tiles_would_differ_where_they_meet(
    model: MultiTaskModel, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = model.predict([image], "a_mask")
    tiled = TiledTask(model, "a_mask", aligned_tiling(model.encoder, 512, 256))
    shared = (tiled.predict(ArrayPixels(image, 3)) != whole.numpy()).mean()
    monkeypatch.setattr(SharedStatistics, "measure", lambda *_: None)
    own = (tiled.predict(ArrayPixels(image, 3)) != whole.numpy()).mean()
    assert shared < 1e-4 < 1e-2 < own


@pytest.mark.parametrize(("fits", "measured"), [(True, 9), (False, 4)])
def test_statistics_are_those_of_all_tiles_where_the_image_fits(
    model: MultiTaskModel, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch, fits: bool, measured: int
) -> None:
    # together the tiles have more pixels than the image, since they overlap
    monkeypatch.setattr(
        "umedpt_lightning.inference.tiles.tiled.MOST_PIXELS", HEIGHT * WIDTH if fits else HEIGHT * WIDTH - 1
    )
    monkeypatch.setattr("umedpt_lightning.inference.tiles.tiled._SAMPLE_TILE", 320)
    monkeypatch.setattr("umedpt_lightning.inference.tiles.tiled._SAMPLE_OVERLAP", 64)
    counts = []
    measure = SharedStatistics.measure

    def counted(self: SharedStatistics, runs: Any, advance: Any) -> None:
        counts.append(len(runs))
        measure(self, runs, advance)

    monkeypatch.setattr(SharedStatistics, "measure", counted)
    TiledTask(model, "a_mask", aligned_tiling(model.encoder, 384, 192)).predict(ArrayPixels(image, 3))
    assert counts == [measured]


def test_exact_statistics_of_a_large_image_are_those_of_the_whole(
    model: MultiTaskModel, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = model.predict([image], "a_mask")
    boxes = model.predict([image], "a_box")[0]
    tiling = aligned_tiling(model.encoder, 512, 256)
    monkeypatch.setattr("umedpt_lightning.inference.tiles.tiled.MOST_PIXELS", HEIGHT * WIDTH // 4)
    pixels = ArrayPixels(image, 3)
    exact, sampled = (TiledTask(model, "a_mask", tiling, exact).predict(pixels) for exact in (True, False))
    assert (exact != whole.numpy()).mean() < 1e-4 < (sampled != whole.numpy()).mean()
    scores = TiledTask(model, "a_box", tiling, exact=True).predict(pixels).scores
    assert torch.allclose(scores[:50], boxes.scores[:50], atol=1e-4)
    assert torch.allclose(  # no encoder of these has a GroupNorm: there is nothing to measure
        TiledTask(model, "a_class", tiling, exact=True).predict(pixels), model.predict([image], "a_class")[0], atol=1e-4
    )


@pytest.mark.parametrize("exact", [False, True])
def test_the_whole_time_is_watched(
    model: MultiTaskModel, image: NDArray[Any], monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    monkeypatch.setattr("umedpt_lightning.inference.tiles.tiled.MOST_PIXELS", HEIGHT * WIDTH // (4 if exact else 1))
    told: dict[str, list[int]] = {}

    @contextmanager
    def watch(what: str, total: int) -> Iterator[Callable[[int], None]]:
        told[what] = [total, 0]

        def advance(steps: int) -> None:
            told[what][1] += steps

        yield advance

    tiled = TiledTask(model, "a_mask", aligned_tiling(model.encoder, 512, 256), exact)
    tiled.predict(ArrayPixels(image, 3), wanted=lambda tile: tile.down.start == 0, progress=watch, name="x.png")
    norms = sum(isinstance(layer, torch.nn.GroupNorm) for layer in model.pixel_decoder.modules())  # type: ignore[union-attr]
    assert told == {"a_mask: statistics of x.png": [2 * norms] * 2, "a_mask: tiles of x.png": [4, 4]}


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (64, 0), (96, 33), (128, 100), (33, 1)])
def test_what_is_shown_of_a_tile_lies_in_it(model: MultiTaskModel, tile: int, overlap: int) -> None:
    tiling = aligned_tiling(model.encoder, tile, overlap)
    for length in (1, 63, 90, 200, 333):
        for span in tiling.grid(length, length).rows:
            assert span.start <= span.shown.start <= span.low
            assert span.high <= span.shown.stop <= span.stop


def test_boxes_of_tiles_are_those_of_the_whole(model: MultiTaskModel, image: NDArray[Any]) -> None:
    fcos: Any = model.task("a_box").fcos
    with torch.inference_mode():
        batch = torch.from_numpy(image[:512, :512]).permute(2, 0, 1)[None]
        scores = model.task("a_box").exported(model(batch, "a_box"))["scores"]
    fcos.score_thresh = float(scores.flatten().quantile(0.99))
    (whole,) = model.predict([image], "a_box")
    tiled = TiledTask(model, "a_box", aligned_tiling(model.encoder, 512, 256)).predict(ArrayPixels(image, 3))
    assert len(whole.boxes) == len(tiled.boxes) > 100
    # in another order where scores are equal but for rounding
    same = (box_iou(whole.boxes, tiled.boxes) > 0.999) & (whole.labels[:, None] == tiled.labels)
    assert same.any(0).all()
    assert same.any(1).all()
    assert torch.allclose(tiled.scores, whole.scores, atol=1e-4)


def test_a_task_with_a_size_sees_every_tile_in_that_size() -> None:
    torch.manual_seed(0)
    sizes = {"a_mask": (64, 96), "a_box": (64, 96)}
    specs = {name: spec_of(name[2:]) for name in sizes}
    model = MultiTaskModel(
        small_convnext(),
        specs,
        pixel_decoder=SMALL_PIXELS,
        detection_decoder=SMALL_DETECTION,
        sizes=sizes,
    ).eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    pixels = ArrayPixels(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8), 3)
    tiling = Tiling((100, 150), 30, whole=True)
    assert TiledTask(model, "a_mask", tiling).predict(pixels).shape == (200, 300)
    found = TiledTask(model, "a_box", tiling).predict(pixels)
    assert found.boxes[:, 2].max() > 200
    assert set(seen) == {(64, 96)}


def test_tiles_that_are_not_wanted_are_background(model: MultiTaskModel, image: NDArray[Any]) -> None:
    tiling = aligned_tiling(model.encoder, 512, 256)
    mask = TiledTask(model, "a_mask", tiling).predict(ArrayPixels(image, 3), wanted=lambda tile: tile.down.start == 0)
    assert mask[:256].any()
    assert not mask[500:].any()
    nothing = TiledTask(model, "a_box", tiling).predict(ArrayPixels(image, 3), wanted=lambda tile: False)
    assert isinstance(nothing, Detections)
    assert len(nothing.boxes) == 0


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(1, 8, 4), (8, 8, 4), (9, 8, 4), (100, 32, 8), (97, 32, 0), (1000, 64, 60)]
)
def test_own_parts_are_the_whole_and_weights_add_up_to_one(length: int, tile: int, overlap: int, whole: bool) -> None:
    spans = Tiling((tile, tile), overlap, whole).grid(length, length).rows
    assert [span.low for span in spans] == [0, *(span.high for span in spans[:-1])]
    assert spans[-1].high == length
    total = torch.zeros(length)
    for span in spans:
        assert span.start <= span.shown.start < span.shown.stop <= span.stop <= length
        assert span.stop - span.start == tile if whole and length > tile else span.stop - span.start <= tile
        total[span.shown] += span.weights()
    assert torch.allclose(total, torch.ones(length))


def test_tiles_begin_where_the_encoders_pixels_do() -> None:
    assert all(
        span.start % 32 == 0 and span.low % 32 == 0
        for span in aligned_tiling(small_convnext(), 500, 100).grid(3000, 1).rows
    )


@pytest.mark.slow
def test_tiles_begin_where_the_windows_of_swin_do() -> None:
    tiling = aligned_tiling(Encoder(), 1024, 256)
    assert all(span.start % (32 * 7) == 0 for span in tiling.grid(5000, 1).rows)
    assert tiling.tile[0] > 900


def test_blended_tiles_are_finished_piece_by_piece() -> None:
    tiling = Tiling((16, 16), 8)
    grid: Grid = tiling.grid(50, 37)
    rng = torch.Generator().manual_seed(0)
    out = np.full((50, 37), 9, np.uint8)
    blender, total = TileBlender(grid, 3, out), torch.zeros(3, 50, 37)
    for tile in grid:
        size = (tile.down.shown.stop - tile.down.shown.start, tile.across.shown.stop - tile.across.shown.start)
        found = torch.rand(3, *size, generator=rng)
        weights = tile.down.weights()[:, None] * tile.across.weights()
        total[:, tile.down.shown, tile.across.shown] += found * weights
        blender.add(tile, found)
    assert np.array_equal(out, total.argmax(0).numpy())


def test_an_error_in_one_tile_ends_the_measuring(model: MultiTaskModel) -> None:
    whole = Own(0, 1, 0, 1)

    def broken() -> None:
        raise ValueError("this tile is broken")

    batch = torch.zeros(1, 3, 64, 64)
    runs = [(whole, lambda: model(batch, "a_mask")), (whole, broken), (whole, lambda: model(batch, "a_mask"))]
    with pytest.raises(ValueError, match="this tile is broken"):
        SharedStatistics(model).measure(runs)


def test_statistics_are_forgotten_afterwards(model: MultiTaskModel, image: NDArray[Any]) -> None:
    (before,) = model.predict([image[:300, :300]], "a_mask")
    TiledTask(model, "a_mask", aligned_tiling(model.encoder, 256, 64)).predict(ArrayPixels(image, 3))
    (after,) = model.predict([image[:300, :300]], "a_mask")
    assert torch.equal(before, after)


def test_tiles_that_are_all_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap by 64"):
        Tiling((64, 64), 64)


def test_a_span_without_neighbours_is_not_blended() -> None:
    (span,) = Tiling((64, 64), 32).grid(40, 40).rows
    assert span == Span(0, 40, 0, 40, 0, 0)
