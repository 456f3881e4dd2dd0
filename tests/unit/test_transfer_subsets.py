"""Label fractions: nested, stratified, groups whole, and what is said where that cannot be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.transfer.subsets import Labelled, LabelSubsets
from umedpt_lightning.types import ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, Sample, TaskSpec

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
SHARES = np.array([0.6, 0.25, 0.1, 0.05])


class Samples(Reader):
    """Samples without images."""

    def __init__(self, spec: TaskSpec, targets: np.ndarray | None, size: int, groups: np.ndarray | None = None) -> None:
        self.spec, self.targets, self.size, self.of = spec, targets, size, groups

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((2, 2, 1), np.uint8), 0, f"sample {index}")

    @property
    def groups(self) -> np.ndarray | None:
        return self.of


def samples(kind: str, grouped: bool, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(200, 700))
    groups = np.char.add("patient ", rng.integers(0, size // 4, size).astype(str)) if grouped else None
    labels = rng.choice(4, p=SHARES, size=size)
    labels[:40] = np.arange(40) % 4
    many = np.where(rng.random((size, 4)) < 0.1, np.nan, rng.random((size, 4)) < SHARES).astype(np.float32)
    numbers = np.where(rng.random((size, 1)) < 0.1, np.nan, rng.lognormal(size=(size, 1))).astype(np.float32)
    match kind:
        case "class":
            return Samples(ClassSpec(channels=1, classes=tuple("abcd")), labels, size, groups)
        case "multilabel":
            return Samples(MultilabelSpec(channels=1, labels=tuple("abcd")), many, size, groups)
        case "numbers":
            return Samples(RegressionSpec(channels=1, quantities=("z",), units=("",)), numbers, size, groups)
    return Samples(MaskSpec(channels=1, classes=("a", "b")), None, size, groups)


every_kind = pytest.mark.parametrize("kind", ["class", "multilabel", "numbers", "mask"])
every_seed = pytest.mark.parametrize("seed", range(5))


@every_kind
@every_seed
@pytest.mark.parametrize("grouped", [False, True])
def test_shares_are_nested_of_their_size_with_whole_groups(kind: str, grouped: bool, seed: int) -> None:
    reader = samples(kind, grouped, seed)
    subsets = LabelSubsets(reader, seed)
    found = [subsets(fraction).rows for fraction in FRACTIONS]
    for smaller, larger in pairwise(found):
        assert set(smaller) <= set(larger)
    assert found[-1].tolist() == list(range(len(reader)))
    most = 1 if reader.of is None else np.unique(reader.of, return_counts=True)[1].max()
    for rows, fraction in zip(found, FRACTIONS, strict=True):
        assert len(set(rows)) == len(rows) >= 1
        # as near as whole groups allow, and a group a class where none was there
        assert -most <= len(rows) - fraction * len(reader) <= 5 * most
        if reader.of is not None:
            inside = np.zeros(len(reader), bool)
            inside[rows] = True
            assert not set(reader.of[inside]) & set(reader.of[~inside])


@every_seed
def test_classes_have_their_share_and_never_none(seed: int) -> None:
    reader = samples("class", False, seed)
    for fraction in FRACTIONS:
        counts = np.bincount(reader.targets[LabelSubsets(reader, seed)(fraction).rows], minlength=4)
        expected = fraction * np.bincount(reader.targets)
        assert counts.min() >= 1
        assert np.abs(counts - expected).max() <= 2.5


def test_classes_are_spread_more_evenly_than_by_chance() -> None:
    errors, by_chance = [], []
    rng = np.random.default_rng(0)
    for seed in range(20):
        reader = samples("class", False, seed)
        rows = LabelSubsets(reader, seed)(0.25).rows
        for chosen, kept in ((rows, errors), (rng.permutation(len(reader))[: len(rows)], by_chance)):
            kept.append(
                np.abs(np.bincount(reader.targets[chosen], minlength=4) - np.bincount(reader.targets) / 4).max()
            )
    assert np.mean(errors) < 0.5 * np.mean(by_chance)


@every_seed
def test_numbers_have_all_quantiles(seed: int) -> None:
    reader = samples("numbers", False, seed)
    known = reader.targets[~np.isnan(reader.targets)]
    edges = np.quantile(known, [0.25, 0.5, 0.75])
    values = reader.targets[LabelSubsets(reader, seed)(0.25).rows, 0]
    counts = np.bincount(np.searchsorted(edges, values[~np.isnan(values)]), minlength=4)
    assert np.abs(counts / counts.sum() - 0.25).max() < 0.06


def test_a_share_depends_on_the_seed_alone() -> None:
    reader = samples("class", True, 0)
    once = LabelSubsets(reader, 3)
    once(0.5)
    assert once(0.1).rows.tolist() == LabelSubsets(reader, 3)(0.1).rows.tolist()
    assert once(0.1).rows.tolist() != LabelSubsets(reader, 4)(0.1).rows.tolist()


def test_a_patient_with_many_images_does_not_begin_every_share() -> None:
    sizes = np.array([66, 47, 26, 24, 20, 14, 11, 10, 10, *([9] * 5), *range(8, 3, -1), *([2] * 60), *([1] * 60)])
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    reader = Samples(MaskSpec(channels=1, classes=("a", "b")), None, len(groups), groups)
    for fraction, most in ((0.01, 12), (0.1, 20)):
        shares = [set(groups[LabelSubsets(reader, seed)(fraction).rows]) for seed in range(40)]
        assert 0 < sum("0" in share for share in shares) <= most, "a seventh of all images are of it"
        assert len({frozenset(share) for share in shares}) > 20


def test_what_is_not_as_expected_is_said() -> None:
    labels = np.array([0] * 99 + [1])
    reader = Samples(ClassSpec(channels=1, classes=("sick", "well")), labels, 100)
    subset = LabelSubsets(reader, 0)(0.01)
    assert sorted(labels[subset.rows]) == [0, 1]
    assert "class 'well'" in subset.notes[0] or "class 'sick'" in subset.notes[0]
    assert not LabelSubsets(reader, 0)(1.0).notes
    patients = np.repeat([f"p{i}" for i in range(10)], 10)
    few = LabelSubsets(Samples(MaskSpec(channels=1, classes=("a", "b")), None, 100, patients), 0)(0.01)
    assert len(few.rows) == 10
    assert "came to 10, 1 whole groups" in few.notes[0]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, 5])
def test_a_fraction_outside_is_told(fraction: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        LabelSubsets(samples("class", False, 0), 0)(fraction)


def test_the_subset_is_a_reader_with_statistics_of_its_own() -> None:
    reader = samples("class", False, 0)
    rows = LabelSubsets(reader, 0)(0.1).rows
    part = Labelled(reader, rows)
    assert part.spec.counts == tuple(np.bincount(reader.targets[rows], minlength=4))
    assert part.name(2) == f"sample {rows[2]}"


@every_kind
@every_seed
@pytest.mark.parametrize("grouped", [False, True])
def test_shots_are_nested_and_so_many_of_each_class_or_in_all(kind: str, grouped: bool, seed: int) -> None:
    reader = samples(kind, grouped, seed)
    subsets = LabelSubsets(reader, seed)
    found = [subsets.shots(number) for number in (1, 4, 16, 48)]
    for smaller, larger in pairwise(found):
        assert set(smaller.rows) <= set(larger.rows)
    for number, subset in zip((1, 4, 16, 48), found, strict=True):
        if kind == "class":
            there = np.bincount(reader.targets, minlength=4)
            assert np.bincount(reader.targets[subset.rows], minlength=4).tolist() == np.minimum(there, number).tolist()
            told = [name for name in "abcd" if f"of class '{name}'" in " ".join(subset.notes)]
            assert told == [name for name, count in zip("abcd", there, strict=True) if count < number]
        else:
            assert len(subset.rows) == number
    other = LabelSubsets(reader, seed + 1).shots(16)
    assert set(other.rows) != set(found[2].rows)


@every_seed
def test_shots_come_from_as_many_patients_as_there_are_before_any_gives_a_second(seed: int) -> None:
    reader = samples("mask", True, seed)
    assert reader.of is not None
    patients = len(set(reader.of))
    for number in (3, patients, patients + 2):
        rows = LabelSubsets(reader, seed).shots(number).rows
        assert len(set(reader.of[rows])) == min(number, patients)
        assert len(rows) == number


def test_more_shots_than_samples_are_all_of_them_and_told() -> None:
    reader = samples("numbers", False, 0)
    assert reader.targets is not None
    known = np.flatnonzero(~np.isnan(reader.targets).all(axis=1))
    subset = LabelSubsets(reader, 0).shots(10_000)
    assert subset.rows.tolist() == known.tolist()
    assert subset.notes == (f"10000 shots were asked for, but there are only {len(known)}.",)


def test_shots_are_spread_over_labels_like_the_whole() -> None:
    reader = samples("numbers", False, 1)
    assert reader.targets is not None
    halves = [
        float(np.nanmean(reader.targets[LabelSubsets(reader, seed).shots(16).rows] > np.nanmedian(reader.targets)))
        for seed in range(5)
    ]
    assert all(0.35 <= half <= 0.65 for half in halves)
