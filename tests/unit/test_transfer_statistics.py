"""Intervals cover what they promise on simulated data; calibration is measured."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
from builders import MemoryReader
from scipy.stats import sem
from scipy.stats import t as student

from umedpt_lightning.labels.calibration import calibration_error
from umedpt_lightning.tasks.answers import Answers
from umedpt_lightning.transfer.evaluation import bootstrap_intervals, patient_intervals, seed_interval


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_over_seeds_covers_in_95_of_100_cases(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    intervals = [seed_interval(rng.normal(0.8, 0.05, seeds).tolist()) for _ in range(4000)]
    covered = np.mean([i.low <= 0.8 <= i.high for i in intervals])
    assert abs(covered - 0.95) < 0.012  # 3.5 standard errors
    assert all(i.count == seeds for i in intervals)


def test_the_interval_over_seeds_is_that_of_student() -> None:
    values = [0.71, 0.64, 0.8, 0.75]
    low, high = student.interval(0.95, 3, loc=np.mean(values), scale=sem(values))
    found = seed_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((0.725, low, high))


def test_few_and_undefined_values() -> None:
    assert seed_interval([0.5, math.nan, 0.7]) == seed_interval([0.5, 0.7])
    assert math.isnan(seed_interval([0.5]).low)
    assert seed_interval([0.5]).mean == 0.5
    assert seed_interval([math.nan]).count == 0
    same = seed_interval([0.5, 0.5, math.nan, 0.5])  # all labels, whatever the seed: no interval of no width
    assert (same.mean, same.count) == (0.5, 3)
    assert math.isnan(same.low)
    assert math.isnan(same.high)


def patients(rng: np.random.Generator, count: int = 30, each: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Values that are alike within a patient, with a mean of 1."""
    values = 1 + np.repeat(rng.normal(size=count), each) + 0.3 * rng.normal(size=count * each)
    return values, np.repeat(np.arange(count).astype(str), each)


def test_the_interval_over_patients_covers_and_that_over_samples_does_not() -> None:
    rng = np.random.default_rng(0)
    covered = {"patients": 0, "samples": 0}
    runs = 150
    for run in range(runs):
        values, groups = patients(rng)
        for name, of in (("patients", groups), ("samples", None)):
            ends = bootstrap_intervals(
                lambda rows, v=values: {"mean": float(v[rows].mean())}, of, len(values), 100, run
            )
            covered[name] += ends["mean"][0] <= 1 <= ends["mean"][1]
    assert 0.86 <= covered["patients"] / runs <= 0.99
    assert covered["samples"] / runs < 0.6


def test_whole_patients_are_drawn() -> None:
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    drawn = []
    bootstrap_intervals(lambda rows: drawn.append(rows) or {}, groups, 6, 30)
    for rows in drawn:
        counts = np.bincount(rows, minlength=6)
        for group in "abc":
            assert len(set(counts[groups == group])) == 1
    assert len({tuple(np.sort(rows)) for rows in drawn}) > 5


def test_the_ends_leave_two_and_a_half_per_cent_out_on_either_side() -> None:
    values = iter(np.random.default_rng(0).permutation(1001) / 10)  # 0 to 100, in any order
    ends = bootstrap_intervals(lambda _: {"some": float(next(values))}, None, 3, 1001)
    assert next(values, None) is None
    assert ends["some"] == pytest.approx((2.5, 97.5))


def test_patients_are_drawn_two_hundred_times_for_an_interval() -> None:
    class Counting(Answers):
        drawn: ClassVar[list[np.ndarray]] = []

        def score(self, rows: np.ndarray | None = None) -> dict[str, float]:
            assert rows is not None
            self.drawn.append(rows)
            return {"some": float(len(self.drawn))}

    reader = MemoryReader("class", size=6)
    ends = patient_intervals(Counting(None), reader)  # type: ignore[arg-type]  # no task is needed
    assert len(Counting.drawn) == 200
    assert all(len(rows) == 6 for rows in Counting.drawn)
    assert ends["some"] == pytest.approx((5.975, 195.025))


def test_whole_patients_are_drawn_for_the_interval_of_a_part() -> None:
    class Counting(Answers):
        drawn: ClassVar[list[np.ndarray]] = []

        def score(self, rows: np.ndarray | None = None) -> dict[str, float]:
            assert rows is not None
            self.drawn.append(np.bincount(rows, minlength=6))
            return {"some": 1.0}

    class OfPatients(MemoryReader):
        @property
        def groups(self) -> np.ndarray:
            return np.array(["a", "a", "a", "b", "b", "b"])

    patient_intervals(Counting(None), OfPatients("class", size=6))  # type: ignore[arg-type]  # no task is needed
    assert all(len({*counts[:3]}) == len({*counts[3:]}) == 1 for counts in Counting.drawn)


def test_a_metric_that_is_undefined_at_times_has_the_interval_of_the_others() -> None:
    values = np.array([0.0, 1.0])
    ends = bootstrap_intervals(
        lambda rows: {"some": math.nan if values[rows].all() else 2.0, "never": math.nan}, None, 2, 50
    )
    assert ends["some"] == (2.0, 2.0)
    assert all(math.isnan(end) for end in ends["never"])


def test_one_patient_alone_has_no_interval() -> None:
    def metrics(rows: np.ndarray) -> dict[str, float]:
        return {"some": float(rows.mean())}

    assert all(math.isnan(end) for end in bootstrap_intervals(metrics, np.array(["a"] * 4), 4, 20)["some"])
    assert all(math.isnan(end) for end in bootstrap_intervals(metrics, None, 1, 20)["some"])
    low, high = bootstrap_intervals(metrics, np.array(["a", "a", "b", "b"]), 4, 20)["some"]
    assert low < high


def test_calibrated_answers_have_no_error_and_sure_ones_their_mistakes() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.5, 1, 100_000)
    assert calibration_error(stated, rng.random(100_000) < stated) < 0.01
    right = rng.random(10_000) < 0.7
    assert calibration_error(np.ones(10_000), right) == pytest.approx(1 - right.mean())
    assert calibration_error(np.array([0.1, 0.1]), np.array([True, True])) == pytest.approx(0.9)
    assert math.isnan(calibration_error(np.empty(0), np.empty(0, bool)))


def test_a_bin_weighs_as_much_as_there_is_in_it() -> None:
    stated = np.array([0.95] * 90 + [0.5] * 10)
    correct = np.array([True] * 90 + [False] * 10)
    assert calibration_error(stated, correct) == pytest.approx(0.9 * 0.05 + 0.1 * 0.5)


def test_what_is_certain_is_in_the_last_bin_with_what_is_nearly_so() -> None:
    assert calibration_error(np.array([1.0, 0.95]), np.array([False, True])) == pytest.approx(0.975 - 0.5)
