"""The time to an event: the loss in closed form, and scores against their definitions and other programs."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import WIDTHS, survival_spec
from reader_samples import image

from umedpt_lightning.data.readers import ManifestSurvival, Split
from umedpt_lightning.drawing.charts import draw_chart
from umedpt_lightning.labels.kaplan_meier import KaplanMeier
from umedpt_lightning.labels.survival import SurvivalSpec
from umedpt_lightning.tasks import FeatureWidths, Survival
from umedpt_lightning.tasks.answers import metrics_of
from umedpt_lightning.tasks.cox import cox_loss, relative_cox_loss
from umedpt_lightning.tasks.survival_scores import censoring_weights, concordance, integrated_brier

SAMPLES = 60


def seen(seed: int = 0, samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks, whole times and events, with ties of each."""
    rng = np.random.default_rng(seed)
    risks = rng.integers(0, 12, samples) / 4 - 1
    times = np.ceil(rng.exponential(8 * np.exp(-risks)))
    ends = rng.integers(3, 20, samples)
    return risks, np.minimum(times, ends).astype(float), times <= ends


def targets_of(times: np.ndarray, events: np.ndarray) -> np.ndarray:
    return np.stack([times, events], 1).astype(np.float32)


def task_of(
    times: np.ndarray, events: np.ndarray, objective: Any = "hazard", intervals: int = 10, at: tuple[float, ...] = ()
) -> Survival:
    spec = SurvivalSpec(channels=1, time_unit="months", intervals=intervals, times=at)
    return Survival(spec.with_statistics(targets_of(times, events)), WIDTHS, objective)


# the loss


def test_the_hazard_loss_of_constants_has_its_closed_form() -> None:
    _, times, events = seen()
    task = task_of(times, events, intervals=4)
    hazard = 0.2
    output = torch.full((SAMPLES, len(task.edges)), math.log(hazard / (1 - hazard)), dtype=torch.float64)
    edges = np.array(task.spec.edges)
    reached = sum(np.sum(edges < t) + (not e and np.sum(edges == t)) for t, e in zip(times, events, strict=True))
    expected = -(events.sum() * math.log(hazard) + reached * math.log(1 - hazard)) / SAMPLES
    found = task.loss(output, torch.from_numpy(targets_of(times, events))) * task._uninformed
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", ["hazard", "cox"])
def test_a_head_that_knows_what_was_seen_and_no_image_has_a_loss_of_one(objective: str) -> None:
    _, times, events = seen()
    task = task_of(times, events, objective)
    targets = torch.from_numpy(targets_of(times, events))
    assert float(task.loss(task.baseline(targets), targets)) == pytest.approx(1, abs=0.02)


def test_the_hazard_loss_is_a_mean_over_samples() -> None:
    _, times, events = seen()
    task, targets = task_of(times, events), torch.from_numpy(targets_of(times, events))
    output = torch.randn(SAMPLES, len(task.edges), dtype=torch.float64)
    parts = [task.loss(output[i : i + 10], targets[i : i + 10]) for i in range(0, SAMPLES, 10)]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(task.loss(output, targets)), rel=1e-9)


def test_events_after_the_last_interval_count_as_survival_of_all() -> None:
    _, times, events = seen()
    task = task_of(times, events)
    output = torch.randn(1, len(task.edges))
    late = torch.tensor([[1000.0, 1.0]]), torch.tensor([[1000.0, 0.0]])
    assert task.loss(output, late[0]) == task.loss(output, late[1])


def test_coxs_loss_is_that_of_lifelines_with_ties() -> None:
    lifelines = pytest.importorskip("lifelines")
    import pandas

    risks, times, events = seen()
    frame = pandas.DataFrame({"x": risks, "time": times, "event": events})
    fitted = lifelines.CoxPHFitter().fit(frame, "time", "event")
    log_risks = torch.from_numpy(risks * fitted.params_["x"])
    found = cox_loss(log_risks, torch.from_numpy(times), torch.from_numpy(events)) * events.sum()
    assert float(found) == pytest.approx(-fitted.log_likelihood_, abs=1e-6)


