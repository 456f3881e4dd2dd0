"""The presets of augmentation: labels go where the image goes, and every kind of image keeps its depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import MemoryReader
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.presets import PRESETS, build_augmentations, read_augmentations
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.data.transforms import Augmentations, Transform
from umedpt_lightning.types import BoxArrays, Sample, SampleTarget

DOCS = Path(__file__).resolve().parents[2] / "docs"
SIDE = 96
RANGES = {"uint8": (0, 255), "uint16": (0, 65535), "12 bits": (0, 4095), "float32": (-1000.0, 400.0)}

every_preset = pytest.mark.parametrize("preset", PRESETS)


def picture(kind: str = "uint8", channels: int = 1, shape: tuple[int, int] = (SIDE, SIDE)) -> NDArray[Any]:
    """Bright, textured blobs on a gradient."""
    low, high = RANGES[kind]
    y, x = np.indices(shape) / np.array(shape)[:, None, None]
    waves = 0.5 + 0.2 * np.sin(19 * x + 5 * y)[..., None] + 0.15 * np.cos(np.arange(channels) + 13 * y[..., None])
    dtype = {"12 bits": "uint16"}.get(kind, kind)
    return (waves * (high - low) + low).astype(dtype)


def objects(shape: tuple[int, int] = (SIDE, SIDE)) -> tuple[NDArray[np.uint8], BoxArrays]:
    """A mask of rectangles and ellipses, and a box around each; the label of a box is its mask value less 1."""
    mask = np.zeros(shape, np.uint8)
    y, x = np.indices(shape)
    corners = [(8, 10, 30, 24), (50, 12, 84, 40), (12, 52, 40, 88), (56, 60, 70, 74), (78, 74, 92, 92)]
    for value, (left, top, right, bottom) in enumerate(corners, start=1):
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        if value % 2:
            inside &= ((x + 0.5 - (left + right) / 2) / (right - left)) ** 2 + (
                (y + 0.5 - (top + bottom) / 2) / (bottom - top)
            ) ** 2 <= 0.25
        mask[inside] = value
    return mask, BoxArrays(np.array(corners, np.float32), np.arange(len(corners), dtype=np.int64))


@every_preset
def test_a_box_around_a_mask_still_encloses_it(preset: str) -> None:
    transform = Transform(augment=preset)
    mask, boxes = objects()
    seen = set()
    for seed in range(60):
        # equal seeds move both targets alike
        moved_mask = transform(Sample(picture(), mask, "a"), seed).target
        moved = transform(Sample(picture(), boxes, "a"), seed).target
        assert (moved.boxes >= 0).all()
        assert (moved.boxes <= SIDE).all()
        for box, label in zip(moved.boxes, moved.labels, strict=True):
            pixels = np.argwhere(moved_mask == label + 1)
            assert len(pixels)
            (top, left), (bottom, right) = pixels.min(0), pixels.max(0) + 1
            assert (box[:2] <= [left + 1, top + 1]).all()
            assert (box[2:] >= [right - 1, bottom - 1]).all()
            # and it is not much larger than it must be
            assert (box[2] - box[0]) <= 1.4 * (right - left) + 6
            assert (box[3] - box[1]) <= 1.4 * (bottom - top) + 6
            seen.add(int(label))
    assert seen == set(range(5))


@every_preset
def test_masks_keep_their_values_and_go_with_the_image(preset: str) -> None:
    mask = objects()[0]
    mask[40:50, 40:50] = 255
    image = np.where(mask == 3, 255, 0).astype(np.uint8)[..., None]
    transform = Transform(augment=preset)
    for seed in range(30):
        after = transform(Sample(image, mask, "a"), seed)
        assert set(np.unique(after.target)) <= set(np.unique(mask))
        assert after.target.shape == after.image.shape[:2]
        bright, marked = after.image[..., 0] > 100, after.target == 3
        assert (bright & marked).sum() / (bright | marked).sum() > 0.85


@every_preset
@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_depth_and_shape_are_kept(preset: str, kind: str, channels: int) -> None:
    image = picture(kind, channels, (64, 80))
    transform = Transform(augment=preset, value_range=RANGES[kind])
    results = [transform(Sample(image, 0, "a"), seed).image for seed in range(12)]
    for after in results:
        assert after.dtype == image.dtype
        assert after.shape == image.shape
        assert after.min() >= RANGES[kind][0]
        assert after.max() <= RANGES[kind][1]
        if kind != "uint8":
            assert len(np.unique(after)) > 256
    assert len({after.tobytes() for after in results}) == 12
    again = Transform(augment=preset, value_range=RANGES[kind])
    assert again(Sample(image, 0, "a"), 3).image.tobytes() == results[3].tobytes()


@every_preset
@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_change_as_much_as_8_bits(preset: str, channels: int) -> None:
    deep = picture("12 bits", channels)
    small = np.rint(deep / 4095 * 255).astype(np.uint8)
    both = Transform(augment=preset, value_range=(0, 4095)), Transform(augment=preset, value_range=(0, 255))
    changes = []
    for seed in range(20):
        after_deep = both[0](Sample(deep, 0, "a"), seed).image / 4095
        after_small = both[1](Sample(small, 0, "a"), seed).image / 255
        assert abs(after_deep.mean() - after_small.mean()) < 0.02
        changes.append((np.abs(after_deep - deep / 4095).mean(), np.abs(after_small - small / 255).mean()))
    by_deep, by_small = np.mean(changes, axis=0)
    assert by_deep > 0.02
    assert by_deep == pytest.approx(by_small, rel=0.1)


@pytest.mark.parametrize("preset", ["ct", "mri", "xray", "fluorescence"])
def test_presets_without_colour_take_any_number_of_channels(preset: str) -> None:
    assert Transform(augment=preset)(Sample(picture(channels=5), 0, "a"), 1).image.shape == (SIDE, SIDE, 5)


@pytest.mark.parametrize("preset", ["dermatology", "fundus", "histology"])
def test_presets_with_colour_say_that_they_cannot_do_five_channels(preset: str) -> None:
    transform, sample = Transform(augment=preset), Sample(picture(channels=5), 0, "a")
    with pytest.raises(ValueError, match=r"a: the augmentations \['(colour|stain)'\] do not work .* 5 channels"):
        [transform(sample, seed) for seed in range(20)]


def test_a_chest_is_never_mirrored_nor_turned_upside_down() -> None:
    image = np.zeros((SIDE, SIDE, 1), np.uint8)
    image[:30, :30] = 200
    for seed in range(50):
        after = Transform(augment="xray")(Sample(image, 0, "a"), seed).image[..., 0].astype(float)
        half = SIDE // 2
        assert after[:half, :half].mean() > max(after[half:].mean(), after[:, half:].mean()) + 10


@pytest.mark.parametrize("side", [28, 96, 256])
def test_magnetic_resonance_is_warped_by_a_few_percent_at_any_size(side: int) -> None:
    y, x = np.indices((side, side), dtype=np.float32) / side
    warp = build_augmentations("mri", Augmentations)["warp"]
    warp.p = 1.0
    transform = Transform(augment={"warp": warp})
    inside = slice(side // 8, -side // 8)
    largest = []
    for seed in range(20):
        after = transform(Sample(np.stack([x, y], -1), 0, "a"), seed).image
        largest.append(np.hypot(after[..., 0] - x, after[..., 1] - y)[inside, inside].max())
    assert 0.005 < np.mean(largest) < 0.03
    assert max(largest) < 0.06


def make(kind: Any, options: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    return parser.instantiate_classes(parser.parse_object({"it": options})).it


@every_preset
def test_a_config_names_a_preset_or_holds_its_text(preset: str) -> None:
    file = next((DOCS.parent / "src").rglob(f"augmentations/{preset}.yaml"))
    image = Sample(picture(), 0, "a")
    expected = Transform(augment=preset)(image, 5).image
    for augment in (preset, str(file), yaml.safe_load(file.read_text())):
        task = make(TaskData, {"augment": augment, "size": SIDE})
        after = Transform(task.size, task.augment)(image, 5).image
        np.testing.assert_array_equal(after, expected)
    assert len(read_augmentations(preset, Augmentations)) == len(build_augmentations(preset, Augmentations)) > 2


def test_the_data_module_hands_the_value_range_over() -> None:
    reader = MemoryReader("class", size=4)
    reader.spec = type(reader.spec)(channels=3, value_range=(0.0, 63.0), classes=("n0", "n1", "n2"))
    data = MultiTaskDataModule({"a": TaskData(train=reader, augment="fluorescence")}, num_workers=0)
    rounds = iter(data.train_dataloader())
    with pytest.raises(ValueError, match="value_range, 0 to 63"):
        list(next(rounds))


@pytest.mark.parametrize(
    ("augment", "content", "message"),
    [
        ("mir", None, r"no preset and no file 'mir'. Presets are ct, .*mri.*xray"),
        ("FILE", "[1, 2]", r"mine\.yaml: .*transforms by name.*a list"),
        ("FILE", "", r"mine\.yaml: .*nothing"),
        ("FILE", "a: {b", r"mine\.yaml: not a YAML file"),
        ("FILE", "flip: {class_path: albumentations.Flipp}", r"mine\.yaml: .*Flipp"),
        ("FILE", "flip: {class_path: albumentations.HorizontalFlip, init_args: {q: 1}}", r"mine\.yaml: .*q"),
    ],
)
def test_what_is_wrong_is_told_with_its_mend(tmp_path: Path, augment: str, content: str | None, message: str) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=r"(?s)" + message):
        Transform(augment=str(file) if augment == "FILE" else augment)


@every_preset
def test_the_docs_show_it(preset: str) -> None:
    picture = DOCS / "pictures" / f"augment_{preset}.png"
    assert f"(pictures/{picture.name})" in (DOCS / "augmentation.md").read_text()
    assert picture.stat().st_size < 150_000


@every_preset
def test_masks_with_more_classes_than_bytes_move_as_those_of_bytes(preset: str) -> None:
    small, _ = objects()
    large = np.where(small == 0, np.int16(-1), small.astype(np.int16) + 300)
    transform = Transform((64, 80), preset)
    for seed in range(6):
        bytes_, words = (transform(Sample(picture(), mask, "a"), seed).target for mask in (small, large))
        assert set(np.unique(words)) <= {*np.unique(large), 0}, "values do not mix; outside of the image is background"
        # OpenCV rounds the places of pixels a little otherwise
        assert (np.where(words <= 0, 0, words - 300) != bytes_).mean() < 1e-3


def test_targets_that_are_not_spatial_are_left_alone() -> None:
    targets: list[SampleTarget] = [2, np.array([1.5, np.nan], np.float32)]
    for target in targets:
        assert Transform(augment="mri")(Sample(picture(), target, "a"), 0).target is target
