"""Samples after resizing and augmentation: a function of the sample and the seed, in every process."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter

import albumentations as A
import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader, Dataset

from umedpt_lightning.data.transforms import Orientation, Transform
from umedpt_lightning.types import BoxArrays, Sample, SampleTarget

DTYPES = [np.uint8, np.uint16, np.float32]
GEOMETRY = {
    "flip": A.HorizontalFlip(p=0.5),
    "vertical": A.VerticalFlip(p=0.5),
    "turn": A.RandomRotate90(p=1),
    "affine": A.Affine(scale=(0.8, 1.2), rotate=(-30, 30), translate_percent=(-0.1, 0.1), p=0.8),
    "elastic": A.ElasticTransform(alpha=5, sigma=4, p=0.5),
    "one": A.OneOf([A.Transpose(p=1), A.GridDistortion(p=1)], p=0.5),
}
INTENSITY = {
    "light": A.RandomBrightnessContrast(p=0.8),
    "blur": A.GaussianBlur(p=0.5),
    "holes": A.CoarseDropout(p=0.5),
}
NOISE = {"noise": A.GaussNoise(p=1), "gamma": A.RandomGamma(p=1)}


def sample(
    dtype: type = np.uint8, target: SampleTarget = 3, shape: tuple[int, ...] = (24, 32, 3), seed: int = 0
) -> Sample:
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    return Sample((np.random.default_rng(seed).random(shape) * top).astype(dtype), target, "file.png")


def boxes(*rows: list[float]) -> BoxArrays:
    return BoxArrays(np.array(rows, np.float32).reshape(-1, 4), np.arange(len(rows), dtype=np.int64))


def as_bytes(s: Sample) -> tuple[object, ...]:
    arrays = [s.image, *(s.target if isinstance(s.target, tuple) else [np.asarray(s.target)])]
    return tuple((a.dtype.str, a.shape, a.tobytes()) for a in arrays)


TARGETS: dict[str, SampleTarget] = {
    "class": 3,
    "vector": np.array([1, np.nan, 0], np.float32),
    "mask": np.random.default_rng(1).integers(0, 3, (24, 32)).astype(np.uint8),
    "deep mask": np.random.default_rng(1).integers(0, 999, (24, 32)).astype(np.uint16),
    "boxes": boxes([2, 3, 20, 21], [0, 0, 32, 24], [10.5, 10.25, 14, 13]),
    "no boxes": boxes(),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(24, 32, 1), (24, 32, 3), (24, 32, 5)])
def test_every_kind_of_target_keeps_its_form(target: str, dtype: type, shape: tuple[int, ...]) -> None:
    before = sample(dtype, TARGETS[target], shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform = Transform([20, 16], GEOMETRY | INTENSITY)  # type: ignore[arg-type] - YAML gives lists
        for seed in range(10):
            after = transform(before, seed)
            assert after.image.shape in {(20, 16, shape[2]), (16, 20, shape[2])}  # turned or not
            assert after.image.dtype == dtype
            assert after.image.flags.c_contiguous
            assert after.name == before.name
            match after.target:
                case BoxArrays(found, labels):
                    assert (found.dtype, labels.dtype) == (np.float32, np.int64)
                    assert found.shape == (len(labels), 4)
                    height, width = after.image.shape[:2]
                    assert (found >= 0).all()
                    assert (found <= [width, height, width, height]).all()
                    assert (found[:, 2:] - found[:, :2] > 0.98).all()
                    assert set(labels) <= set(before.target.labels)
                case np.ndarray() as array if array.ndim == 2:
                    assert array.shape == after.image.shape[:2]
                    assert array.dtype == before.target.dtype
                    assert array.flags.c_contiguous
                    assert set(np.unique(array)) <= set(np.unique(before.target)) | {0}
                case other:
                    assert other is before.target


@pytest.mark.parametrize("target", TARGETS)
def test_the_result_depends_on_the_seed_alone(target: str) -> None:
    augment = GEOMETRY | INTENSITY | NOISE
    first, second = Transform(28, augment), Transform(28, augment)
    s = sample(np.uint8, TARGETS[target])
    expected = [as_bytes(first(s, seed)) for seed in range(6)]
    assert [as_bytes(second(s, seed)) for seed in reversed(range(6))] == expected[::-1]  # whatever came before
    first(sample(np.uint8, TARGETS["boxes"]), 99)
    assert [as_bytes(first(s, seed)) for seed in range(6)] == expected
    assert len({e[0] for e in expected}) == 6


class Augmented(Dataset[tuple[object, ...]]):
    def __init__(self) -> None:
        self.transform = Transform(28, GEOMETRY | INTENSITY | NOISE)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[object, ...]:
        return as_bytes(self.transform(sample(target=TARGETS["boxes"], seed=index % 3), seed=index // 2))


def test_the_result_is_the_same_in_any_number_of_workers() -> None:
    loaders = [
        DataLoader(Augmented(), batch_size=None, num_workers=0),
        DataLoader(Augmented(), batch_size=None, num_workers=2),
        DataLoader(Augmented(), batch_size=None, num_workers=1, persistent_workers=True),
    ]
    results = [list(loader) for loader in loaders]
    results.append(list(loaders[-1]))  # a second epoch of the same workers
    assert all(result == results[0] for result in results)


def test_transforms_of_one_probability_are_independent() -> None:
    ramp = Sample(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), 0, "ramp")
    transform = Transform(augment={"h": A.HorizontalFlip(p=0.5), "v": A.VerticalFlip(p=0.5)})
    corners = [int(transform(ramp, seed).image[0, 0, 0]) for seed in range(200)]
    assert all(20 < corners.count(corner) < 80 for corner in (0, 2, 3, 5))


@pytest.mark.parametrize("size", [None, 20])
def test_without_augmentation_the_seed_is_of_no_effect(size: int | None) -> None:
    for target in TARGETS.values():
        s = sample(target=target)
        assert as_bytes(Transform(size)(s, 1)) == as_bytes(Transform(size)(s, 2))
    assert as_bytes(Transform()(s, 1)) == as_bytes(s)


@pytest.mark.parametrize(("size", "expected"), [(12, (12, 12)), ((12, 40), (12, 40)), (None, (24, 32))])
def test_size_is_height_and_width(size: int | tuple[int, int] | None, expected: tuple[int, int]) -> None:
    s = sample(target=TARGETS["mask"])
    after = Transform(size)(s, 0)
    assert after.image.shape[:2] == after.target.shape == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_shrinking_averages_images_and_picks_mask_values(dtype: type) -> None:
    mask = np.repeat(np.repeat(np.array([[0, 7], [255, 3]], np.uint8), 8, 0), 8, 1)
    s = sample(dtype, mask, (16, 16, 1))
    after = Transform(4)(s, 0)
    means = s.image.reshape(4, 4, 4, 4, 1).mean(axis=(1, 3))
    assert np.abs(after.image - means).max() <= (1e-6 if dtype is np.float32 else 1)
    np.testing.assert_array_equal(after.target, np.repeat(np.repeat([[0, 7], [255, 3]], 2, 0), 2, 1))


def test_shrinking_masks_does_not_shift_them() -> None:
    mask = np.zeros((90, 90), np.uint8)
    mask[40:50, 20:70] = 1
    after = Transform(30)(sample(target=mask, shape=(90, 90, 1)), 0).target
    assert np.argwhere(after).mean(axis=0) == pytest.approx([14.5, 14.5], abs=0.51)
    np.testing.assert_array_equal(after, after[:, ::-1])


def test_boxes_follow_the_pixels() -> None:
    image = np.zeros((24, 32, 1), np.uint8)
    image[4:12, 6:22] = 200
    s = Sample(image, boxes([6, 4, 22, 12]), "file.png")
    transform = Transform((48, 96), {"flip": A.HorizontalFlip(), "turn": A.RandomRotate90(), "up": A.VerticalFlip()})
    for seed in range(20):
        after = transform(s, seed)
        bright = np.argwhere(after.image[..., 0] > 100)
        x1, y1, x2, y2 = after.target.boxes[0]
        assert (
            np.abs([*bright.min(axis=0)[::-1], *(bright.max(axis=0)[::-1] + 1)] - np.array([x1, y1, x2, y2])).max() <= 2
        )


def test_boxes_that_vanish_are_dropped_with_their_labels() -> None:
    crop = Transform(augment={"crop": A.Crop(0, 0, 16, 24)})
    s = sample(target=boxes([20, 2, 30, 9], [2, 2, 10, 10], [15, 0, 32, 20], [10, 10, 20, 20]))
    target = crop(s, 0).target
    assert target.labels.tolist() == [1, 3]  # 0 is outside, 2 has 1 of its 17 columns left, 3 has 6 of 10
    np.testing.assert_allclose(target.boxes, [[2, 2, 10, 10], [10, 10, 16, 20]], atol=1e-4)
    tiny = Transform(8)(sample(target=boxes([0, 0, 3, 20], [0, 0, 4, 20])), 0).target
    assert tiny.labels.tolist() == [1]  # 3 of 32 columns become less than one of 8


def test_labels_of_equal_boxes_stay_with_them() -> None:
    target = BoxArrays(np.tile(np.array([[2, 2, 10, 10]], np.float32), (3, 1)), np.array([7, 300, 2]))
    assert Transform(64)(sample(target=target), 0).target.labels.tolist() == [7, 300, 2]


@pytest.mark.parametrize(
    ("augment", "dtype", "channels", "names"),
    [
        ({"flip": A.HorizontalFlip(p=1), "stain": A.HEStain(p=1)}, np.uint16, 1, r"\['stain'\].*uint16.*1 channels"),
        ({"float": A.ToFloat(p=1)}, np.uint8, 3, r"\['float'\].*made it float32"),
        ({"stain": A.HEStain(p=1)}, np.uint8, 1, r"\['stain'\].*1 channels"),
        ({"grey": A.ToGray(num_output_channels=1, p=1)}, np.uint8, 3, r"\['grey'\].*3 channels"),
    ],
)
def test_what_does_not_work_on_an_image_is_named(
    augment: dict[str, A.BasicTransform], dtype: type, channels: int, names: str
) -> None:
    with pytest.raises(ValueError, match=r"file\.png: the augmentations " + names):
        Transform(augment=augment)(sample(dtype, shape=(24, 32, channels)), 0)


def test_what_lies_outside_the_value_range_is_not_silently_cut() -> None:
    s = Sample(np.full((8, 8, 1), -500, np.float32), 0, "ct.tif")
    assert Transform(augment={"flip": A.HorizontalFlip()})(s, 0).image.min() == -500
    for augment in ({"light": INTENSITY["light"]}, {"one": A.OneOf([INTENSITY["light"]])}):
        with pytest.raises(ValueError, match=r"ct\.tif: intensity augmentations cut .* 0 to 1, .*-500.*value_range"):
            Transform(augment=augment)(s, 0)
        Transform(augment=augment, value_range=(-1000, 400))(s, 0)


def test_a_hot_pixel_outside_the_value_range_is_cut() -> None:
    image = np.full((16, 16, 1), 100, np.uint16)
    image[5, 5] = 5000
    after = Transform(augment={"light": A.RandomBrightnessContrast(p=1)}, value_range=(0, 4095))(
        Sample(image, 0, "a"), 0
    )
    assert after.image.max() <= 4095


@pytest.mark.parametrize(
    ("dtype", "value_range"), [(np.uint16, (0, 4095)), (np.float32, (-1000, 400)), (np.uint8, (0, 63))]
)
def test_intensity_augmentations_that_do_nothing_keep_the_image(dtype: type, value_range: tuple[float, float]) -> None:
    low, high = value_range
    image = np.random.default_rng(0).uniform(low, high, (24, 32, 1)).astype(dtype)
    after = Transform(augment={"light": A.RandomBrightnessContrast(p=0)}, value_range=value_range)(
        Sample(image, 0, "a"), 0
    )
    assert after.image.dtype == dtype
    np.testing.assert_allclose(after.image, image, atol=1e-3 if dtype is np.float32 else 0)


@pytest.mark.parametrize(("shape", "expected"), [((24, 32, 1), 4), ((24, 24, 1), 8)])
def test_orientation_keeps_the_shape(shape: tuple[int, ...], expected: int) -> None:
    transform = Transform(augment={"any": Orientation(p=1)})
    results = [transform(sample(shape=shape), seed).image for seed in range(300)]
    assert {result.shape for result in results} == {shape}
    counts = Counter(result.tobytes() for result in results)
    assert len(counts) == expected
    assert min(counts.values()) > 0.5 * 300 / expected


@pytest.mark.parametrize("size", [0, (0, 5), (5, -1)])
def test_sizes_must_be_positive(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="size must be positive"):
        Transform(size)


def test_the_input_is_left_alone() -> None:
    for target in TARGETS.values():
        s = sample(target=target)
        before = as_bytes(s)
        for seed in range(5):
            Transform(None, GEOMETRY | INTENSITY | NOISE)(s, seed)
        assert as_bytes(s) == before


def test_none_switches_an_augmentation_off() -> None:
    assert as_bytes(Transform(augment={"flip": None})(sample(), 0)) == as_bytes(sample())


def test_transforms_travel_between_processes() -> None:
    transform = Transform(20, GEOMETRY | INTENSITY | NOISE)
    s = sample(target=TARGETS["boxes"])
    expected = as_bytes(transform(s, 5))
    assert as_bytes(pickle.loads(pickle.dumps(transform))(s, 5)) == expected


def test_configs_describe_and_override_augmentations() -> None:
    parser = ArgumentParser()
    parser.add_argument("--transform", type=Transform)
    config = yaml.safe_load("""
        class_path: umedpt_lightning.data.transforms.Transform
        init_args:
          size: [16, 8]
          augment:
            flip: albumentations.HorizontalFlip
            light: {class_path: albumentations.RandomBrightnessContrast, init_args: {brightness_limit: 0.3}}
            affine: {class_path: albumentations.Affine, init_args: {scale: [0.9, 1.1], rotate: [-9, 9]}}
            off: null
            one:
              class_path: albumentations.OneOf
              init_args: {transforms: [albumentations.VerticalFlip, albumentations.Transpose]}
    """)
    namespace = parser.parse_object({"transform": config})
    namespace = parser.parse_args(["--transform.augment.flip.init_args.p=1.0"], namespace=namespace)
    made = (parser.instantiate if hasattr(parser, "instantiate") else parser.instantiate_classes)(namespace).transform
    assert list(made._augment) == ["flip", "light", "affine", "one"]
    assert made._augment["flip"].p == 1.0
    assert made._augment["affine"].rotate == (-9, 9)
    assert made(sample(), 0).image.shape[2] == 3