def test_coxs_loss_is_efrons_product_over_ties() -> None:
    log_risks = torch.tensor([0.5, -0.2, 0.1, 0.7], dtype=torch.float64)
    times, events = torch.tensor([1.0, 1.0, 1.0, 2.0]), torch.tensor([True, True, False, True])
    a, b, c, d = log_risks.exp().tolist()
    expected = -math.log(a * b / ((a + b + c + d) * (a + b + c + d - (a + b) / 2))) / 3
    assert float(cox_loss(log_risks, times, events)) == pytest.approx(expected, abs=1e-12)
    assert float(relative_cox_loss(torch.full((4,), 3.0), times, events)) == pytest.approx(1)


def test_coxs_loss_without_events_teaches_nothing() -> None:
    log_risks = torch.randn(3, requires_grad=True)
    loss = relative_cox_loss(log_risks, torch.ones(3), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert log_risks.grad is not None
    assert not log_risks.grad.any()


def test_with_cox_the_shared_hazards_learn_and_move_no_risk() -> None:
    _, times, events = seen()
    task, targets = task_of(times, events, "cox"), torch.from_numpy(targets_of(times, events))
    features = torch.randn(SAMPLES, WIDTHS.embedding)
    task.loss(task(features), targets).backward()
    weight = task.head.weight.grad.clone()
    task.zero_grad()
    relative_cox_loss(task.head(features)[:, 0], targets[:, 0], targets[:, 1] > 0).backward()
    torch.testing.assert_close(weight, task.head.weight.grad)
    assert task.shifts.grad is None
    task.loss(task(features), targets).backward()
    assert task.shifts.grad.any()


def test_survival_curves_follow_the_ratios_of_cox() -> None:
    """With steps of one size for both they lag: a Brier score twice as large here."""
    rng = np.random.default_rng(0)
    risks, width = rng.random(400), 512
    times, ends = np.exp(-4 * risks + 0.1 * rng.normal(size=400)) * 60, rng.uniform(5, 90, 400)
    features = rng.normal(size=width) * 1.5 + np.outer(risks - 0.5, rng.normal(size=width))
    x = torch.from_numpy((features + 0.3 * rng.normal(size=features.shape)).astype(np.float32))
    times, events = np.minimum(times, ends), times <= ends
    targets, brier = torch.from_numpy(targets_of(times, events)), {}
    for objective in ("hazard", "cox"):
        torch.manual_seed(0)
        spec = SurvivalSpec(channels=1, time_unit="months").with_statistics(targets[:300].numpy())
        task = Survival(spec, FeatureWidths(lambda needs: width), objective)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(task.parameters(), 2e-3)
        for _ in range(200):
            rows = torch.from_numpy(rng.permutation(300)[:32])
            optimizer.zero_grad()
            task.loss(task(x[rows]), targets[rows]).backward()
            optimizer.step()
        brier[objective] = metrics_of(task, task(x[300:]), targets[300:])["brier"]
    assert brier["hazard"] < 0.05, brier
    assert brier["cox"] < 0.07, brier


# the scores


def brute_concordance(risks: np.ndarray, times: np.ndarray, events: np.ndarray, weights: np.ndarray) -> float:
    right = pairs = 0.0
    for i in np.flatnonzero(events):
        for j in range(len(times)):
            if times[j] > times[i] or (times[j] == times[i] and not events[j]):
                pairs += weights[i]
                right += weights[i] * (1.0 if risks[j] < risks[i] else 0.5 if risks[j] == risks[i] else 0.0)
    return right / pairs


@pytest.mark.parametrize("seed", range(3))
def test_both_c_indices_are_those_of_their_definitions(seed: int) -> None:
    risks, times, events = seen(seed)
    ones = np.ones(SAMPLES)
    assert concordance(risks, times, events) == pytest.approx(brute_concordance(risks, times, events, ones), abs=1e-12)
    weights = censoring_weights(times, events)
    assert len(np.unique(weights)) > 3
    expected = brute_concordance(risks, times, events, weights)
    assert concordance(risks, times, events, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_harrells_c_index_and_kaplan_meier_are_those_of_lifelines(seed: int) -> None:
    lifelines = pytest.importorskip("lifelines")
    risks, times, events = seen(seed)
    expected = lifelines.utils.concordance_index(times, -risks, events)
    assert concordance(risks, times, events) == pytest.approx(expected, abs=1e-9)
    fitted = lifelines.KaplanMeierFitter().fit(times, events)
    moments = np.array([0.0, 1.0, 2.5, 7.0, 30.0])
    found = KaplanMeier(times, events)(moments)
    np.testing.assert_allclose(found, fitted.survival_function_at_times(moments).to_numpy(), atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])  # in which some are not censored at the last event, as that package asks for
def test_unos_c_index_and_brier_score_are_those_of_scikit_survival(seed: int) -> None:
    metrics = pytest.importorskip("sksurv.metrics")
    util = pytest.importorskip("sksurv.util")
    risks, times, events = seen(seed)
    truth = util.Surv.from_arrays(events, times)
    found = concordance(risks, times, events, censoring_weights(times, events))
    assert found == pytest.approx(metrics.concordance_index_ipcw(truth, truth, risks)[0], abs=1e-9)
    moments = np.arange(1.0, times.max())
    survival = np.exp(-np.exp(risks)[:, None] * moments / 8)
    expected = metrics.integrated_brier_score(truth, truth, survival, moments)
    assert integrated_brier(survival, moments, times, events) == pytest.approx(expected, abs=1e-9)


def test_the_brier_score_weighs_by_who_is_not_censored_yet() -> None:
    """By hand: the second of four is censored, so that the two after it stand for three."""
    times, events = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True])
    moments, survival = np.array([1.5, 3.5]), np.array([[0.4, 0.1], [0.6, 0.2], [0.8, 0.3], [0.9, 0.7]])
    early = (0.4**2 + 0.4**2 + 0.2**2 + 0.1**2) / 4
    late = (0.1**2 + 0.3**2 * 3 / 2 + 0.3**2 * 3 / 2) / 4
    assert integrated_brier(survival, moments, times, events) == pytest.approx((early + late) / 2)
    np.testing.assert_allclose(censoring_weights(times, events), [1, 9 / 4, 9 / 4, 9 / 4])


