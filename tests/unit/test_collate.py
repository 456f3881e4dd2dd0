"""Samples to micro-batches."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from umedpt_lightning.data.loading.dataset import collate
from umedpt_lightning.types import BoxArrays, Sample, SampleTarget, to_numpy


def samples(*targets: SampleTarget, dtype: type = np.uint8, shape: tuple[int, int, int] = (4, 6, 3)) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(rng.integers(0, 200, shape).astype(dtype), target, f"{i}.png") for i, target in enumerate(targets)]


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.uint8, torch.uint8), (np.uint16, torch.uint16), (np.float32, torch.float32)]
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_are_stacked_in_their_dtype(dtype: type, expected: torch.dtype, channels: int) -> None:
    given = samples(0, 1, dtype=dtype, shape=(4, 6, channels))
    batch = collate("lung", given)
    assert batch.images.dtype == expected
    assert batch.images.shape == (2, channels, 4, 6)
    assert batch.images.is_contiguous()
    for image, sample in zip(batch.images.numpy(), given, strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), sample.image)
    assert (batch.task, batch.names, len(batch)) == ("lung", ["0.png", "1.png"], 2)


def test_class_indices_become_int64() -> None:
    targets = collate("t", samples(2, np.int32(0), -1)).targets
    assert targets.dtype == torch.int64
    assert targets.tolist() == [2, 0, -1]


def test_numbers_become_float32() -> None:
    targets = collate("t", samples(0.5, 2, np.float64(1.5))).targets
    assert targets.dtype == torch.float32
    assert targets.tolist() == [0.5, 2, 1.5]


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(2,), (4, 6), (2, 3, 4)])
def test_arrays_of_one_shape_are_stacked_in_their_dtype(dtype: type, shape: tuple[int, ...]) -> None:
    arrays = [np.full(shape, i, dtype) for i in (1, -1)]
    targets = collate("t", samples(*arrays)).targets
    assert targets.numpy().dtype == dtype
    np.testing.assert_array_equal(targets.numpy(), arrays)


@pytest.mark.parametrize(
    "targets",
    [
        (np.zeros((2, 2)), np.ones((3, 2))),
        ({"points": np.zeros((2, 2)), "side": "left"}, {"points": np.ones((3, 2)), "side": "right"}),
        ((np.zeros(2), 1), (np.ones(3), 0)),
        (None, np.ones(3)),
    ],
    ids=["of other lengths", "mappings", "tuples", "with unknown ones"],
)
def test_what_cannot_be_stacked_is_a_list_and_travels(targets: Any) -> None:
    batch = collate("t", samples(*targets))
    assert isinstance(batch.targets, list)
    found = pickle.loads(pickle.dumps(batch)).to("cpu").targets
    for given, got in zip(targets, found, strict=True):
        assert str(to_numpy(got)) == str(given)
        assert type(got) is (torch.Tensor if isinstance(given, np.ndarray) else type(given))


def test_boxes_stay_lists() -> None:
    many = BoxArrays(np.ones((3, 4), np.float32), np.arange(3))
    none = BoxArrays(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    targets = collate("t", samples(many, none)).targets
    assert [t.boxes.shape for t in targets] == [(3, 4), (0, 4)]
    assert [t.labels.tolist() for t in targets] == [[0, 1, 2], []]
    assert {(t.boxes.dtype, t.labels.dtype) for t in targets} == {(torch.float32, torch.int64)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_batches_travel_from_a_worker(dtype: type) -> None:
    given = samples(1, 2, dtype=dtype)
    loader = DataLoader(given, batch_size=2, collate_fn=partial(collate, "t"), num_workers=1)  # type: ignore[arg-type]
    (batch,) = loader
    np.testing.assert_array_equal(batch.images.numpy(), collate("t", given).images.numpy())


BOXES = BoxArrays(np.array([[0, 1, 2, 3]], np.float32), np.array([2]))


@pytest.mark.parametrize(
    "target",
    [1, np.array([0, np.nan], np.float32), np.ones((4, 6), np.int16), BOXES],
    ids=["class", "vector", "mask", "boxes"],
)
def test_targets_of_every_kind_travel(target: Any) -> None:
    batch = collate("t", samples(target, target))
    found = pickle.loads(pickle.dumps(batch))
    assert found.names == batch.names
    for mine, theirs in zip(found.targets, batch.targets, strict=True):
        for a, b in zip(mine, theirs, strict=True) if isinstance(target, BoxArrays) else [(mine, theirs)]:
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def test_different_sizes_are_named_with_the_mend() -> None:
    a, b = samples(0, 0)
    b.image = b.image[:3]
    with pytest.raises(ValueError, match=r"'lung'.*0\.png is \(3, 4, 6\) uint8 and that of 1\.png \(3, 3, 6\).*`size:"):
        collate("lung", [a, b])
    b.image = a.image.astype(np.uint16)
    with pytest.raises(ValueError, match=r"0\.png is .* uint8 and that of 1\.png .* uint16"):
        collate("lung", [a, b])


def test_a_batch_of_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"'lung'.*at least one"):
        collate("lung", [])
