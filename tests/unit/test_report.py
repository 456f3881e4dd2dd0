"""What a run ends with: the validation with the best score, whatever was undefined before it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from umedpt_lightning.callbacks.report import Report, _figure


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.5, 0.4], 2),
        ([math.nan, 0.1, 0.3, 0.2], 3),
        ([math.nan, math.nan, 0.1], 3),
        ([0.3, math.nan, 0.2], 1),
        ([math.nan, math.nan], 1),
        ([-0.5, -0.2], 2),
    ],
)
def test_the_best_score_is_kept_and_an_undefined_one_only_where_there_is_no_other(
    scores: list[float], best: int
) -> None:
    report = Report()
    for number, score in enumerate(scores, 1):
        trainer: Any = SimpleNamespace(
            sanity_checking=False,
            callback_metrics={"val/score": torch.tensor(score), "val/a/dice": torch.tensor(score)},
            global_step=number,
            state=SimpleNamespace(fn=TrainerFn.FITTING),
        )
        report.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
        resumed = Report()
        resumed.load_state_dict(report.state_dict())
        report = resumed
    kept = report.state_dict()["best"]
    assert kept["round"] == best
    assert kept["metrics"] == pytest.approx({"a/dice": scores[best - 1]}, nan_ok=True)


def test_small_errors_are_not_shown_as_none() -> None:
    assert [_figure(value) for value in (1.54e-6, 0.0, 0.0005, 0.8123)] == ["1.54e-06", "0.000", "0.001", "0.812"]
    assert [_figure(value, "+") for value in (2e-7, -0.25)] == ["+2e-07", "-0.250"]
    assert _figure(math.nan) == "nan"