def test_curves_that_know_the_times_have_no_error_and_a_coin_has_a_quarter() -> None:
    times, events, moments = np.arange(1.0, 9), np.ones(8, bool), np.arange(0.5, 7)
    assert integrated_brier((times[:, None] > moments) * 1.0, moments, times, events) == 0
    assert integrated_brier(np.full((8, 7), 0.5), moments, times, events) == pytest.approx(0.25)


def test_scores_without_a_pair_or_a_moment_are_undefined() -> None:
    assert math.isnan(concordance(np.ones(2), np.ones(2), np.zeros(2, bool)))
    assert math.isnan(integrated_brier(np.ones((2, 1)), np.ones(1), np.ones(2), np.ones(2, bool)))


# the task


@pytest.mark.parametrize("objective", ["hazard", "cox"])
def test_predictions_fall_from_one_and_meet_the_curve_at_its_edges(objective: str) -> None:
    _, times, events = seen(samples=200)
    edges = task_of(times, events, intervals=4).spec.edges
    task = task_of(times, events, objective, 4, (1e-6, *edges))
    output = task(torch.randn(5, WIDTHS.embedding)).detach()
    found = task.predict(output)
    torch.testing.assert_close(found[:, 1], torch.ones(5), atol=1e-5, rtol=0)
    curves = task._curves(output)
    torch.testing.assert_close(found[:, 2:].double(), curves[:, 1:], atol=1e-5, rtol=1e-5)
    assert (found[:, 1:].diff(dim=1) <= 0).all()
    torch.testing.assert_close(found[:, 0].double(), curves[:, 0], atol=1e-6, rtol=1e-5)
    assert len(task.spec.titles) == found.shape[1]
    assert task.spec.titles[1] == "survival at 1e-06 months"


@pytest.mark.parametrize("broken", [0, 1])
def test_ratios_of_cox_rank_as_they_are_where_curves_have_come_to_zero(broken: int) -> None:
    _, times, events = seen(samples=200)
    task, ratios = task_of(times, events, "cox"), torch.randn(200, 1) * 100
    output = torch.cat([ratios, ratios + task.prior[1:]], dim=1)
    ratios[:broken], output[:broken] = torch.inf * (0.5 - events[0]), torch.nan  # as if the contrary had been said
    task.update(output, torch.from_numpy(targets_of(times, events)))
    assert float(task.compute()["cindex"]) == pytest.approx(concordance(ratios[:, 0].numpy(), times, events))


