"""What is read from a curve of losses, and how it is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from umedpt_lightning.cli.lr_find import draw
from umedpt_lightning.drawing.figures import as_picture
from umedpt_lightning.training.lr_finder import RateCurve, diverged_at, moving_average, smooth, suggest

ROUNDS = 100
RATES = np.logspace(-6, 0, ROUNDS)


def curve_of(losses: np.ndarray, tasks: dict[str, list[float]] | None = None, end: str = "") -> RateCurve:
    return RateCurve(ROUNDS, RATES[: len(losses)].tolist(), losses.tolist(), tasks or {}, end)


def fall_and_rise(fall: float, rise: float, noise: float = 0.0) -> np.ndarray:
    """A loss that falls around one rate and explodes beyond another."""
    steps = 1 - 0.6 / (1 + (fall / RATES) ** 2) + (RATES / rise) ** 2
    return steps + noise * np.random.default_rng(0).standard_normal(ROUNDS)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("fall", [1e-5, 1e-4, 1e-3])
def test_the_suggestion_is_where_the_loss_falls_steepest(fall: float, noise: float) -> None:
    curve = curve_of(fall_and_rise(fall, 300 * fall, noise))
    found = suggest(curve)
    assert found.steepest is not None
    assert found.tenth is not None
    assert fall / 4 < found.steepest < fall * 4
    assert fall / 10 < found.tenth < fall * 10
    assert found.tenth == RATES[np.argmin(smooth(curve.losses, curve.decay))] / 10


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_no_descent(seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal(ROUNDS)
    found = suggest(curve_of(1 + 0.1 * noise))
    assert found.steepest is found.tenth is None
    assert "does not fall" in found.message


@pytest.mark.parametrize("losses", [np.ones(ROUNDS), np.linspace(1, 3, ROUNDS), np.ones(ROUNDS) - 1e-6 * RATES])
def test_without_descent_there_is_no_suggestion(losses: np.ndarray) -> None:
    found = suggest(curve_of(losses))
    assert found.steepest is None
    assert "--min_lr" in found.message


def test_a_loss_that_still_falls_at_the_end_asks_for_more() -> None:
    found = suggest(curve_of(np.linspace(1, 0.2, ROUNDS)))
    assert found.steepest is not None
    assert "--max_lr" in found.message


def test_nan_at_once_and_too_few_rounds_have_a_message() -> None:
    assert "before any step" in suggest(curve_of(np.array([math.nan]), end="the loss is not finite")).message
    early = suggest(curve_of(np.array([1.0, 1.0, math.inf]), end="the loss is not finite at 1e-6"))
    assert early.steepest is None
    assert "3 rounds" in early.message
    assert "not finite at 1e-6" in early.message


def test_what_explodes_last_does_not_move_the_suggestion() -> None:
    losses = fall_and_rise(1e-4, 3e-2)
    calm = suggest(curve_of(losses[:85]))
    losses[84] = 1e12
    wild = suggest(curve_of(losses[:85], end="diverged"))
    assert calm.steepest is not None
    assert wild.steepest == pytest.approx(calm.steepest, rel=0.2)


def test_moving_averages_are_without_bias_and_leave_out_what_is_missing() -> None:
    assert moving_average([2.0] * 5, 0.9) == pytest.approx([2.0] * 5)
    assert smooth([2.0, math.nan, 2.0, 2.0], 0.9) == pytest.approx([2.0] * 4)
    assert np.isnan(moving_average([math.nan, 1.0], 0.9)).tolist() == [True, False]
    values = 1 + 0.3 * np.random.default_rng(0).random(30)
    assert smooth(values.tolist(), 0.8)[::-1] == pytest.approx(smooth(values[::-1].tolist(), 0.8))
    assert np.std(smooth(values.tolist(), 0.8)) < np.std(values) / 2


def test_a_task_diverges_where_it_is_worse_than_at_the_beginning() -> None:
    tasks = {
        "early": fall_and_rise(1e-5, 1e-3).tolist(),
        "late": fall_and_rise(1e-4, 1e-1).tolist(),
        "never": np.linspace(1, 0.5, ROUNDS).tolist(),
    }
    curve = curve_of(np.ones(ROUNDS), tasks)
    early, late = diverged_at(curve, "early"), diverged_at(curve, "late")
    assert early is not None
    assert late is not None
    assert early < late
    assert diverged_at(curve, "never") is None


@pytest.mark.parametrize("rounds", [1, 40, ROUNDS])
def test_the_picture_shows_the_curves(rounds: int) -> None:
    losses = fall_and_rise(1e-4, 3e-2)[:rounds]
    losses[-1] = math.inf
    curve = curve_of(losses, {"_a": losses.tolist(), "b": [math.nan] * rounds}, "the loss is not finite")
    found = suggest(curve)
    figure = draw(curve, found)
    (axes,) = figure.axes
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines]
    assert np.array_equal(drawn[0][:, 1], smooth(curve.losses, curve.decay), equal_nan=True)
    assert np.array_equal(drawn[1], np.column_stack([curve.rates, losses]))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:4] == ["all tasks, smoothed", "all tasks", "_a", "b"]
    assert "ended: the loss is not finite" in axes.get_title(loc="left")
    if rounds == ROUNDS:
        assert found.steepest is not None
        assert drawn[4][:, 0].tolist() == [found.steepest] * 2
        assert f"steepest descent: {found.steepest:.2g}" in names
        assert axes.get_ylim()[1] < 2, "what diverges does not press the rest together"
    assert (np.asarray(as_picture(figure)) != 255).any(-1).mean() > 0.01