def test_the_risk_is_the_share_of_the_time_that_is_lost() -> None:
    spec = SurvivalSpec(
        channels=1, time_unit="months", edges=(1.0, 4.0), events=(1, 1), survivors=(1, 0), samples_seen=2
    )
    task = Survival(spec, WIDTHS)
    half = torch.zeros(1, 2)  # of those who reach an interval half survive it: 1, 1/2, 1/4 at its ends
    assert float(task.predict(half)[0, 0]) == pytest.approx((0.25 * 1 + 0.625 * 3) / 4)


@pytest.mark.parametrize("objective", ["hazard", "cox"])
def test_what_is_not_finite_ranks_last_and_the_chart_shows_three_groups(objective: str) -> None:
    _, times, events = seen()
    task, targets = task_of(times, events, objective), torch.from_numpy(targets_of(times, events))
    output = task.baseline(targets).clone()
    task.update(output, targets)
    assert float(task.compute()["cindex"]) == 0.5
    chart = task.chart()
    assert chart is not None
    assert len(chart.curves) == 3
    assert draw_chart(chart).width > 300
    task.reset()
    output[targets[:, 1] > 0] = torch.nan
    task.update(output, targets)
    expected = concordance(-1.0 * events, times, events)
    assert float(task.compute()["cindex"]) == pytest.approx(expected)


@pytest.mark.parametrize("objective", ["hazard", "cox"])
def test_one_event_is_enough_for_a_head(objective: str) -> None:
    times, events = np.array([3.0, 5.0]), np.array([True, False])
    task = task_of(times, events, objective)
    assert (task.spec.edges, task.spec.events, task.spec.survivors) == ((3.0,), (1,), (1,))  # type: ignore[attr-defined]
    output = task(torch.randn(2, WIDTHS.embedding))
    assert task.predict(output).shape == (2, 2)
    assert task.loss(output, torch.from_numpy(targets_of(times, events))).isfinite()


def test_an_objective_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="objective is 'Cox', but it must be hazard or cox"):
        Survival(survival_spec(), WIDTHS, "Cox")  # type: ignore[arg-type]


def test_a_time_after_the_last_event_is_refused() -> None:
    _, times, events = seen()
    with pytest.raises(ValueError, match=r"asked for at 99 months, but the last event.*Correct `times`"):
        task_of(times, events, at=(99.0,))


# the table


def write(folder: Path, rows: list[tuple[Any, Any]]) -> Path:
    for i in range(len(rows)):
        image(folder / f"{i}.png", i)
    file = folder / "table.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "time", "event"])
        writer.writerows([(f"{i}.png", *row) for i, row in enumerate(rows)])
    return file


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((-1, 1), r"line 2.*time is '-1', but it should be the months until.*from 0 on"),
        (("", 1), r"line 2.*time is '', but"),
        (("soon", 1), "time is 'soon'"),
        ((4, 2), r"event is '2', but it should be 1 where the event was seen, else 0"),
        ((4, ""), "event is ''"),
    ],
)
def test_a_cell_that_says_no_time_or_event_is_named(tmp_path: Path, row: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ManifestSurvival(write(tmp_path, [row, (3, 1)]), None, "months")


def test_a_part_without_an_event_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"All 3 times of this part are censored.*Add samples with an event"):
        ManifestSurvival(write(tmp_path, [(1, 0), (2, 0), (3, 0)]), None, "months")


def test_a_split_gives_every_part_its_share_of_events(tmp_path: Path) -> None:
    file = write(tmp_path, [(i + 1, int(i % 4 == 0)) for i in range(40)])
    parts = [Split(ManifestSurvival(file, None, "days"), part, (0.5, 0.25, 0.25)) for part in ("train", "val", "test")]
    seen = [int(part.targets[:, 1].sum()) for part in parts]  # type: ignore[index]
    assert seen == pytest.approx([5, 2.5, 2.5], abs=1)
    assert parts[0].spec == parts[1].spec
    assert sum(parts[0].spec.events) == seen[0]  # type: ignore[attr-defined]
